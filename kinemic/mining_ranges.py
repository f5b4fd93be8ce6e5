"""How far a search of the mining settings need go: read off the similarity curves of the classes at hand.

Legend: N source clips, C classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kinemic.config import MiningConfig
from kinemic.data.corpus import Corpus
from kinemic.data.splits import load_trial_data
from kinemic.mining import ROUNDING, Pool, mine_corpus
from kinemic.report import MiningRanges, TrialInputs
from kinemic.text import CachedEncoder, TextEncoder, load_encoder

CLOSE = 0.8  # of the way from a class's usual similarity to its best; below it, captions read as of other actions
LEAST_TOP_K = 16  # a range that is worth a search, if most classes have less support
HIGHEST_FLOOR = 0.99  # captions may be those of the classes, word for word, and a floor is below 1


def ranges_of(inputs: TrialInputs) -> MiningRanges:
    """Return the ranges for the inputs of a search. Raises DataError or CheckpointError as opening them does."""
    encoder = CachedEncoder(load_encoder(inputs.encoder), inputs.cache)
    captions = load_trial_data(inputs.trial_data).corpus.class_captions
    return mining_ranges(Corpus.open(inputs.source), captions, encoder)


def mining_ranges(source: Corpus, class_captions: Sequence[Sequence[str]], encoder: TextEncoder) -> MiningRanges:
    """Return the ranges for a source corpus and classes given by their captions. Raises DataError as mining does."""
    curves = mine_corpus(source, class_captions, encoder, MiningConfig(top_k=len(source))).pools
    top_k = min(max(math.ceil(np.median([_close(curve) for curve in curves])), LEAST_TOP_K), len(source))
    reached = min(float(curve.similarities[top_k - 1]) for curve in curves)
    best = float(np.median([curve.best for curve in curves]))
    alike = [Counter(source.captions[i] for i in curve.indices[:top_k]).most_common(1)[0][1] for curve in curves]
    # Two digits: embeddings of another machine round otherwise, and must give the same space.
    floor_low = min(max(math.floor(reached * 100) / 100, 0.0), HIGHEST_FLOOR)
    floor_high = min(max(round(best, 2), floor_low), HIGHEST_FLOOR)
    return MiningRanges(top_k, max(alike), floor_low, floor_high)


def _close(curve: Pool) -> int:
    usual = float(np.median(curve.similarities))
    return int((curve.similarities >= usual + CLOSE * (curve.best - usual) - ROUNDING).sum())
