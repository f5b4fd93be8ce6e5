"""The 22-joint SMPL skeleton and the layout of the 263 motion features; numbers only, no code to run."""

from __future__ import annotations

from typing import Final

JOINT_NAMES: Final = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
)
PARENTS: Final = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
NUM_JOINTS: Final = len(JOINT_NAMES)
BONES: Final = tuple((parent, child) for child, parent in enumerate(PARENTS) if parent >= 0)

# Kinematic chains of the 6-D rotations: right leg, left leg, trunk, right arm, left arm.
CHAINS: Final = (
    (0, 2, 5, 8, 11),
    (0, 1, 4, 7, 10),
    (0, 3, 6, 9, 12, 15),
    (9, 14, 17, 19, 21),
    (9, 13, 16, 18, 20),
)
MIRROR_PAIRS: Final = ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21))

# Unit direction of each joint from its parent in the rest pose: trunk up, limbs down, hips and collars sideways,
# feet and head forward; x is the body's left, y up, z forward.
REST_DIRECTIONS: Final = (
    (0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0),
    (1.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0),
)

LEFT_HIP, RIGHT_HIP = 1, 2
LEFT_SHOULDER, RIGHT_SHOULDER = 16, 17
FOOT_JOINTS: Final = (7, 10, 8, 11)  # order of the contact features: left ankle and foot, right ankle and foot

FPS: Final = 20.0

# Places of the features in a frame's vector.
YAW_VELOCITY: Final = slice(0, 1)  # half angle, radians a frame
ROOT_VELOCITY: Final = slice(1, 3)  # x, z in the facing frame, metres a frame
ROOT_HEIGHT: Final = slice(3, 4)  # metres
POSITIONS: Final = slice(4, 67)  # 21 joints x 3, facing frame, over the floor point of the root, metres
ROTATIONS: Final = slice(67, 193)  # 21 joints x 6
VELOCITIES: Final = slice(193, 259)  # 22 joints x 3, metres a frame
CONTACTS: Final = slice(259, 263)
NUM_FEATURES: Final = 263
FEATURE_GROUPS: Final = (YAW_VELOCITY, ROOT_VELOCITY, ROOT_HEIGHT, POSITIONS, ROTATIONS, VELOCITIES, CONTACTS)
