"""Smooth joint-angle curves over an action's phase, and the style that makes every performance different."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kinemic.data.procedural_body import NUM_CHANNELS, Channel

Array = NDArray[np.float64]

MAX_DRAWS = 18  # style variables that one action may draw


@dataclass
class Style:
    """How one performer does one action this time: a row of standard normal numbers, read one by one.

    ``habit`` (0..1) is the share of a number's variance that the performer has in common over clips.
    """

    numbers: Array
    _next: int = field(default=0, init=False)

    @classmethod
    def of(cls, performer: Array, habit: float, rng: np.random.Generator) -> Style:
        """Mix a performer's own numbers (MAX_DRAWS) with this clip's."""
        return cls(math.sqrt(habit) * performer + math.sqrt(1 - habit) * rng.standard_normal(MAX_DRAWS))

    def draw(self, low: float, high: float) -> float:
        """Return the next style variable, uniform over performers and clips in [low, high]."""
        share = 0.5 * (1 + math.erf(self.numbers[self._next] / math.sqrt(2)))
        self._next += 1
        return low + (high - low) * share

    def count(self, low: int, high: int) -> int:
        """Return the next style variable as a whole number in low..high."""
        return min(high, int(self.draw(low, high + 1)))


class Curves:
    """Channels over the frames of one action; ``u`` is the phase of every frame, 0..1."""

    def __init__(self, frames: int, skew: float) -> None:
        self.u: Array = np.linspace(0.0, 1.0, frames) ** skew
        self.values: Array = np.zeros((frames, NUM_CHANNELS))

    def add(self, channel: Channel, curve: Array) -> None:
        """Add a curve (T) to a channel."""
        self.values[:, channel] += curve

    def keys(self, channel: Channel, *points: tuple[float, float]) -> None:
        """Add a curve through (phase, value) points, level at each."""
        phases, values = zip(*points, strict=True)
        self.add(channel, ease(self.u, phases, values))

    def hump(self, start: float, full: float, fall: float, end: float) -> Array:
        """Return a curve that rises from 0 to 1, holds, and falls back."""
        return hump(self.u, start, full, fall, end)


def hump(u: Array, start: float, full: float, fall: float, end: float) -> Array:
    """Return a curve over ``u`` that rises from 0 to 1, holds, and falls back."""
    return ease(u, (start, full, fall, end), (0, 1, 1, 0))


def ease(u: Array, phases: tuple[float, ...], values: tuple[float, ...]) -> Array:
    """Interpolate between points with a half cosine, so that speed is 0 at each."""
    place = np.clip(np.searchsorted(phases, u, side="right") - 1, 0, len(phases) - 2)
    low, high = np.asarray(phases)[place], np.asarray(phases)[place + 1]
    share = np.clip((u - low) / (high - low), 0, 1)
    smooth = 0.5 - 0.5 * np.cos(np.pi * share)
    start, stop = np.asarray(values, dtype=np.float64)[place], np.asarray(values, dtype=np.float64)[place + 1]
    eased: Array = start + (stop - start) * smooth
    return eased
