"""The same motion under two names, found by digests that are packed with each clip: no motion is read to compare them.

Of each clip there is the digest of its features as they are, and on each of three grids one of how it begins where
place, facing and side do not matter. Copies that were moved, turned, mirrored, encoded again or cut off behind share
the latter: noise that takes a coordinate over a line of one grid leaves it far from the lines of the others.
Legend: N clips, T frames, J joints; metres.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinemic.data.corpus import Corpus
from kinemic.digests import digest_bytes
from kinemic.errors import DataWarning, FirewallError
from kinemic.motion import features_to_joints, mirror_joints
from kinemic.skeleton import LEFT_HIP, RIGHT_HIP

Indices = NDArray[np.int64]
Pair = tuple[str, str]

GRIDS: Final = (1 / 6, 3 / 6, 5 / 6)  # where their lines lie, in cells; none runs through 0, where symmetric poses are
CELL_M: Final = 0.05
FRAMES: Final = (0, 5, 10, 15)  # the shortest clip that is packed has 16
JOINTS: Final = (7, 8, 15, 20, 21)  # ankles, head, wrists
_BLOCK = 1024  # clips at a time


@dataclass(frozen=True)
class Copies:
    """Pairs of names that hold the same motion: exactly, or moved, turned, mirrored or encoded again."""

    exact: tuple[Pair, ...]
    moved: tuple[Pair, ...]


def find_copies(one: Corpus, ones: Indices, other: Corpus, others: Indices) -> Copies:
    """Return which of ``others`` holds the motion of one of ``ones``, each with the first that it is a copy of."""
    exact = _pairs(one, ones, other, others, range(1))
    moved = _pairs(one, ones, other, others, range(1, 1 + len(GRIDS)))
    return Copies(tuple(exact), tuple(pair for pair in moved if pair not in exact))


def refuse_exact(copies: Copies, sides: tuple[str, str]) -> None:
    """Raise FirewallError, naming the clips of the first pair, where there are exact copies."""
    if copies.exact:
        first, second = copies.exact[0]
        raise FirewallError(
            f"{sides[1]} clip {second} is the same motion as {sides[0]} clip {first}, frame by frame "
            f"({len(copies.exact)} such pairs); leave one of each pair out of the split"
        )


def warn_of_moved(moved: Sequence[Pair], sides: tuple[str, str]) -> None:
    """Warn, naming the clips of the first pairs, where there are copies that were moved, turned or mirrored."""
    if moved:
        shown = ", ".join(f"{second} of {first}" for first, second in moved[:3])
        warnings.warn(
            f"{len(moved)} {sides[1]} clips begin as {sides[0]} clips do, but for place, facing or side: {shown}; "
            "are they copies?",
            DataWarning,
            stacklevel=2,
        )


def moved_digests(features: NDArray[np.float32], offsets: Indices) -> NDArray[np.uint64]:
    """Return the digests of packed clips on each grid, (N, grids)."""
    found = np.zeros((len(offsets) - 1, len(GRIDS)), np.uint64)
    places = np.minimum(np.arange(max(FRAMES) + 1), np.diff(offsets)[:, None] - 1) + offsets[:-1, None]
    for start in range(0, len(places), _BLOCK):
        joints_NTJ3 = features_to_joints(features[places[start : start + _BLOCK]])[:, list(FRAMES)].astype(np.float64)
        sides = [_cells(_turned(joints)) for joints in (joints_NTJ3, mirror_joints(joints_NTJ3))]
        for column, (own, mirrored) in enumerate(zip(*sides, strict=True)):
            for i in range(len(own)):
                smaller = min(digest_bytes(own[i]), digest_bytes(mirrored[i]))
                found[start + i, column] = int.from_bytes(smaller, "little")
    return found


def _turned(joints_NTJ3: NDArray[Any]) -> NDArray[np.float64]:
    """The chosen joints from the first pelvis, the first frame's hips along x: (N, T, J, 3)."""
    joints = np.asarray(joints_NTJ3, np.float64)
    joints = joints - joints[:, :1, :1]
    across = joints[:, 0, LEFT_HIP] - joints[:, 0, RIGHT_HIP]
    angle = np.arctan2(across[:, 2], across[:, 0])[:, None, None]
    sine, cosine = np.sin(angle), np.cos(angle)
    chosen = joints[:, :, list(JOINTS)]
    x, y, z = (chosen[..., axis] for axis in range(3))
    return np.stack([cosine * x + sine * z, y, cosine * z - sine * x], axis=-1)


def _cells(joints_NTJ3: NDArray[np.float64]) -> list[NDArray[np.int16]]:
    """The cell of every coordinate, on each grid."""
    steps = np.clip(joints_NTJ3 / CELL_M, -30_000, 30_000)
    return [np.ascontiguousarray(np.floor(steps + shift), np.int16) for shift in GRIDS]


def _pairs(one: Corpus, ones: Indices, other: Corpus, others: Indices, columns: range) -> list[Pair]:
    return list(dict.fromkeys(pair for column in columns for pair in _column(one, ones, other, others, column)))


def _column(one: Corpus, ones: Indices, other: Corpus, others: Indices, column: int) -> Iterator[Pair]:
    first: dict[int, int] = {}
    for i in map(int, ones):
        first.setdefault(int(one.digests[i, column]), i)
    for j in map(int, others):
        i = first.get(int(other.digests[j, column]), -1)
        if i >= 0 and one.names[i] != other.names[j]:
            yield one.names[i], other.names[j]
