"""Clips as training batches: a view of a corpus' packed features, normalised and padded only when a batch is drawn.

Shapes: N clips, B batch, T frames, F features, E text width. Frames run at 20 per second.
"""

# ruff: noqa: N815 - fields carry shape suffixes like every tensor here
from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinemic.device import to_host
from kinemic.errors import DataError
from kinemic.losses import length_mask
from kinemic.motion import Statistics
from kinemic.seeding import derive_seed

if TYPE_CHECKING:
    from kinemic.data.corpus import Corpus
    from kinemic.text import TextEncoder


@dataclass(frozen=True)
class Batch:
    """Clips side by side: z-scored features, zero beyond each clip's length; one caption embedding and label a clip."""

    x_BTF: Tensor
    lengths_B: Tensor
    text_BE: Tensor
    labels_B: Tensor


@dataclass(frozen=True)
class ClipSet:
    """Clips of a corpus with the embeddings of their captions; ``features`` stays the corpus' own (mapped) memory.

    ``starts`` (N,) and ``lengths`` (N,) say where clip i lies in ``features`` (frames, F). The captions of clip i are
    ``captions[caption_starts[i] : caption_starts[i] + caption_counts[i]]``, rows of ``text`` (captions, E).
    ``labels`` (N,) is -1 for a clip without a class. Clips longer than ``max_frames`` are cropped when drawn.
    """

    features: Tensor
    starts: Tensor
    lengths: Tensor
    labels: Tensor
    text: Tensor
    captions: Tensor
    caption_starts: Tensor
    caption_counts: Tensor
    mean_F: Tensor
    std_F: Tensor
    max_frames: int = 196

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        indices: Iterable[int],
        statistics: Statistics,
        encoder: TextEncoder,
        max_frames: int = 196,
    ) -> ClipSet:
        """Make the set of some clips of a corpus, z-scored by ``statistics`` (the source's).

        A labelled clip goes by its class's captions, so that training and generation see the same prompts, and any
        other by its own. Raises DataError for a clip without a caption, and for one that is not what was packed.
        """
        chosen = np.fromiter(indices, dtype=np.int64)
        corpus.check(chosen)
        by_class = corpus.class_captions
        captions = [_captions(corpus, by_class, int(i)) for i in chosen]
        vocabulary = {caption: row for row, caption in enumerate(dict.fromkeys(c for clip in captions for c in clip))}
        text = encoder.encode(list(vocabulary)) if vocabulary else np.empty((0, encoder.dim))
        counts = torch.tensor([len(clip) for clip in captions], dtype=torch.int64)
        return cls(
            features=_mapped(corpus.features),
            starts=torch.from_numpy(np.asarray(corpus.offsets[:-1], dtype=np.int64)[chosen]),
            lengths=torch.from_numpy(np.asarray(corpus.lengths, dtype=np.int64)[chosen]),
            labels=torch.from_numpy(np.asarray(corpus.labels, dtype=np.int64)[chosen]),
            text=torch.from_numpy(np.asarray(text, dtype=np.float32)),
            captions=torch.tensor([vocabulary[c] for clip in captions for c in clip], dtype=torch.int64),
            caption_starts=counts.cumsum(0) - counts,
            caption_counts=counts,
            mean_F=torch.as_tensor(statistics.mean_F, dtype=torch.float32),
            std_F=torch.as_tensor(statistics.std_F, dtype=torch.float32),
            max_frames=max_frames,
        )

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation that the set's clips are z-scored by."""
        return Statistics(to_host(self.mean_F).numpy(), to_host(self.std_F).numpy())

    def __len__(self) -> int:
        return self.lengths.shape[0]

    def text_of(self, label: int) -> Tensor:
        """Return the caption embeddings that clips of a class go by, (captions, E)."""
        first = int((self.labels == label).nonzero()[0])
        start, count = int(self.caption_starts[first]), int(self.caption_counts[first])
        return self.text[self.captions[start : start + count].to(self.device)]

    def batch(self, indices: Tensor, generator: torch.Generator | None = None, max_frames: int | None = None) -> Batch:
        """Draw clips as a batch on the set's device, padded to the longest of them.

        ``generator`` (on the CPU) chooses each clip's caption and, for one longer than ``max_frames`` (default: the
        set's), where it is cropped; None takes the first caption and the first frames.
        """
        limit = self.max_frames if max_frames is None else max_frames
        draws_2B = torch.rand(2, len(indices), generator=generator) if generator else torch.zeros(2, len(indices))
        full_B = self.lengths[indices]
        lengths_B = full_B.clamp_max(limit)
        starts_B = self.starts[indices] + (draws_2B[0] * (full_B - lengths_B + 1)).long()
        frames = int(lengths_B.max())
        rows_BT = starts_B[:, None] + torch.minimum(torch.arange(frames), (lengths_B - 1)[:, None])
        rows_BT, lengths_B = rows_BT.to(self.device), lengths_B.to(self.device)
        x_BTF = self.features[rows_BT].sub_(self.mean_F).div_(self.std_F)
        x_BTF *= length_mask(lengths_B, frames)[:, :, None]
        caption_B = self.caption_starts[indices] + (draws_2B[1] * self.caption_counts[indices]).long()
        text_BE = self.text[self.captions[caption_B].to(self.device)]
        return Batch(x_BTF, lengths_B, text_BE, self.labels[indices].to(self.device))

    @property
    def device(self) -> torch.device:
        """Where features and embeddings lie and batches come out; what says where to look always lies on the CPU."""
        return self.features.device

    def on_device(self, device: torch.device | str) -> ClipSet:
        """Return the set with its own clips copied to ``device``; on the CPU it stays as it is, over shared memory."""
        if torch.device(device).type == "cpu":
            return self
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return replace(
            self,
            features=torch.cat([self.features[start : start + frames] for start, frames in spans]).to(device),
            starts=self.lengths.cumsum(0) - self.lengths,
            text=self.text.to(device),
            mean_F=self.mean_F.to(device),
            std_F=self.std_F.to(device),
        )


def _mapped(features: np.ndarray) -> Tensor:
    """The packed features as a tensor over the same memory, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(features))


def endless_passes(clips: int, first: int, count: int, seed: int) -> Tensor:
    """Return places ``first`` .. ``first + count`` of an endless row of reshuffled passes over ``clips`` indices.

    A function of its arguments alone, so that training which stopped anywhere goes on with the same clips.
    """
    order = []
    for number in range(first // clips, -(-(first + count) // clips)):
        rng = torch.Generator().manual_seed(derive_seed(seed, "pass", number))
        order.append(torch.randperm(clips, generator=rng))
    return torch.cat(order)[first % clips :][:count]


def _captions(corpus: Corpus, by_class: Sequence[Sequence[str]], index: int) -> Sequence[str]:
    label = int(corpus.labels[index])
    captions = by_class[label] if label >= 0 and by_class else corpus.captions[index]
    if not captions:
        raise DataError(f"clip {corpus.names[index]} has no caption; every clip needs at least one: caption or drop it")
    return captions
