"""What generated clips are like beside real ones: static ones, copies and strangers are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from kinemic.diagnostics import Joints, Labelled, class_ratios, diagnose, motion_table
from kinemic.motion_range import LIMBS
from kinemic.skeleton import JOINT_NAMES

CLASSES = ("reach", "kick", "bow")
STANDING = np.random.default_rng(0).normal(scale=0.4, size=(22, 3))
ENDS = (("right_wrist",), ("right_ankle",), ("head", "left_wrist"))


def clips(count: int, far: float, seed: int, labels: tuple[int, ...] = (0, 1, 2)) -> Labelled:
    """``count`` clips a class, each moving its class's limbs up by about ``far`` metres, each a little otherwise."""
    rng = np.random.default_rng(seed)
    made = [(moving(label, far * rng.uniform(0.9, 1.1), rng), label) for label in labels for _ in range(count)]
    return Labelled([clip for clip, _ in made], [label for _, label in made])


def moving(label: int, far: float, rng: np.random.Generator) -> Joints:
    joints = np.tile(STANDING, (40, 1, 1)) + rng.normal(0, 0.01, (1, 22, 3))
    for name in ENDS[label]:
        joints[:, JOINT_NAMES.index(name), 1] += far * np.sin(np.linspace(0, np.pi, 40))
    return joints.astype(np.float32)


SHOTS, OTHERS = clips(2, 0.5, seed=1), clips(4, 0.5, seed=2)


def test_the_range_of_motion_is_told_by_class_and_limb() -> None:
    table = motion_table(CLASSES, {"real": OTHERS, "generated": clips(3, 0.25, 3, labels=(0, 1))})
    assert [(row["class"], row["limb"]) for row in table] == [(name, limb) for name in CLASSES for limb in LIMBS]
    wrist = next(row for row in table if row["class"] == "reach" and row["limb"] == "right_wrist")
    assert wrist["real"] == pytest.approx(0.48, abs=0.08)
    assert wrist["generated_over_real"] == pytest.approx(0.5, abs=0.1)
    assert {row["generated"] for row in table if row["class"] == "bow"} == {None}
    assert class_ratios(table, "generated") == pytest.approx([0.5, 0.5], abs=0.1)


def test_clips_that_move_as_real_ones_do_are_near_one_in_everything() -> None:
    figures, _ = diagnose(CLASSES, SHOTS, OTHERS, clips(4, 0.5, seed=4), clips(3, 1.0, seed=5))
    assert figures["motion_range_classes_near_real"] == 1
    assert figures["motion_range_generated_over_real"] == pytest.approx(1, abs=0.1)
    assert figures["motion_range_mined_over_real"] == pytest.approx(2, abs=0.2)
    assert figures["spread_generated_over_real"] == pytest.approx(1, abs=0.25)
    assert figures["nearest_shot_generated_over_real"] == pytest.approx(1, abs=0.25)
    assert figures["nearest_real_is_of_class"] == 1


def test_static_clips_copies_and_clips_of_another_class_are_seen() -> None:
    static, _ = diagnose(CLASSES, SHOTS, OTHERS, clips(4, 0.1, seed=6))
    assert static["motion_range_generated_over_real"] < 0.3
    assert static["motion_range_classes_near_real"] == 0
    copies, _ = diagnose(CLASSES, SHOTS, OTHERS, SHOTS)
    assert copies["nearest_shot_generated_over_real"] == 0
    one = Labelled([SHOTS.clips[0]] * 3, [0, 0, 0])
    assert diagnose(CLASSES, SHOTS, OTHERS, one)[0]["spread_generated_over_real"] == 0
    strangers = Labelled(clips(4, 0.5, seed=7).clips, [1] * 4 + [2] * 4 + [0] * 4)
    assert diagnose(CLASSES, SHOTS, OTHERS, strangers)[0]["nearest_real_is_of_class"] == 0


def test_what_cannot_be_known_is_left_out() -> None:
    shot = Labelled(SHOTS.clips[:1], [0])
    figures, _ = diagnose(CLASSES, shot, Labelled([], []), clips(2, 0.5, 8, labels=(0,)))
    assert set(figures) == {
        "motion_range_generated_over_real", "motion_range_classes_near_real", "nearest_real_is_of_class",
    }  # fmt: skip
