"""Clips with the faults that recordings come with: axes, sides, frame rates, units, dead and repeated frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kinemic.config import JointsReader
from kinemic.data.check import check_corpus
from kinemic.data.convert import frames_needed, joint_features
from kinemic.data.corpus import Clip
from kinemic.data.measures import Finding
from kinemic.data.raw import Item, Raw, ReadClip
from kinemic.motion import mirror_joints, resample

Joints = np.ndarray
MIRROR = np.array([-1, 1, 1])


def z_up(x: Joints) -> Joints:
    return np.stack([x[..., 0], -x[..., 2], x[..., 1]], axis=-1)


def frame_rate(fps: float) -> Callable[[Joints], Joints]:
    return lambda x: resample(x, 20.0, fps)


def repeated(x: Joints) -> Joints:
    """Return a clip of 15 fps that was brought to 20 by showing every third frame twice."""
    return x[np.sort(np.concatenate([np.arange(len(x)), np.arange(0, len(x), 3)]))]


# By fault: what becomes of every clip (or of every third one), and how the finding that names them begins.
EVERY: Mapping[str, tuple[Callable[[Joints], Joints], str]] = {
    "z up": (z_up, "head never above the feet"),
    "upside down": (lambda x: x * [1, -1, -1], "head never above the feet"),
    "y negated": (lambda x: x * [1, -1, 1], "head never above the feet"),
    "left and right swapped": (lambda x: mirror_joints(x) * MIRROR, "toes point away"),
    "x negated": (lambda x: x * MIRROR, "toes point away"),
    "z negated": (lambda x: x * [1, 1, -1], "toes point away"),
    "60 fps": (frame_rate(60), "frame rate"),
    "100 fps": (frame_rate(100), "frame rate"),
    "120 fps": (frame_rate(120), "frame rate"),
    "30 fps": (frame_rate(30), "clips of more than 210 frames"),
    "centimetres": (lambda x: x * 100, "scale: legs"),
}
SOME: Mapping[str, tuple[Callable[[Joints], Joints], str]] = {
    "zeros": (lambda x: x * 0, "no motion at all"),
    "one frame": (lambda x: x[:1].repeat(len(x), axis=0), "no motion at all"),
    "repeated frames": (repeated, "frames that repeat the one before"),
    "millimetres": (lambda x: x * 1000, "scale: legs"),
    "z up": EVERY["z up"],
    "left and right swapped": EVERY["left and right swapped"],
}


def spoil(clips: Sequence[Joints], fault: Callable[[Joints], Joints], every: int = 1) -> list[Joints]:
    """Return the clips with a fault in each ``every``-th of them."""
    return [fault(clip) if i % every == 0 else clip for i, clip in enumerate(clips)]


def complaints(clips: Sequence[Joints]) -> list[Finding]:
    """Return the findings, but for those that only inform, on clips as a reader of joints at 20 fps takes them."""
    reader = JointsReader(path=Path(), files=())

    def load(i: int) -> list[ReadClip]:
        features, frames = joint_features(clips[i][: frames_needed(reader.fps)], len(clips[i]), reader)
        return [ReadClip(Clip(f"clip-{i}", features, ("moves",)), frames)]

    items = [Item(f"clip-{i}", lambda i=i: load(i)) for i in range(len(clips))]  # type: ignore[misc]
    raw = Raw(Path(), "source", (), len(items), lambda: items, least=15)
    return [finding for finding in check_corpus(raw) if finding.level != "info"]


def complaint(clips: Sequence[Joints], start: str) -> Finding | None:
    """Return the finding that begins with ``start``."""
    return next((finding for finding in complaints(clips) if finding.what.startswith(start)), None)
