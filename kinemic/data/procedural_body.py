"""A jointed body for generated clips: joint angles over time -> joint positions, by forward kinematics.

Legend: T frames (of many clips, one after the other), C channels, J = 22 joints. Angles in degrees, lengths in metres,
y up, x to the body's left, z forward. Everything is batched over frames.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from kinemic import skeleton

Array = NDArray[np.float64]


class Channel(IntEnum):
    """What moves. Both sides read alike: flexion forward, then outward, then twist (arms inward, legs outward)."""

    YAW = 0  # turns to the left
    LIFT = 1  # metres that the lower foot is off the floor
    DRIFT = 2  # metres a frame, forward, while off the floor
    PITCH = 3  # pelvis, forward
    ROLL = 4
    BEND = 5  # spine, forward
    TWIST = 6  # spine, to the left
    LEAN = 7  # spine, to the right
    NOD = 8
    LOOK = 9  # head, to the left
    L_ARM = 10  # shoulder flexion: 0 hangs, 90 forward, 180 up
    L_ARM_OUT = 11
    L_ARM_TWIST = 12
    L_ELBOW = 13
    L_HIP = 14
    L_HIP_OUT = 15
    L_HIP_TWIST = 16
    L_KNEE = 17
    R_ARM = 18
    R_ARM_OUT = 19
    R_ARM_TWIST = 20
    R_ELBOW = 21
    R_HIP = 22
    R_HIP_OUT = 23
    R_HIP_TWIST = 24
    R_KNEE = 25


NUM_CHANNELS = len(Channel)
_LEFT = slice(Channel.L_ARM, Channel.L_KNEE + 1)
_RIGHT = slice(Channel.R_ARM, Channel.R_KNEE + 1)
_SIDED = [Channel.YAW, Channel.ROLL, Channel.TWIST, Channel.LEAN, Channel.LOOK]

# Offsets of the joints from their parents, standing, metres: an average adult.
_OFFSETS = np.array(
    [
        (0.0, 0.0, 0.0),
        (0.09, -0.07, 0.0),
        (-0.09, -0.07, 0.0),
        (0.0, 0.11, -0.01),
        (0.0, -0.385, 0.0),
        (0.0, -0.385, 0.0),
        (0.0, 0.135, 0.0),
        (0.0, -0.40, 0.0),
        (0.0, -0.40, 0.0),
        (0.0, 0.06, 0.01),
        (0.02, -0.06, 0.13),
        (-0.02, -0.06, 0.13),
        (0.0, 0.21, -0.02),
        (0.07, 0.12, -0.01),
        (-0.07, 0.12, -0.01),
        (0.0, 0.10, 0.04),
        (0.11, 0.03, -0.01),
        (-0.11, 0.03, -0.01),
        (0.0, -0.27, 0.0),
        (0.0, -0.27, 0.0),
        (0.0, -0.25, 0.0),
        (0.0, -0.25, 0.0),
    ]
)
# Groups of bones that vary together between bodies: legs, arms, trunk, shoulder width, hip width.
_GROUPS = ((4, 5, 7, 8, 10, 11), (18, 19, 20, 21), (3, 6, 9, 12, 15), (13, 14, 16, 17), (1, 2))
NUM_PROPORTIONS = 1 + len(_GROUPS)

_ANKLE_HEIGHT = 0.06  # metres, of an average adult's ankle over the sole
_ANKLE_RANGE = (-25.0, 30.0)  # degrees that an ankle gives before the foot follows the shank
_SUPPORT_SOFTNESS = 0.015  # metres of height between the feet over which weight passes from one to the other
_SWING_HEIGHT = 1.0  # metres of height that a swing of one metre a frame counts for


def mirrored(angles_TC: Array) -> Array:
    """Return the channels of the same motion with left and right swapped."""
    swapped = angles_TC.copy()
    swapped[:, _LEFT], swapped[:, _RIGHT] = angles_TC[:, _RIGHT], angles_TC[:, _LEFT]
    swapped[:, _SIDED] *= -1
    return swapped


def offsets(proportions: Array) -> Array:
    """Return bone offsets (22, 3) of a body: overall scale, then legs, arms, trunk, shoulders, hips, each about 1."""
    scale = np.ones(skeleton.NUM_JOINTS)
    for group, factor in zip(_GROUPS, proportions[1:], strict=True):
        scale[list(group)] = factor
    body: Array = _OFFSETS * (proportions[0] * scale)[:, None]
    return body


def pose(angles_TC: Array, offsets_TJ3: Array, first: NDArray[np.bool_]) -> Array:
    """Return joint positions (T, 22, 3) that stand on the floor y = 0 and do not slide on it.

    ``first`` (T) marks the first frame of every clip. The pelvis is as high as the lower foot asks for, plus the lift,
    and travels so that the foot that carries the weight stays in its place.
    """
    angles = np.radians(angles_TC)
    turns = _world_turns(angles)
    joints = np.zeros((len(angles), skeleton.NUM_JOINTS, 3))
    for parent, child in skeleton.BONES:
        joints[:, child] = joints[:, parent] + np.einsum("tij,tj->ti", turns[parent], offsets_TJ3[:, child])
    ankle = _ANKLE_HEIGHT * offsets_TJ3[:, 10, 1] / _OFFSETS[10, 1]
    heights = np.stack([np.minimum(joints[:, a, 1] - ankle, joints[:, f, 1]) for a, f in ((7, 10), (8, 11))], axis=1)
    root = _travel(joints, heights, angles_TC, first)
    root[:, 1] = angles_TC[:, Channel.LIFT] - heights.min(axis=1)
    return joints + root[:, None]


def _travel(joints: Array, heights: Array, angles_TC: Array, first: NDArray[np.bool_]) -> Array:
    """The pelvis path (T, 3) on the ground: minus the steps of the foot that carries, or the drift when in the air."""
    lift, yaw = angles_TC[1:, Channel.LIFT], np.radians(angles_TC[1:, Channel.YAW])
    ahead = np.stack([np.sin(yaw), np.zeros_like(yaw), np.cos(yaw)], axis=1)
    moved = np.diff((joints[:, [7, 8]] + joints[:, [10, 11]]) / 2, axis=0)
    # The lower foot carries; one that swings ahead of the body counts as higher, since it is only about to land.
    load = heights[1:] + _SWING_HEIGHT * np.clip(np.einsum("tfi,ti->tf", moved, ahead), 0, None)
    weight = np.exp(-(load - load.min(axis=1, keepdims=True)) / _SUPPORT_SOFTNESS)
    weight /= weight.sum(axis=1, keepdims=True)
    grounded = np.clip(1 - lift / 0.03, 0, 1)[:, None]
    step = np.zeros((len(joints), 3))
    step[1:] = -grounded * (weight[..., None] * moved).sum(axis=1)
    step[1:] += (1 - grounded) * ahead * angles_TC[1:, Channel.DRIFT, None]
    step[first] = 0
    path = np.cumsum(step, axis=0)
    clip = np.cumsum(first) - 1
    from_start: Array = path - path[first][clip]
    return from_start


def _world_turns(angles: Array) -> list[Array]:
    """World rotations (T, 3, 3) of the joints. Hips turn with the heading alone, so legs stay upright under a bow."""
    a = angles.T
    yaw = _about(1, a[Channel.YAW])
    turns = [yaw] * skeleton.NUM_JOINTS
    turns[0] = yaw @ _about(0, a[Channel.PITCH]) @ _about(2, a[Channel.ROLL])
    third = angles[:, [Channel.BEND, Channel.TWIST, Channel.LEAN]].T / 3
    vertebra = _about(1, third[1]) @ _about(0, third[0]) @ _about(2, -third[2])
    for parent, child in ((0, 3), (3, 6), (6, 9)):
        turns[child] = turns[parent] @ vertebra
    turns[12] = turns[15] = turns[9] @ _about(1, a[Channel.LOOK]) @ _about(0, a[Channel.NOD])
    turns[13] = turns[14] = turns[9]
    for side, sign in ((0, 1.0), (1, -1.0)):
        arm, leg = (Channel.L_ARM, Channel.L_HIP) if side == 0 else (Channel.R_ARM, Channel.R_HIP)
        turns[16 + side] = turns[9] @ _limb(a[arm], sign * a[arm + 1], -sign * a[arm + 2])
        turns[18 + side] = turns[20 + side] = turns[16 + side] @ _about(0, -a[arm + 3])
        turns[1 + side] = yaw @ _limb(a[leg], sign * a[leg + 1], sign * a[leg + 2])
        turns[4 + side] = turns[1 + side] @ _about(0, a[leg + 3])
        shank = a[leg + 3] - a[leg]
        turns[7 + side] = turns[10 + side] = turns[4 + side] @ _about(0, -np.clip(shank, *np.radians(_ANKLE_RANGE)))
    return turns


def _limb(flexion: Array, outward: Array, twist: Array) -> Array:
    return _about(0, -flexion) @ _about(2, outward) @ _about(1, twist)


def _about(axis: int, angle: Array) -> Array:
    """Rotation matrices (T, 3, 3) about one axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((len(angle), 3, 3))
    turn[:, axis, axis] = 1
    turn[:, i, i] = turn[:, j, j] = np.cos(angle)
    turn[:, j, i] = np.sin(angle)
    turn[:, i, j] = -turn[:, j, i]
    return turn
