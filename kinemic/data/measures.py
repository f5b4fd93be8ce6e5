"""What the joints of clips tell of a set: frame rate, unit, axes, sides, floor, bones, dead and repeated frames.

Legend: T frames, J = 22 joints, 20 fps, metres. Limits are wide around recordings from optical mocap, Kinect and video
(nine public sets): what lies outside is worth a look, and a warning, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinemic.data.corpus import Clip
from kinemic.motion import features_to_joints
from kinemic.skeleton import BONES, FPS, LEFT_HIP, LEFT_SHOULDER, RIGHT_HIP, RIGHT_SHOULDER, VELOCITIES

Level = Literal["error", "warning", "info"]

END_JOINTS = (7, 8, 10, 11, 20, 21)  # ankles, feet, wrists: what moves fastest
ANKLES, FEET, HEAD = [7, 8], [10, 11], 15
SPEED_MS = (1.2, 5.0)  # median over clips of the 95th percentile of their end joints' speed; public sets: 1.6..3.05
CLIP_SPEED_MS = 20.0  # the same of one clip; a fast kick is about 10, public sets have up to 15
LIMBS = (4, 5, 7, 8, 18, 19, 20, 21)  # thighs, shins, arms, by their far joints: long enough to be measured in noise
BONE_VARIATION = 0.15  # spread over mean of a limb's length in a clip; 0.002 where bones are rigid
FLOOR_M = 0.10  # mean of a clip's 20 lowest joint heights, from 0
LEG_M = (0.5, 1.2)  # hip to ankle along the bones; outside, the unit is not the metre
UPRIGHT = 1.0  # most that a clip's head is above its ankles, in legs: 1.6..1.9, where y is not up -1.8..0.8
SHARE = (
    0.05  # of clips that may be like that: some people lie, some Kinect feet point anywhere; public sets: up to 0.02
)
STILL_M = 1e-3  # way that any joint goes in a clip; people who stand still go 30 times that
SAME_M = 1e-5  # way that any joint goes in a frame that is its neighbour once more
RATE_ADVICE = "; is it 20 fps? else give `fps`"
REPEATED = 0.2  # share of such frames in a clip; 0.11 where a recording stood still, 0.25 from 15 fps to 20


@dataclass(frozen=True)
class Finding:
    """One line of a check: how bad, what, how many clips (or subjects, or classes), and the first.

    ``clips`` are all clips of it, with ``reasons`` of their own where they have some.
    """

    level: Level
    what: str
    count: int
    example: str = ""
    clips: tuple[str, ...] = field(default=(), compare=False)
    reasons: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Measures:
    """What one clip's joints tell; ``facing`` is how far its toes point along its facing, -1..1."""

    name: str
    speed: float
    bone_variation: float
    floor: float
    leg: float
    upright: float
    facing: float
    still: bool
    repeated: float


def measure(clip: Clip) -> Measures:
    """Return the measures of a sound clip."""
    joints_TJ3 = features_to_joints(clip.features_TF)
    steps = np.linalg.norm(np.diff(joints_TJ3[:, END_JOINTS], axis=0), axis=-1)
    parents, children = np.array(BONES).T
    bones_TB = np.linalg.norm(joints_TJ3[:, children] - joints_TJ3[:, parents], axis=-1)
    leg = float(bones_TB[:, np.isin(children, LIMBS[:4])].mean(axis=0).sum() / 2)
    low_B, middle_B, high_B = np.quantile(bones_TB[:, np.isin(children, LIMBS)], (0.05, 0.5, 0.95), axis=0)
    head_T = joints_TJ3[:, HEAD, 1] - joints_TJ3[:, ANKLES, 1].mean(axis=1)
    return Measures(
        name=clip.name,
        speed=float(np.quantile(steps, 0.95) * FPS) if len(steps) else 0.0,
        # Of a normal distribution 90 % lie within 3.29 deviations; a joint that jumps now and then is no rubber bone.
        bone_variation=float(((high_B - low_B) / 3.29 / np.maximum(middle_B, 1e-6)).max()),
        floor=float(np.sort(joints_TJ3[..., 1], axis=None)[:20].mean()),
        leg=leg,
        upright=float(head_T.max() / max(leg, 1e-6)),
        facing=_facing(joints_TJ3),
        still=float(np.ptp(joints_TJ3, axis=0).max()) < STILL_M,
        repeated=_repeated(clip.features_TF),
    )


def implausible(measures: Sequence[Measures]) -> list[Finding]:
    """Return the findings on the measures of a set, what is judged clip by clip with all clips of it."""
    still = [m for m in measures if m.still]
    moving = [m for m in measures if not m.still]
    odd = [m for m in moving if not LEG_M[0] <= m.leg <= LEG_M[1]]
    good = [m for m in moving if LEG_M[0] <= m.leg <= LEG_M[1]]
    lying = [m for m in moving if m.upright < UPRIGHT]
    backward = [m for m in moving if m.upright >= UPRIGHT and m.facing < 0]
    return [
        *_rate(good),
        *_listed("no motion at all, every frame alike or zero", still),
        *_listed(
            f"frames that repeat the one before, over {REPEATED:.0%} of the clip", _over(moving, "repeated", REPEATED)
        ),
        *_listed(
            f"scale: legs outside {LEG_M[0]:g}..{LEG_M[1]:g} m; are all of them metres? else give `units`", odd, "leg"
        ),
        *_shared("head never above the feet: is y up? else give `up`", lying, len(moving), "upright"),
        *_shared(
            "toes point away from where hips and shoulders face: left and right swapped, or one axis negated?",
            backward,
            len(moving),
            "facing",
        ),
        *_listed(f"a hand or foot faster than {CLIP_SPEED_MS:g} m/s", _over(good, "speed", CLIP_SPEED_MS), "speed"),
        *_listed(
            f"bone lengths vary by more than {BONE_VARIATION:.0%}",
            _over(moving, "bone_variation", BONE_VARIATION),
            "bone_variation",
        ),
        *_listed(
            f"lowest joints more than {FLOOR_M:g} m off the floor",
            [m for m in good if abs(m.floor) > FLOOR_M],
            "floor",
        ),
    ]


def _rate(measures: Sequence[Measures]) -> list[Finding]:
    if not measures:
        return []
    speed = float(np.median([m.speed for m in measures]))
    sound = SPEED_MS[0] <= speed <= SPEED_MS[1]
    what = (
        f"frame rate: hands and feet reach {speed:.2f} m/s (95th percentile a clip, median of clips), expected "
        f"{SPEED_MS[0]:g}..{SPEED_MS[1]:g}"
    )
    return [Finding("info" if sound else "warning", what + ("" if sound else RATE_ADVICE), len(measures))]


def _shared(what: str, found: Sequence[Measures], total: int, key: str) -> list[Finding]:
    """A warning where more clips are like that than a sound set may hold, else only told."""
    return _listed(what, found, key, "warning" if len(found) > SHARE * total else "info")


def _listed(what: str, found: Sequence[Measures], key: str = "", level: Level = "warning") -> list[Finding]:
    """A finding on clips, the worst of them first; none where there is no clip."""
    if not found:
        return []
    worst = max(found, key=lambda m: abs(getattr(m, key))) if key else found[0]
    shown = f"{worst.name} ({getattr(worst, key):.3g})" if key else worst.name
    return [Finding(level, what, len(found), shown, tuple(m.name for m in found))]


def _over(measures: Sequence[Measures], key: str, limit: float) -> list[Measures]:
    return [m for m in measures if getattr(m, key) > limit]


def _facing(joints_TJ3: NDArray[np.floating]) -> float:
    """Median of how far the feet point to where hips and shoulders face, as seen from above."""
    right_T3 = joints_TJ3[:, RIGHT_HIP] - joints_TJ3[:, LEFT_HIP] + joints_TJ3[:, RIGHT_SHOULDER]
    right_T3 = right_T3 - joints_TJ3[:, LEFT_SHOULDER]
    forward_T12 = _level(np.stack([right_T3[:, 2], -right_T3[:, 0]], axis=-1))[:, None]
    toes_T22 = _level((joints_TJ3[:, FEET] - joints_TJ3[:, ANKLES])[..., [0, 2]])
    return float(np.median((toes_T22 * forward_T12).sum(axis=-1)))


def _level(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    unit: NDArray[np.floating] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit


def _repeated(features_TF: NDArray[np.float32]) -> float:
    """Share of frames from which no joint goes on, or whose features are those of the frame before."""
    frozen_T = np.abs(features_TF[:, VELOCITIES]).max(axis=1) < SAME_M
    frozen_T[1:] |= np.abs(np.diff(features_TF, axis=0)).max(axis=1) < SAME_M
    return float(frozen_T.mean())
