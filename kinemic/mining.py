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

    ``threshold`` is the similarity that the configured quantile stands for, ``best`` that of the source's closest clip.
    ``fallback``: the threshold left fewer than ``min_pool`` clips, and the best were taken instead; ``clamped``:
    ``top_k`` was above N. With a floor a pool may be empty.
    """

    indices: Indices
    similarities: NDArray[np.float32]
    threshold: float
    fallback: bool
    clamped: bool
    best: float


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


@dataclass(frozen=True)
class SourceCaptions:
    """The captions of the source, clip by clip: embeddings of unit length (n, E), place of each clip's first (N,).

    ``sentences`` (n,) are equal for captions that differ at most in case and spaces, and rise with the text.
    """

    embeddings: NDArray[np.float32]
    starts: Indices
    sentences: Indices

    @classmethod
    def of(cls, captions: Sequence[str], embeddings_nE: Floats, clip_of_caption: Indices) -> SourceCaptions:
        """Return the captions of all clips, each clip's side by side."""
        texts = [" ".join(caption.casefold().split()) for caption in captions]
        embeddings = np.asarray(embeddings_nE, dtype=np.float32)
        starts = np.flatnonzero(np.diff(clip_of_caption, prepend=-1))
        return cls(embeddings / _lengths(embeddings)[:, None], starts, np.unique(texts, return_inverse=True)[1])

    def closest(self, captions_QE: NDArray[np.float32]) -> Indices:
        """Return the sentence of each clip that is most similar to a class, (N,); of equal ones the first text."""
        similarity_n = (self.embeddings @ captions_QE.T).max(axis=1)
        best_N = np.maximum.reduceat(similarity_n, self.starts)
        best_n = np.repeat(best_N, np.diff(self.starts, append=len(similarity_n)))
        sentences = np.where(similarity_n >= best_n - ROUNDING, self.sentences, len(self.sentences))
        return np.asarray(np.minimum.reduceat(sentences, self.starts), dtype=np.int64)


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
    clip_embeddings_NE: Floats,
    clip_names: Sequence[str],
    queries: Sequence[Floats],
    config: MiningConfig,
    captions: SourceCaptions | None = None,
) -> MiningResult:
    """Mine one pool per class: the ``top_k`` clips of the largest cosine, those below the threshold left out.

    ``queries`` holds the caption embeddings of each class, (Q, E); a clip is as similar to a class as to the closest of
    its captions. Ties are broken by a hash of the clip's name, never by its place. A threshold is a quantile of the
    class's own similarities over the whole source. It can't leave a pool empty, but leaves it too small where fewer
    than ``min_pool`` clips (or ``top_k``, if less) remain: then the best so many are taken. No clip below the ``floor``
    is taken, whatever remains. Of clips that go by one sentence the best ``per_caption`` are; a clip goes by the one of
    its ``captions`` that is closest to the class, as that is why it is there. Raises DataError where widths differ, or
    there is no clip or no caption.
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
        sentences_N = None if config.per_caption == 0 or captions is None else captions.closest(captions_QE)
        pools.append(_pool(clips_NE, lengths_N, clip_names, rough_N, captions_QE, config, sentences_N))
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
    embeddings_nE = encoder.encode(captions)
    clips_NE = average_clip_embeddings(embeddings_nE, clip_of_caption)
    queries = [encoder.encode(list(c)) for c in class_captions]
    told = SourceCaptions.of(captions, embeddings_nE, clip_of_caption) if config.per_caption > 0 else None
    return mine(clips_NE, source.names, queries, config, told)


def _pool(
    clips_NE: NDArray[np.float32],
    lengths_N: NDArray[np.float32],
    names: Sequence[str],
    rough_N: NDArray[np.float32],
    captions_QE: NDArray[np.float32],
    config: MiningConfig,
    sentences_N: Indices | None,
) -> Pool:
    clips = len(rough_N)
    k = min(config.top_k, clips)
    threshold = float(np.quantile(rough_N, config.threshold) if config.threshold > 0 else rough_N.min())
    lowest = config.floor if config.floor > 0 else -np.inf
    if sentences_N is None:
        lowest = max(lowest, np.partition(rough_N, clips - k)[clips - k])
    near = np.flatnonzero(rough_N >= lowest - ROUNDING)
    near = near[np.argsort(-rough_N[near], kind="stable")]
    ranked, similarities = _settle_ties(near, rough_N[near], clips_NE, lengths_N, names, captions_QE)
    if sentences_N is not None:
        taken = _occurrences(sentences_N[ranked]) < config.per_caption
        ranked, similarities = ranked[taken], similarities[taken]
    ranked, similarities = ranked[:k], similarities[:k]
    kept = int((similarities >= threshold - ROUNDING).sum()) if config.threshold > 0 else len(ranked)
    least = min(config.min_pool, len(ranked))
    size = max(kept, least)
    return Pool(
        ranked[:size],
        similarities[:size].astype(np.float32),
        threshold,
        fallback=kept < least,
        clamped=config.top_k > clips,
        best=float(rough_N.max()),
    )


def _occurrences(values: Indices) -> Indices:
    """How often each value has come before, (K,)."""
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.diff(values[order], prepend=-1))
    found = np.empty_like(values)
    found[order] = np.arange(len(values)) - np.repeat(first, np.diff(first, append=len(values)))
    return found


def _settle_ties(
    near: Indices,
    rough: NDArray[np.float32],
    clips_NE: NDArray[np.float32],
    lengths_N: NDArray[np.float32],
    names: Sequence[str],
    captions_QE: NDArray[np.float32],
) -> tuple[Indices, NDArray[np.float64]]:
    """Reorder runs of clips within rounding of each other: by exact similarity, equal ones by the hash of the name."""
    group = np.cumsum(np.diff(rough, prepend=np.inf) < -ROUNDING)
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
    empty = [label for label, pool in enumerate(pools) if len(pool.indices) == 0]
    if empty:
        best = ", ".join(f"{label} ({pools[label].best:.2f})" for label in empty)
        warnings.append(
            f"mining.floor {config.floor:g}: no source clip is that similar to classes {best}: they mine nothing and "
            "get no synthetic clips"
        )
    return tuple(warnings)
