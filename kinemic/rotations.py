"""Quaternions (w, x, y, z), batched over leading axes, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit(vectors: Array) -> Array:
    """Scale the last axis to length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Array = vectors / np.where(length == 0, 1.0, length)
    return scaled


def shortest_arc(start: Array, end: Array) -> Array:
    """Return the quaternions (..., 4) of the smallest rotations that take unit vectors start to end (..., 3).

    For opposite vectors every half turn is smallest; one about an axis square to ``start`` is returned, about y where
    ``start`` is level.
    """
    axis = np.cross(start, end)
    w = 1.0 + np.sum(start * end, axis=-1, keepdims=True)
    quaternion = np.concatenate([w, axis], axis=-1)
    # A zero vector (two joints in one place) has dot 0 and no axis, so it already comes out as the identity.
    opposite = np.linalg.norm(quaternion, axis=-1, keepdims=True) < 1e-9
    if opposite.any():
        y, x = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
        helper = np.where(np.abs(start[..., 1:2]) < 0.9, y, x)
        turn = unit(helper - start * np.sum(start * helper, axis=-1, keepdims=True))
        half_turn = np.concatenate([np.zeros_like(w), np.broadcast_to(turn, axis.shape)], axis=-1)
        quaternion = np.where(opposite, half_turn, quaternion)
    return unit(quaternion)


def invert(quaternions: Array) -> Array:
    """Return the inverse of unit quaternions (..., 4)."""
    inverse: Array = quaternions * np.array([1.0, -1.0, -1.0, -1.0])
    return inverse


def multiply(first: Array, second: Array) -> Array:
    """Return the Hamilton product first * second (..., 4): second is applied first."""
    w1, x1, y1, z1 = np.moveaxis(first, -1, 0)
    w2, x2, y2, z2 = np.moveaxis(second, -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def rotate(quaternions: Array, vectors: Array) -> Array:
    """Rotate vectors (..., 3) by unit quaternions (..., 4); leading axes broadcast."""
    w, axis = quaternions[..., :1], quaternions[..., 1:]
    across = 2.0 * np.cross(axis, vectors)
    rotated: Array = vectors + w * across + np.cross(axis, across)
    return rotated


def to_6d(quaternions: Array) -> Array:
    """Return the first two columns of the rotation matrices, one after the other: (..., 4) -> (..., 6)."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    return np.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y + z * w),
            2 * (x * z - y * w),
            2 * (x * y - z * w),
            1 - 2 * (x * x + z * z),
            2 * (y * z + x * w),
        ],
        axis=-1,
    )


def turn_about_y(angles: Array, vectors: Array) -> Array:
    """Rotate vectors (..., 3) by angles (...) in radians about y; positive takes +z towards +x."""
    cos, sin = np.cos(angles), np.sin(angles)
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([cos * x + sin * z, np.broadcast_to(y, (sin * x).shape), cos * z - sin * x], axis=-1)
