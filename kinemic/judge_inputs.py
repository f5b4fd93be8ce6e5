"""What the judge sees of a clip: linearly resampled, pelvis-centred, heading-normalised joints (METHOD section 5).

Shapes: N clips, T frames, J = 22 joints. Metres, y up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kinemic.errors import DataError
from kinemic.skeleton import LEFT_HIP, LEFT_SHOULDER, NUM_JOINTS, RIGHT_HIP, RIGHT_SHOULDER

Floats = npt.NDArray[np.float32]


def judge_inputs(joints: Sequence[Floats], frames: int) -> Floats:
    """Return clips as the judge sees them, (N, frames, 22, 3): linearly resampled, pelvis-centred, facing +z.

    Every frame's pelvis is put over the origin, so the way walked is not seen; heights are taken from the pelvis of
    frame 0, so that a jump or a crouch is. The heading of frame 0 is turned to +z for the whole clip. All clips at
    once. Raises DataError for an empty list, a clip of another shape, or values that are not finite.
    """
    x_NTJ3 = _resampled(_checked_clips(joints), frames)
    pelvis_NT3 = x_NTJ3[:, :, 0].copy()
    pelvis_NT3[:, :, 1] = pelvis_NT3[:, :1, 1]
    x_NTJ3 -= pelvis_NT3[:, :, None]
    first_NJ3 = x_NTJ3[:, 0]
    right_N3 = (
        first_NJ3[:, RIGHT_HIP] - first_NJ3[:, LEFT_HIP] + first_NJ3[:, RIGHT_SHOULDER] - first_NJ3[:, LEFT_SHOULDER]
    )
    # Facing +z with y up, right is -x.
    yaw_N11 = np.arctan2(right_N3[:, 2], -right_N3[:, 0])[:, None, None]
    cos, sin = np.cos(yaw_N11), np.sin(yaw_N11)
    x, z = x_NTJ3[..., 0].copy(), x_NTJ3[..., 2].copy()
    x_NTJ3[..., 0] = cos * x - sin * z
    x_NTJ3[..., 2] = sin * x + cos * z
    return x_NTJ3


def _resampled(joints: list[Floats], frames: int) -> Floats:
    """Linear interpolation of clips of any length to ``frames`` frames, first and last kept: (N, frames, J, 3)."""
    lengths_N1 = np.array([[len(j)] for j in joints])
    first_N1 = np.cumsum(lengths_N1, axis=0) - lengths_N1
    times_NT = np.linspace(0.0, 1.0, frames) * (lengths_N1 - 1)
    low_NT = times_NT.astype(np.int64)
    high_NT = np.minimum(low_NT + 1, lengths_N1 - 1)
    share = (times_NT - low_NT)[..., None, None].astype(np.float32)
    packed = np.concatenate(joints)
    low, high = packed[first_N1 + low_NT], packed[first_N1 + high_NT]
    between: Floats = low + share * (high - low)
    return between


def _checked_clips(joints: Sequence[Floats]) -> list[Floats]:
    clips = [np.asarray(j, np.float32) for j in joints]
    if not clips:
        raise DataError("judge: expected at least one clip, got none")
    for n, clip in enumerate(clips):
        if clip.ndim != 3 or clip.shape[1:] != (NUM_JOINTS, 3) or len(clip) == 0:
            raise DataError(f"judge: expected clips of shape (frames, {NUM_JOINTS}, 3), got {clip.shape} at index {n}")
        if not np.isfinite(clip).all():
            raise DataError(f"judge: expected finite joints, got NaN or infinity in the clip at index {n}")
    return clips
