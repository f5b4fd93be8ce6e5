"""The judge's named profiles: a model of fixed size, what its batches hold, and how it is optimised.

Shapes: N clips, of which the first ``real`` are real.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from kinemic.config import JudgeProfile
from kinemic.models.stgcn import STGCN
from kinemic.models.temporal import TemporalCNN

Network = STGCN | TemporalCNN  # both have ``features`` and a classifying layer ``fc_cls``


@dataclass(frozen=True)
class STGCNSize:
    """Size of an ST-GCN; ``widened`` are the stages that double the width and halve the frames."""

    base_channels: int
    stages: int
    widened: tuple[int, ...]
    by_joint: bool = False
    dropout: float = 0.0

    def build(self, classes: int, seed: int) -> Network:
        """Return it untrained."""
        return STGCN(
            self.base_channels,
            self.stages,
            classes,
            inflate_stages=self.widened,
            down_stages=self.widened,
            by_joint=self.by_joint,
            dropout=self.dropout,
            seed=seed,
        )


@dataclass(frozen=True)
class TemporalSize:
    """Size of a temporal classifier: channels and stride of each layer."""

    channels: tuple[int, ...] = (64, 64, 128)
    strides: tuple[int, ...] = (1, 2, 2)

    def build(self, classes: int, seed: int) -> Network:
        """Return it untrained."""
        return TemporalCNN(classes, channels=self.channels, strides=self.strides, seed=seed)


@dataclass(frozen=True)
class Epochs:
    """Batches of all clips alike (METHOD section 5): every epoch sees each ``repeat`` times, real or not."""

    count: int
    repeat: int
    batch_size: int

    def updates(self, clips: int) -> int:
        """Return how many batches there are in all."""
        return self.count * len(self._sizes(clips))

    def rounds(self, clips: int, real: int, generator: torch.Generator) -> Iterator[Sequence[Tensor]]:
        """Yield the batches of each epoch, as indices of clips."""
        sizes = self._sizes(clips)
        for _ in range(self.count):
            yield [each % clips for each in torch.split(torch.randperm(sum(sizes), generator=generator), sizes)]

    def _sizes(self, clips: int) -> list[int]:
        """Clips in each batch of an epoch, all alike: batch norm suffers from a small last one."""
        total = clips * self.repeat
        count = math.ceil(total / self.batch_size)
        return [total // count + (n < total % count) for n in range(count)]


@dataclass(frozen=True)
class Updates:
    """``count`` batches of at most ``real`` real clips and at most ``others``.

    However many clips are generated, each real one is seen equally often, and training takes as many updates.
    """

    count: int = 200
    real: int = 16
    others: int = 32
    per_round: int = 20

    def updates(self, clips: int) -> int:
        """Return how many batches there are in all."""
        return self.count

    def rounds(self, clips: int, real: int, generator: torch.Generator) -> Iterator[Iterator[Tensor]]:
        """Yield some batches at a time, as indices of clips."""
        ours = _in_turn(real, self.real, generator)
        others = _in_turn(clips - real, self.others, generator)
        for first in range(0, self.count, self.per_round):
            number = min(self.per_round, self.count - first)
            yield (torch.cat([next(ours), real + next(others)]) for _ in range(number))


def _in_turn(clips: int, most: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield at most ``most`` of the clips at a time, for ever; all are drawn equally often, in random order."""
    order, size = torch.arange(0), min(clips, most)
    while True:
        if len(order) < size:
            order = torch.cat([order, torch.randperm(clips, generator=generator)])
        yield order[:size]
        order = order[size:]


@dataclass(frozen=True)
class NesterovCosine:
    """SGD with Nesterov momentum, its rate along a cosine to 0 (METHOD section 5)."""

    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def start(self, model: nn.Module, updates: int) -> tuple[Optimizer, LRScheduler]:
        """Return optimiser and schedule of a model."""
        optimiser = SGD(model.parameters(), self.rate, self.momentum, weight_decay=self.weight_decay, nesterov=True)
        return optimiser, CosineAnnealingLR(optimiser, updates)


@dataclass(frozen=True)
class AdamOneCycle:
    """AdamW, its rate rising to ``rate`` and falling to almost 0 (Smith and Topin, arXiv 1708.07120)."""

    rate: float = 4e-3
    weight_decay: float = 1e-2

    def start(self, model: nn.Module, updates: int) -> tuple[Optimizer, LRScheduler]:
        """Return optimiser and schedule of a model."""
        optimiser = AdamW(model.parameters(), self.rate, weight_decay=self.weight_decay)
        return optimiser, OneCycleLR(optimiser, self.rate, updates)


@dataclass(frozen=True)
class Profile:
    """One kind of judge. ``frames`` are those that a clip is resampled to."""

    size: STGCNSize | TemporalSize
    frames: int
    batches: Epochs | Updates
    optimiser: NesterovCosine | AdamOneCycle
    max_generated_per_class: int | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """What the weights and their inputs depend on, as JSON values."""
        sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.size).items()}
        return {"model": type(self.size).__name__.removesuffix("Size"), **sizes, "frames": self.frames}


PROFILES: Final[dict[JudgeProfile, Profile]] = {
    "published": Profile(STGCNSize(64, 10, (5, 8)), 100, Epochs(20, repeat=4, batch_size=64), NesterovCosine()),
    "temporal": Profile(TemporalSize(), 48, Updates(), AdamOneCycle(), max_generated_per_class=20),
    # Joints are kept apart to the last layer. With their mean, as published, the same network stays at 0.87 to 0.89
    # whatever its depth, rate or statistics (UTD-MHAD, 10 classes, 5 shots, dev, one seed), without at 0.93 to 0.97.
    "stgcn": Profile(
        STGCNSize(16, 3, (1, 2), by_joint=True, dropout=0.5), 48, Updates(), AdamOneCycle(), max_generated_per_class=20
    ),
    # A dry run: whether every part works with these data, in a tenth of a second. Its accuracy means nothing.
    "smoke": Profile(TemporalSize((8, 8, 16)), 16, Updates(40), AdamOneCycle()),
}
