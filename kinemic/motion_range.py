"""How far the body of a clip moves: what tells a clip that stands still from one that performs its action.

Legend: T frames, J = 22 joints, L = 6 limbs. Metres, y up.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from kinemic.errors import DataError
from kinemic.skeleton import JOINT_NAMES, NUM_JOINTS

ENDS: Final = ("head", "left_wrist", "right_wrist", "left_ankle", "right_ankle")
LIMBS: Final = ("pelvis_height", *ENDS)
SIGMA = 2.0  # frames; less than that a sensor's jitter does
_ENDS = [JOINT_NAMES.index(name) for name in ENDS]


def range_of_motion(joints_TJ3: ArrayLike) -> NDArray[np.float64]:
    """Return the range of the pelvis' height and of each limb end relative to the pelvis, in the order of LIMBS.

    A range is the 95th minus the 5th percentile over the frames, after smoothing by a Gaussian of SIGMA frames; a limb
    end's is the length of its three ranges. Shapes: (T, 22, 3) -> (L,), metres. Raises DataError for another shape.
    """
    joints = np.asarray(joints_TJ3, dtype=np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (NUM_JOINTS, 3) or len(joints) == 0:
        raise DataError(f"joints: expected shape (frames >= 1, 22, 3), got {joints.shape}")
    paths = np.concatenate([joints[:, :1], joints[:, _ENDS] - joints[:, :1]], axis=1)
    smooth = gaussian_filter1d(paths, SIGMA, axis=0, mode="nearest")
    low, high = np.percentile(smooth, (5, 95), axis=0)
    ranges: NDArray[np.float64] = np.linalg.norm(high - low, axis=1)
    ranges[0] = high[0, 1] - low[0, 1]
    return ranges
