"""Recordings as their makers keep them -> what this project works on: 22 joints, metres, y up, 20 frames a second.

Legend: T frames, J joints of the file, F = 263 features. Clips are cropped before anything is computed of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinemic.config import JointSet, JointsReader, UpAxis
from kinemic.data.arrays import load_array
from kinemic.errors import DataError
from kinemic.motion import features_to_joints, joints_to_features, resample
from kinemic.skeleton import FPS, JOINT_NAMES, NUM_FEATURES, NUM_JOINTS

Floats = NDArray[np.float32]

MAX_FRAMES = 196  # longer clips are cropped, as in HumanML3D
MAX_VALUE = 1e5  # metres: no room is larger, and squares of more leave float32
METRES: Mapping[str, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001}
JOINTS_OF: Mapping[JointSet, int] = {"smpl22": 22, "smpl24": 24, "kinect25": 25}

# Each is a rotation (no mirror image): rows are the new x, y, z.
_TO_Y_UP: Mapping[UpAxis, tuple[tuple[int, int, int], ...]] = {
    "y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "-y": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "-x": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
}

# Kinect v2, in the order of its SDK and of NTU RGB+D. Its spine has fewer joints than SMPL's, so spine and collars lie
# between two of its own: (joint, joint, way from the first to the second). Hands and thumbs are left out.
_KINECT: Mapping[str, tuple[int, int, float]] = {
    "pelvis": (0, 0, 0.0),
    "left_hip": (12, 12, 0.0),
    "right_hip": (16, 16, 0.0),
    "spine1": (0, 1, 0.4),
    "left_knee": (13, 13, 0.0),
    "right_knee": (17, 17, 0.0),
    "spine2": (0, 1, 0.8),
    "left_ankle": (14, 14, 0.0),
    "right_ankle": (18, 18, 0.0),
    "spine3": (1, 20, 0.2),
    "left_foot": (15, 15, 0.0),
    "right_foot": (19, 19, 0.0),
    "neck": (20, 2, 0.5),
    "left_collar": (20, 4, 0.4),
    "right_collar": (20, 8, 0.4),
    "head": (3, 3, 0.0),
    "left_shoulder": (4, 4, 0.0),
    "right_shoulder": (8, 8, 0.0),
    "left_elbow": (5, 5, 0.0),
    "right_elbow": (9, 9, 0.0),
    "left_wrist": (6, 6, 0.0),
    "right_wrist": (10, 10, 0.0),
}


def joint_features(joints_TJ3: NDArray[np.floating], total: int, reader: JointsReader) -> tuple[Floats, int]:
    """Return features (at most 196, F) of a clip as its file holds it, and how many frames at 20 fps all of it has.

    ``joints_TJ3`` are the first ``frames_needed`` of ``total`` frames. Raises DataError for NaN or infinite joints, and
    for some that no unit explains.
    """
    frames = _frames_at_20(total, reader.fps) - 1  # the last one only serves the velocities of the one before
    if frames < 1:
        return np.empty((0, NUM_FEATURES), np.float32), 0
    joints = np.asarray(joints_TJ3, dtype=np.float64) * METRES[reader.units]
    if not np.isfinite(joints).all():
        frame = int(np.argwhere(~np.isfinite(joints))[0, 0])
        raise DataError(f"NaN or infinite joints at frame {frame}; drop or repair the clip")
    _need_small(joints, "a joint")
    turned = _as_smpl22(joints, reader.joints) @ np.array(_TO_Y_UP[reader.up], dtype=np.float64).T
    return joints_to_features(_at_20(turned, reader.fps))[:MAX_FRAMES], frames


def read_features(path: Path, fps: float = FPS, stretch: tuple[float, float] | None = None) -> tuple[Floats, int]:
    """Read a clip's features (at most 196, F), or those of a stretch (seconds), and how many frames the whole has.

    Only what is kept is read. Raises DataError, naming file and value, for another shape, NaN, infinity or values that
    no motion has.
    """
    whole = load_array(path)
    if whole.ndim != 2 or whole.shape[1] != NUM_FEATURES or len(whole) == 0:
        raise DataError(f"{path}: expected features of shape (frames, {NUM_FEATURES}), got {whole.shape}")
    part = whole if stretch is None else whole[int(stretch[0] * fps) : int(stretch[1] * fps)]
    first = 0 if stretch is None else int(stretch[0] * fps)
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, which is refused
        features = np.array(part[: frames_needed(fps)], dtype=np.float32)
    if not np.isfinite(features).all():
        frame, feature = np.argwhere(~np.isfinite(features))[0]
        raise DataError(
            f"{path}: {features[frame, feature]} at frame {first + frame}, feature {feature}; drop or repair the clip"
        )
    try:
        _need_small(features, "a feature")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if fps == FPS:
        return features[:MAX_FRAMES], len(part)
    frames = _frames_at_20(len(part), fps) - 1
    if frames < 1:
        return np.empty((0, NUM_FEATURES), np.float32), 0
    return joints_to_features(_at_20(features_to_joints(features), fps))[:MAX_FRAMES], frames


def frames_needed(fps: float) -> int:
    """Return how many frames at ``fps`` make the joints of 196 frames of features."""
    return math.ceil((MAX_FRAMES + 1) * fps / FPS) + 1


def _frames_at_20(frames: int, fps: float) -> int:
    """Frames that ``resample`` makes of so many at ``fps``."""
    return int((frames - 1) / fps * FPS) + 1 if frames else 0


def _at_20(joints_TJ3: NDArray[np.floating], fps: float) -> NDArray[np.floating]:
    return joints_TJ3 if fps == FPS else resample(joints_TJ3, fps)


def _as_smpl22(joints_TJ3: NDArray[np.float64], joints: JointSet) -> NDArray[np.float64]:
    if joints != "kinect25":
        return joints_TJ3[:, :NUM_JOINTS]  # the hands of SMPL's 24 come last
    first, second, way = (np.array(column) for column in zip(*(_KINECT[name] for name in JOINT_NAMES), strict=True))
    between: NDArray[np.float64] = joints_TJ3[:, first] + way[:, None] * (joints_TJ3[:, second] - joints_TJ3[:, first])
    return between


def _need_small(values: NDArray[np.floating], what: str) -> None:
    worst = float(np.abs(values).max(initial=0.0))
    if worst > MAX_VALUE:
        frame = int(np.argwhere(np.abs(values) == worst)[0, 0])
        raise DataError(f"{what} at {worst:g} in frame {frame}, expected below {MAX_VALUE:g}; drop or repair the clip")
