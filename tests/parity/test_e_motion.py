"""Golden set e: the motion representation against the published code."""

from __future__ import annotations

import pytest

from kinemic import motion


@pytest.fixture
def arrays(golden):
    return golden("e_motion_repr")


def motions(arrays):
    return sorted({key.split(".")[0] for key in arrays if key.endswith(".vec") and key[0].isdigit()})


def test_features_match(arrays, golden_meta, assert_close):
    options = golden_meta["motion"]
    for i in motions(arrays):
        features = motion.joints_to_features(
            arrays[f"{i}.joints_in"], floor_lowest=options["floor_lowest"], foot_threshold=options["foot_threshold"]
        )
        assert_close(features, arrays[f"{i}.vec"])


def test_features_with_the_hard_floor_match(arrays, golden_meta, assert_close):
    threshold = golden_meta["motion"]["foot_threshold"]
    for i in motions(arrays):
        features = motion.joints_to_features(arrays[f"{i}.joints_in"], floor_lowest=1, foot_threshold=threshold)
        assert_close(features, arrays[f"{i}.vec_floor1"])


def test_a_turned_scaled_and_moved_clip_matches(arrays, golden_meta, assert_close):
    options = golden_meta["motion"]
    features = motion.joints_to_features(arrays["raw.joints_in"], options["floor_lowest"], options["foot_threshold"])
    assert_close(features, arrays["raw.vec"])


def test_the_canonical_pose_matches(arrays, assert_close):
    for i in motions(arrays):
        assert_close(motion.canonicalise(arrays[f"{i}.joints_in"]), arrays[f"{i}.global_positions"])


def test_recovered_joints_match(arrays, assert_close):
    for i in motions(arrays):
        assert_close(motion.features_to_joints(arrays[f"{i}.vec"]), arrays[f"{i}.vec_to_joints"])
        assert_close(motion.features_to_joints(arrays[f"{i}.shipped_vec"]), arrays[f"{i}.shipped_vec_to_joints"])


def test_statistics_match(arrays, assert_close):
    statistics = motion.compute_statistics([arrays[f"{i}.shipped_vec"] for i in motions(arrays)])
    assert_close(statistics.mean_F, arrays["mean"])
    assert_close(statistics.std_F, arrays["std"])


def test_resampling_matches(arrays, golden_meta, assert_close):
    resampled = motion.resample(arrays["resample_in"], 30, golden_meta["motion"]["fps"])
    assert_close(resampled, arrays["resample_out_30_to_20"])
