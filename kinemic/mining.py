"""Soft positives: for each target class, the source clips whose captions come closest to its own (METHOD section 2).

Legend: N source clips, n captions, E embedding width, C classes, Q captions of one class, K clips of a pool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import MiningConfig
from kinemic.errors import DataError

if TYPE_CHECKING:
    from kinemic.data.corpus import Corpus
    from kinemic.text import TextEncoder

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

# Float32 rounding of a matrix product depends on the row's place, at most about this much; what lies within it of a
# limit is computed again, row by row in float64, so that neither pools nor their order depend on the file order.
ROUNDING = 5e-7


@dataclass(frozen=True)
class Pool:
    """The soft positives of one class, best first: indices into the source and cosine similarities, both (K,).

    ``threshold`` is the similarity that the configured quantile stands for. ``fallback``: the threshold left fewer than
    ``min_pool`` clips, and the best were taken instead; ``clamped``: ``top_k`` was above N.
    """

    indices: Indices
    similarities: NDArray[np.float32]
    threshold: float
    fallback: bool
    clamped: bool


@dataclass(frozen=True)
class MiningResult:
    """One pool a class, and what a user should know of them, one line each."""

    pools: tuple[Pool, ...]
    warnings: tuple[str, ...] = ()

    @property
    def fallbacks(self) -> int:
        """How many pools fell back to the best ``min_pool`` clips."""
        return sum(pool.fallback for pool in self.pools)

    def overlap(self) -> NDArray[np.int64]:
        """Return how many clips each two classes share, (C, C); the diagonal is the pools' sizes."""
        sets = [set(pool.indices.tolist()) for pool in self.pools]
        return np.array([[len(a & b) for b in sets] for a in sets], dtype=np.int64)


def average_clip_embeddings(embeddings_nE: Floats, clip_of_caption: Indices) -> NDArray[np.float32]:
    """Return m_i of every clip (N, E): the mean of its captions' embeddings, each of unit length before, not after.

    ``clip_of_caption`` (n,) names each caption's clip and rises from 0 to N - 1. Raises DataError for a clip without a
    caption.
    """
    clips = np.asarray(clip_of_caption)
    if len(clips) == 0 or len(clips) != len(embeddings_nE):
        raise DataError(f"mining: expected one clip for each of {len(embeddings_nE)} captions, got {len(clips)}")
    counts = np.bincount(clips)
    if (np.diff(clips) < 0).any():
        raise DataError("mining: captions must come in the order of their clips")
    if not counts.all():
        raise DataError(f"mining: source clip {int(np.argmin(counts))} has no caption; caption or drop it")
    unit_nE = np.asarray(embeddings_nE, dtype=np.float32)
    unit_nE = unit_nE / _lengths(unit_nE)[:, None]
    sums_NE = np.add.reduceat(unit_nE, np.cumsum(counts) - counts, axis=0)
    return np.asarray(sums_NE / counts[:, None], dtype=np.float32)


def mine(
    clip_embeddings_NE: Floats, clip_names: Sequence[str], queries: Sequence[Floats], config: MiningConfig
) -> MiningResult:
    """Mine one pool per class: the ``top_k`` clips of the largest cosine, those below the threshold left out.

    ``queries`` holds the caption embeddings of each class, (Q, E); a clip is as similar to a class as to the closest of
    its captions. Ties are broken by a hash of the clip's name, never by its place. A threshold is a quantile of the
    class's own similarities over the whole source. It can't leave a pool empty, but leaves it too small where fewer
    than ``min_pool`` clips (or ``top_k``, if less) remain: then the best so many are taken. Raises DataError where
    widths differ, or there is no clip or no caption.
    """
    clips_NE = np.ascontiguousarray(clip_embeddings_NE, dtype=np.float32)
    _check(clips_NE, clip_names, queries)
    lengths_N = _lengths(clips_NE)
    unit = [q / _lengths(q)[:, None] for q in (np.asarray(q, dtype=np.float32) for q in queries)]
    rough_MN = np.concatenate(unit) @ clips_NE.T  # every caption of every class at once
    rough_MN /= lengths_N
    pools, place = [], 0
    for captions_QE in unit:
        rough_N = rough_MN[place : place + len(captions_QE)].max(axis=0)
        pools.append(_pool(clips_NE, lengths_N, clip_names, rough_N, captions_QE, config))
        place += len(captions_QE)
    return MiningResult(tuple(pools), _warnings(pools, len(clips_NE), config))


def mine_corpus(
    source: Corpus, class_captions: Sequence[Sequence[str]], encoder: TextEncoder, config: MiningConfig
) -> MiningResult:
    """Mine a source corpus for classes given by their captions. Raises DataError as the parts do."""
    captions = [caption for clip in source.captions for caption in clip]
    clip_of_caption = np.repeat(np.arange(len(source)), [len(clip) for clip in source.captions])
    bare = set(range(len(source))) - set(clip_of_caption.tolist())
    if bare:
        raise DataError(
            f"source clip {source.names[min(bare)]} has no caption ({len(bare)} have none); caption or drop it"
        )
    clips_NE = average_clip_embeddings(encoder.encode(captions), clip_of_caption)
    return mine(clips_NE, source.names, [encoder.encode(list(c)) for c in class_captions], config)


def best_captions(
    result: MiningResult, source: Corpus, label: int, captions: Sequence[str], first: int
) -> list[tuple[str, float, int]]:
    """Return a pool's best distinct captions: (caption, best similarity, clips that go by it).

    Of a clip's captions the one is taken that has most content words in common with the class's ``captions``.
    """
    from kinemic.text_tfidf import content_stems

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

    ``shared_words`` counts the pool's clips of which some caption has a content word in common with the class's: where
    it is low, similarity found something else than the words say.
    """
    from kinemic.text_tfidf import content_stems

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
                "similarity_best": float(pool.similarities[0]),
                "similarity_mean": float(pool.similarities.mean()),
                "similarity_last": float(pool.similarities[-1]),
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


def _pool(
    clips_NE: NDArray[np.float32],
    lengths_N: NDArray[np.float32],
    names: Sequence[str],
    rough_N: NDArray[np.float32],
    captions_QE: NDArray[np.float32],
    config: MiningConfig,
) -> Pool:
    clips = len(rough_N)
    k = min(config.top_k, clips)
    threshold = float(np.quantile(rough_N, config.threshold) if config.threshold > 0 else rough_N.min())
    limit = np.partition(rough_N, clips - k)[clips - k] - ROUNDING
    near = np.flatnonzero(rough_N >= limit)
    near = near[np.argsort(-rough_N[near], kind="stable")]
    ranked, similarities = _settle_ties(near, rough_N[near], clips_NE, lengths_N, names, captions_QE)
    ranked, similarities = ranked[:k], similarities[:k]
    kept = int((similarities >= threshold - ROUNDING).sum()) if config.threshold > 0 else k
    least = min(config.min_pool, k)
    size = max(kept, least)
    return Pool(ranked[:size], similarities[:size].astype(np.float32), threshold, kept < least, config.top_k > clips)


def _settle_ties(
    near: Indices,
    rough: NDArray[np.float32],
    clips_NE: NDArray[np.float32],
    lengths_N: NDArray[np.float32],
    names: Sequence[str],
    captions_QE: NDArray[np.float32],
) -> tuple[Indices, NDArray[np.float64]]:
    """Reorder runs of clips within rounding of each other: by exact similarity, equal ones by the hash of the name."""
    group = np.cumsum(np.concatenate([[True], rough[:-1] - rough[1:] > ROUNDING]))
    tied = np.flatnonzero(np.bincount(group)[group] > 1)
    exact = rough.astype(np.float64)
    hashes = np.zeros(len(near), dtype=np.uint64)
    if len(tied):
        rows = clips_NE[near[tied], None].astype(np.float64)
        exact[tied] = (rows * captions_QE).sum(axis=2).max(axis=1) / lengths_N[near[tied]]
        hashes[tied] = [_name_hash(names[i]) for i in near[tied]]
    order = np.lexsort((hashes, -exact, group))
    return near[order], exact[order]


def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _lengths(rows_nE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean length of each row (n,); 1 for a row of zeros, which then is similar to nothing."""
    lengths = np.sqrt(np.einsum("ne,ne->n", rows_nE, rows_nE))
    return np.where(lengths > 0, lengths, np.float32(1))


def _check(clips_NE: NDArray[np.float32], names: Sequence[str], queries: Sequence[Floats]) -> None:
    if clips_NE.ndim != 2 or len(clips_NE) == 0 or len(names) != len(clips_NE):
        raise DataError(
            f"mining: expected embeddings (clips, width) and their names, got {clips_NE.shape}, {len(names)}"
        )
    for label, query in enumerate(queries):
        if np.ndim(query) != 2 or len(query) == 0 or np.shape(query)[1] != clips_NE.shape[1]:
            raise DataError(
                f"mining: class {label} needs captions of shape (1 or more, {clips_NE.shape[1]}), got {np.shape(query)}"
            )


def _warnings(pools: Sequence[Pool], clips: int, config: MiningConfig) -> tuple[str, ...]:
    warnings = []
    if config.top_k > clips:
        warnings.append(f"mining.top_k {config.top_k} is above the source's {clips} clips: every clip is taken")
    few = [str(label) for label, pool in enumerate(pools) if pool.fallback]
    if few:
        warnings.append(
            f"mining.threshold {config.threshold:g} leaves fewer than {config.min_pool} clips in classes "
            f"{', '.join(few)}: the best {len(pools[int(few[0])].indices)} are taken"
        )
    return tuple(warnings)


def _in_others(result: MiningResult, label: int) -> int:
    others = [pool.indices for other, pool in enumerate(result.pools) if other != label]
    return int(np.isin(result.pools[label].indices, np.concatenate(others)).sum()) if others else 0
