"""Tables of what was mined: a row a pool, a row a clip, the captions that it was mined by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kinemic.data.corpus import Corpus
from kinemic.mining import MiningResult
from kinemic.text_tfidf import content_stems


def best_captions(
    result: MiningResult, source: Corpus, label: int, captions: Sequence[str], first: int
) -> list[tuple[str, float, int]]:
    """Return a pool's best distinct captions: (caption, best similarity, clips that go by it).

    Of a clip's captions the one is taken that has most content words in common with the class's ``captions``.
    """
    words = {word for caption in captions for word in content_stems(caption)}
    pool = result.pools[label]
    found: dict[str, tuple[float, int]] = {}
    for i, similarity in zip(pool.indices, pool.similarities, strict=True):
        caption = max(source.captions[i], key=lambda text: len(words.intersection(content_stems(text))))
        best, clips = found.get(caption, (float(similarity), 0))
        found[caption] = (best, clips + 1)
    return [(caption, best, clips) for caption, (best, clips) in list(found.items())[:first]]


def pool_table(
    result: MiningResult, source: Corpus, classes: Sequence[str], class_captions: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Return one row per class: size, similarities, threshold, fallback, overlap with other classes, shared words.

    ``similarity_best`` is of the whole source, also for a pool that the floor leaves empty: its others are None.
    ``shared_words`` counts the pool's clips of which some caption has a content word in common with the class's: where
    it is low, similarity found something else than the words say.
    """
    overlap = result.overlap()
    rows = []
    for label, pool in enumerate(result.pools):
        words = {word for caption in class_captions[label] for word in content_stems(caption)}
        shared = sum(
            any(not words.isdisjoint(content_stems(caption)) for caption in source.captions[i]) for i in pool.indices
        )
        others = np.delete(overlap[label], label)
        closest = int(np.argsort(-others, kind="stable")[0]) if others.any() else None
        rows.append(
            {
                "class": classes[label],
                "captions": list(class_captions[label]),
                "clips": len(pool.indices),
                "similarity_best": pool.best,
                "similarity_mean": float(pool.similarities.mean()) if len(pool.similarities) else None,
                "similarity_last": float(pool.similarities[-1]) if len(pool.similarities) else None,
                "threshold_similarity": pool.threshold,
                "fallback": pool.fallback,
                "clamped": pool.clamped,
                "shared_words": int(shared),
                "in_other_pools": int(_in_others(result, label)),
                "most_shared_with": None if closest is None else [c for c in classes if c != classes[label]][closest],
            }
        )
    return rows


def clip_table(
    result: MiningResult, source: Corpus, classes: Sequence[str], first: int | None = None
) -> list[dict[str, Any]]:
    """Return one row per mined clip, best first in each class: class, rank, clip, similarity, captions."""
    return [
        {
            "class": classes[label],
            "rank": rank,
            "clip": source.names[i],
            "similarity": float(similarity),
            "captions": list(source.captions[i]),
        }
        for label, pool in enumerate(result.pools)
        for rank, (i, similarity) in enumerate(zip(pool.indices[:first], pool.similarities[:first], strict=True), 1)
    ]


def _in_others(result: MiningResult, label: int) -> int:
    others = [pool.indices for other, pool in enumerate(result.pools) if other != label]
    return int(np.isin(result.pools[label].indices, np.concatenate(others)).sum()) if others else 0
