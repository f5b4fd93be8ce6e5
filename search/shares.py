"""What one trial takes of a cluster: a share of one node, since a trial can't reach over several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kinemic.errors import KinemicError
from search.config import ResourcesConfig

GPU_SHARE: Final = 0.25  # of a GPU a trial: the method's models are small, and four side by side keep one busy


@dataclass(frozen=True)
class Resources:
    """CPU cores and GPUs of a node, or of what runs there; they may be fractions."""

    cpus: float = 0
    gpus: float = 0

    def fits(self, other: Resources) -> bool:
        """Return whether ``other`` has at least as much of both."""
        return self.cpus <= other.cpus and self.gpus <= other.gpus

    def less(self, other: Resources) -> Resources:
        """Return what is left beside ``other``."""
        return Resources(max(0.0, self.cpus - other.cpus), max(0.0, self.gpus - other.gpus))

    def times_in(self, node: Resources) -> int:
        """Return how often this fits into a node side by side; nothing reaches over the edge of a GPU."""
        by_cpus = _floor(node.cpus / self.cpus)
        return min(by_cpus, sum(_floor(free / self.gpus) for free in node.each_gpu)) if self.gpus else by_cpus

    @property
    def each_gpu(self) -> list[float]:
        """What is free on each GPU: all of it, but for one of which a part is taken."""
        whole = _floor(self.gpus)
        part = self.gpus - whole
        return [1.0] * whole + [part] * (part > _ROUNDING)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Share:
    """What one trial takes, how many run at a time, and the share of one that ran out of memory, if there is more."""

    cpus: float
    gpus: float
    max_concurrent: int
    larger: Share | None = None


def describe(nodes: Sequence[Resources]) -> str:
    """Return a cluster's nodes in a few words, equal ones together."""
    if not nodes:
        return "no live node"
    kinds = {node: nodes.count(node) for node in nodes}
    return ", ".join(f"{count} x {node}" for node, count in kinds.items())


def asked(nodes: Sequence[Resources], config: ResourcesConfig) -> Resources:
    """Return what one trial asks for; what the configuration leaves open is decided by what the nodes have in all."""
    part_of_gpu = GPU_SHARE if any(node.gpus for node in nodes) else 0.0
    return Resources(
        1.0 if config.cpus is None else config.cpus,
        part_of_gpu if config.gpus is None else config.gpus,
    )


def divide(nodes: Sequence[Resources], trial: Resources, most: int | None = None) -> Share:
    """Return each trial's share of nodes where it asks for ``trial``, and at most ``most`` run at a time.

    Raises KinemicError where no node could hold even one.
    """
    if trial.gpus > 1:
        raise KinemicError(f"resources: gpus is {trial.gpus:g}, but a trial uses one GPU; give at most 1")
    holding = [node for node in nodes if trial.times_in(node)]
    if not holding:
        raise KinemicError(
            f"resources: a trial takes {trial} and no node of Ray has that much free: there are {describe(nodes)}; "
            "lower resources.cpus or resources.gpus"
        )
    fit = sum(trial.times_in(node) for node in holding)
    concurrent = min(fit, most or fit)
    larger = _larger_gpu(trial, concurrent, holding) if trial.gpus else _all_cpus(trial, concurrent, holding)
    return Share(trial.cpus, trial.gpus, concurrent, larger)


def _all_cpus(trial: Resources, concurrent: int, nodes: Sequence[Resources]) -> Share | None:
    """The largest node's CPUs, alone: without GPUs a share bounds no memory, so only company can be taken away."""
    side_by_side = min(concurrent, max(trial.times_in(node) for node in nodes))
    return Share(trial.cpus * side_by_side, 0.0, 1) if side_by_side > 1 else None


def _larger_gpu(trial: Resources, concurrent: int, nodes: Sequence[Resources]) -> Share | None:
    """Twice the GPU, at most a whole one, and so few at a time that each finds its room on one GPU.

    Small trials may lie anywhere: each GPU that could hold a larger one may just lack one slot for it.
    """
    gpus, there = min(1.0, 2 * trial.gpus), [free for node in nodes for free in node.each_gpu]
    if trial.gpus >= 1 or max(there) < gpus - _ROUNDING:
        return None
    slots = [_floor(free / trial.gpus) for free in there]
    parts = min(max(slots), math.ceil(gpus / trial.gpus - _ROUNDING))
    useless = [
        each if free < gpus - _ROUNDING else min(each, parts - 1) for free, each in zip(there, slots, strict=True)
    ]
    return Share(trial.cpus, gpus, max(1, concurrent // (sum(useless) + 1)))


def _floor(quotient: float) -> int:
    return math.floor(quotient + _ROUNDING)


_ROUNDING: Final = 1e-9  # 1 / 0.1 and the like
