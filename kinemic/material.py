"""What a trial works with: its opened inputs, the pools mined from them, the fine-tuning started on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kinemic.adapt import Adaptation
from kinemic.clips import ClipSet
from kinemic.config import MiningConfig, TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.data.splits import TrialData, load_trial_data
from kinemic.mining import MiningResult, mine_corpus
from kinemic.prior import Prior, load_prior
from kinemic.report import TrialInputs
from kinemic.text import CachedEncoder, TextEncoder, load_encoder

MAX_FRAMES = 196  # longer clips are cropped, as in HumanML3D; a prior that has seen only shorter ones sees no longer


@dataclass(frozen=True)
class Material:
    """The opened inputs of a trial."""

    data: TrialData
    source: Corpus
    prior: Prior
    encoder: TextEncoder

    @classmethod
    def open(cls, inputs: TrialInputs, device: str) -> Material:
        """Open and check every input. Raises FirewallError, DataError or CheckpointError."""
        data = load_trial_data(inputs.trial_data)
        encoder = CachedEncoder(load_encoder(inputs.encoder, device), inputs.cache)
        return cls(data, Corpus.open(inputs.source), load_prior(inputs.prior, encoder.id, encoder.dim), encoder)

    @property
    def condition_encoder(self) -> TextEncoder:
        """The encoder as the prior was trained with it: its captions may be cut, those that are mined by never are."""
        return self.encoder.limited(self.prior.caption_tokens)

    @property
    def max_frames(self) -> int:
        """Frames that a clip is cropped to: no more than the prior was trained on."""
        return min(MAX_FRAMES, self.prior.max_frames or MAX_FRAMES)

    @property
    def few_shot_lengths(self) -> list[list[int]]:
        """Frames of the few shots, by class: the only lengths that synthesis may know."""
        corpus, train = self.data.corpus, self.data.train
        return [
            [min(int(corpus.lengths[i]), self.max_frames) for i in train if corpus.labels[i] == c]
            for c in range(len(corpus.classes))
        ]

    def class_text(self) -> list[torch.Tensor]:
        """Caption embeddings of each class that the generator is conditioned on, (prompts, E)."""
        encoder = self.condition_encoder
        return [torch.from_numpy(encoder.encode(list(c))) for c in self.data.corpus.class_captions]


def mine_pools(material: Material, config: MiningConfig) -> MiningResult:
    """Mine the source for each class's soft positives by caption similarity (METHOD section 2)."""
    return mine_corpus(material.source, material.data.corpus.class_captions, material.encoder, config)


def start_adaptation(
    material: Material, mined: MiningResult | None, config: TrialConfig, seeds: TrialSeeds, device: str
) -> Adaptation:
    """Return the fine-tuning of the two streams at step 0, holding only the source clips that its pools name.

    Few shots of a class whose pool is empty are left out.
    """
    data, statistics = material.data, material.prior.statistics
    encoder, frames = material.condition_encoder, material.max_frames
    pools: list[np.ndarray] = [pool.indices for pool in mined.pools] if mined else []
    shots = [i for i in data.train if not pools or len(pools[data.corpus.labels[i]])]
    few_shot = ClipSet.build(data.corpus, shots, statistics, encoder, frames)
    used = np.unique(np.concatenate(pools)) if pools else np.empty(0, np.int64)
    source = ClipSet.build(material.source, used, statistics, encoder, frames)
    local = [np.searchsorted(used, pool) for pool in pools]
    return Adaptation(material.prior, few_shot, source, local, config.loss, config.adapt, seeds.adaptation, device)
