"""Joints <-> the 263 motion features of HumanML3D (Guo et al. 2022), resampling, mirroring, statistics.

Legend: T frames, J = 22 joints, F = 263 features. Metres, y up, radians, 20 frames a second. Work is done in float64
and returned as float32, batched over frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from kinemic import rotations, skeleton
from kinemic.errors import DataError
from kinemic.rotations import Array

Floats = NDArray[np.float32]
Features = TypeVar("Features")  # a numpy array or a torch tensor

FLOOR_LOWEST = 20
FOOT_THRESHOLD = 0.002  # squared metres a frame
HEADING_SIGMA = 20.0  # frames
_BLOCK = 65_536  # rows at a time when a large packed array is read

_PARENT_IN_TREE = np.array([max(p, 0) for p in skeleton.PARENTS])
_REST = np.array(skeleton.REST_DIRECTIONS)
_FORWARD = np.array([0.0, 0.0, 1.0])


def _chain_parents() -> NDArray[np.int64]:
    """The joint whose rotation each joint's local rotation is relative to; every chain starts from the root's."""
    parents = np.zeros(skeleton.NUM_JOINTS, dtype=np.int64)
    for chain in skeleton.CHAINS:
        parents[list(chain[2:])] = chain[1:-1]
    return parents


def _mirror_order() -> NDArray[np.int64]:
    order = np.arange(skeleton.NUM_JOINTS)
    for left, right in skeleton.MIRROR_PAIRS:
        order[left], order[right] = right, left
    return order


_PARENT_IN_CHAIN = _chain_parents()
_MIRROR = _mirror_order()


# --- joints to features and back ----------------------------------------------------------------------------------


def canonicalise(joints_TJ3: ArrayLike, floor_lowest: int = FLOOR_LOWEST) -> Floats:
    """Put a clip on the floor, its first pelvis over the origin, its first frame facing +z.

    The floor is the mean of the ``floor_lowest`` lowest heights over all frames and joints; 1 is HumanML3D's hard
    minimum. Shapes: (T, 22, 3) -> (T, 22, 3), metres. Raises DataError for another shape or values that are not finite.
    """
    return _canonical(_checked_joints(joints_TJ3, 1), floor_lowest).astype(np.float32)


def joints_to_features(
    joints_TJ3: ArrayLike, floor_lowest: int = FLOOR_LOWEST, foot_threshold: float = FOOT_THRESHOLD
) -> Floats:
    """Turn joint positions into motion features, after ``canonicalise``.

    Shapes: (T, 22, 3) metres at 20 fps -> (T - 1, 263); the last frame only serves the velocities of the one before.
    ``foot_threshold`` is a squared displacement, m^2 a frame. Raises DataError for another shape, fewer than two
    frames, or values that are not finite.
    """
    joints = _canonical(_checked_joints(joints_TJ3, 2), floor_lowest)
    heading = _heading(joints)
    heading_J = heading[:, None]
    # The published layout: the root's step is seen from the frame it leads to, the joints' from the one they leave.
    turn = rotations.multiply(heading[1:], rotations.invert(heading[:-1]))
    step = rotations.rotate(heading[1:], np.diff(joints[:, 0], axis=0))
    moved = np.diff(joints, axis=0)
    local = joints - joints[:, :1] * np.array([1.0, 0.0, 1.0])
    frames = len(joints) - 1
    parts = (
        np.arcsin(np.clip(turn[:, 2:3], -1.0, 1.0)),
        step[:, [0, 2]],
        joints[:-1, 0, 1:2],
        rotations.rotate(heading_J, local)[:-1, 1:].reshape(frames, -1),
        _local_rotations(joints, heading)[:-1].reshape(frames, -1),
        rotations.rotate(heading_J[:-1], moved).reshape(frames, -1),
        np.sum(moved[:, skeleton.FOOT_JOINTS] ** 2, axis=-1) < foot_threshold,
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


def features_to_joints(features_TF: ArrayLike) -> Floats:
    """Recover joint positions from the root's velocities and the root-relative positions.

    Shapes: (..., T, 263) -> (..., T, 22, 3), metres. Rotations, velocities and contacts are not looked at. Raises
    DataError for another width.
    """
    features = np.asarray(features_TF, dtype=np.float64)
    if features.ndim < 2 or features.shape[-1] != skeleton.NUM_FEATURES:
        raise DataError(f"motion features: expected shape (..., frames, 263), got {features.shape}")
    # A frame holds the velocity towards the next one, so the sums are shifted; the stored yaw is a half angle.
    yaw = 2.0 * _sum_before(features[..., 0])
    step = np.zeros((*features.shape[:-1], 3))
    step[..., 1:, [0, 2]] = features[..., :-1, skeleton.ROOT_VELOCITY]
    root = np.cumsum(rotations.turn_about_y(-yaw, step), axis=-2)
    root[..., 1] = features[..., 3]
    local = features[..., skeleton.POSITIONS].reshape(*features.shape[:-1], skeleton.NUM_JOINTS - 1, 3)
    joints = rotations.turn_about_y(-yaw[..., None], local)
    joints[..., [0, 2]] += root[..., None, [0, 2]]
    return np.concatenate([root[..., None, :], joints], axis=-2).astype(np.float32)


def resample(joints_TJ3: ArrayLike, fps_from: float, fps_to: float = skeleton.FPS) -> Floats:
    """Interpolate a clip linearly to another frame rate, keeping its first and last frame.

    Shapes: (T, J, 3) -> (int((T - 1) / fps_from * fps_to) + 1, J, 3). Raises DataError
    for no frames or a rate that is not above 0.
    """
    joints = np.asarray(joints_TJ3, dtype=np.float64)
    if len(joints) == 0 or not (fps_from > 0 and fps_to > 0):
        raise DataError(
            f"resample: expected frames and rates above 0, got {len(joints)} frames, {fps_from} to {fps_to} fps"
        )
    target = int((len(joints) - 1) / fps_from * fps_to) + 1
    return interpolate(joints, np.linspace(0.0, len(joints) - 1, target)).astype(np.float32)


def interpolate(values_TX: NDArray[Any], frames: Array) -> NDArray[Any]:
    """Read values (T, ...) linearly at fractional frame numbers (S,) within 0..T-1: (S, ...)."""
    low = np.clip(np.floor(frames).astype(np.int64), 0, max(len(values_TX) - 2, 0))
    share = (frames - low).reshape(-1, *[1] * (values_TX.ndim - 1))
    high = np.minimum(low + 1, len(values_TX) - 1)
    return values_TX[low] * (1 - share) + values_TX[high] * share


# --- mirroring ----------------------------------------------------------------------------------------------------


def mirror_joints(joints_TJ3: ArrayLike) -> Floats:
    """Swap left and right: x is negated and paired joints change places. Shapes: (..., 22, 3) -> the same."""
    joints = np.asarray(joints_TJ3, dtype=np.float32)
    mirrored: Floats = joints[..., _MIRROR, :] * np.array([-1, 1, 1], dtype=np.float32)
    return mirrored


def mirror_features(features_TF: ArrayLike) -> Floats:
    """Swap left and right in motion features, as if made from ``mirror_joints``. Shapes: (..., 263) -> the same."""
    order, sign = _FEATURE_MIRROR
    mirrored: Floats = np.asarray(features_TF, dtype=np.float32)[..., order] * sign
    return mirrored


def _feature_mirror() -> tuple[NDArray[np.int64], Floats]:
    """Which feature comes from which, and its sign; a rotation R becomes M R M with M = diag(-1, 1, 1)."""
    place = np.arange(skeleton.NUM_FEATURES)
    sign = np.ones(skeleton.NUM_FEATURES, dtype=np.float32)
    sign[[0, 1]] = -1
    for part, joints, width_signs in (
        (skeleton.POSITIONS, _MIRROR[1:] - 1, (-1, 1, 1)),
        (skeleton.ROTATIONS, _MIRROR[1:] - 1, (1, -1, -1, -1, 1, 1)),
        (skeleton.VELOCITIES, _MIRROR, (-1, 1, 1)),
    ):
        place[part] = place[part].reshape(len(joints), -1)[joints].ravel()
        sign[part] = np.tile(width_signs, len(joints))
    place[skeleton.CONTACTS] = place[skeleton.CONTACTS][[2, 3, 0, 1]]
    return place, sign


_FEATURE_MIRROR = _feature_mirror()


# --- statistics ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of every feature, float32 (263,), by which models' inputs are z-scored.

    Raises DataError for another width, values that are not finite, or a deviation that is not above 0.
    """

    mean_F: Floats  # noqa: N815
    std_F: Floats  # noqa: N815

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean_F), ("std", self.std_F)):
            if values.shape != (skeleton.NUM_FEATURES,) or not np.isfinite(values).all():
                raise DataError(f"statistics: {name} must be 263 finite numbers, got shape {values.shape}")
        if not (self.std_F > 0).all():
            raise DataError(
                f"statistics: every deviation must be above 0, got {self.std_F.min():g}; a zero divides by zero"
            )

    def normalise(self, features: Features) -> Features:
        """Return (features - mean) / std; numpy or torch, shape (..., 263)."""
        result: Features = (features - _like(self.mean_F, features)) / _like(self.std_F, features)
        return result

    def denormalise(self, features: Features) -> Features:
        """Return features * std + mean; numpy or torch, shape (..., 263)."""
        result: Features = features * _like(self.std_F, features) + _like(self.mean_F, features)
        return result


def compute_statistics(features: NDArray[Any] | Iterable[NDArray[Any]]) -> Statistics:
    """Return mean and population deviation over all frames, the deviation averaged inside feature groups.

    ``features`` is one packed array (sum T, 263), memory-mapped or not, or clips of (T, 263). A group that never
    varies gets deviation 1, so that z-scoring leaves it at 0. Raises DataError where there is no frame.
    """
    blocks = _blocks(features)
    count, mean, squares = 0, np.zeros(skeleton.NUM_FEATURES), np.zeros(skeleton.NUM_FEATURES)
    for block in blocks:  # Chan's update: exact for any number of blocks, one pass over the file
        rows = np.asarray(block, dtype=np.float64)
        shift = rows.mean(axis=0) - mean
        total = count + len(rows)
        squares += ((rows - rows.mean(axis=0)) ** 2).sum(axis=0) + shift**2 * (count * len(rows) / total)
        mean, count = mean + shift * (len(rows) / total), total
    if count == 0:
        raise DataError("statistics: expected at least one frame of features, got none")
    deviation = np.sqrt(squares / count)
    for group in skeleton.FEATURE_GROUPS:
        deviation[group] = deviation[group].mean() or 1.0
    return Statistics(mean.astype(np.float32), deviation.astype(np.float32))


def _blocks(features: NDArray[Any] | Iterable[NDArray[Any]]) -> Iterable[NDArray[Any]]:
    clips = [features] if isinstance(features, np.ndarray) and features.ndim == 2 else features
    for clip in clips:
        for start in range(0, len(clip), _BLOCK):
            yield clip[start : start + _BLOCK]


def _like(values: Floats, features: Any) -> Any:
    """Statistics as the features' own kind of array, so that torch tensors keep their device and type."""
    return values if isinstance(features, np.ndarray) else features.new_tensor(values.tolist())


# --- the parts of the representation ------------------------------------------------------------------------------


def _checked_joints(joints_TJ3: ArrayLike, least: int) -> Array:
    joints = np.asarray(joints_TJ3, dtype=np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (skeleton.NUM_JOINTS, 3) or len(joints) < least:
        raise DataError(f"joints: expected shape (frames >= {least}, 22, 3), got {joints.shape}")
    if not np.isfinite(joints).all():
        raise DataError(
            f"joints: {np.count_nonzero(~np.isfinite(joints))} values are NaN or infinite; drop or repair the clip"
        )
    return joints


def _canonical(joints: Array, floor_lowest: int) -> Array:
    heights = joints[..., 1].ravel()
    lowest = min(floor_lowest, heights.size)
    floor = np.partition(heights, lowest - 1)[:lowest].mean()
    joints = joints - (joints[0, 0] * np.array([1.0, 0.0, 1.0]) + np.array([0.0, floor, 0.0]))
    right = joints[0, skeleton.RIGHT_HIP] - joints[0, skeleton.LEFT_HIP]
    right = right + joints[0, skeleton.RIGHT_SHOULDER] - joints[0, skeleton.LEFT_SHOULDER]
    turned: Array = rotations.rotate(rotations.shortest_arc(rotations.unit(_forward(right)), _FORWARD), joints)
    return turned


def _heading(joints: Array) -> Array:
    """Quaternions (T, 4) that turn each frame's smoothed facing to +z; the first is the identity.

    The hips enter with the sign opposite to the shoulders': a quirk of the published code that priors were trained on.
    """
    across = joints[:, skeleton.LEFT_HIP] - joints[:, skeleton.RIGHT_HIP]
    across = across + joints[:, skeleton.RIGHT_SHOULDER] - joints[:, skeleton.LEFT_SHOULDER]
    # Not scaled to unit length yet, as published: a frame whose hips and shoulders tilt weighs less in the smoothing.
    smooth = gaussian_filter1d(_forward(rotations.unit(across)), HEADING_SIGMA, axis=0, mode="nearest")
    heading = rotations.shortest_arc(rotations.unit(smooth), _FORWARD)
    heading[0] = (1.0, 0.0, 0.0, 0.0)
    return heading


def _forward(right: Array) -> Array:
    """The level vector square to ``right`` (..., 3): y x right."""
    return np.stack([right[..., 2], np.zeros_like(right[..., 0]), -right[..., 0]], axis=-1)


def _local_rotations(joints: Array, heading: Array) -> Array:
    """Rotations of the 21 bones in their chain parent's frame, 6-D (T, 21, 6)."""
    bones = rotations.unit(joints[:, 1:] - joints[:, _PARENT_IN_TREE[1:]])
    in_world = np.concatenate([heading[:, None], rotations.shortest_arc(_REST[1:], bones)], axis=1)
    return rotations.to_6d(rotations.multiply(rotations.invert(in_world[:, _PARENT_IN_CHAIN[1:]]), in_world[:, 1:]))


def _sum_before(values: Array) -> Array:
    """Cumulative sum along the last axis, of the values before each place."""
    total = np.cumsum(values, axis=-1)
    total[..., 1:], total[..., 0] = total[..., :-1].copy(), 0.0
    return total
