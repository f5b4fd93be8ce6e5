from __future__ import annotations

import numpy as np
import pytest
import torch

from kinemic import motion, skeleton
from kinemic.errors import DataError


def walker(frames=30, seed=0, turn=0.05):
    """A body of constant bones that walks a curve while its joints wobble smoothly."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None]
    joints = np.zeros((frames, 22, 3))
    for parent, child in skeleton.BONES:
        wobble = 0.4 * np.sin(0.2 * time * rng.uniform(0.5, 1.5, 3) + rng.uniform(0, 6, 3))
        bone = np.array(skeleton.REST_DIRECTIONS[child]) + wobble
        joints[:, child] = joints[:, parent] + 0.3 * bone / np.linalg.norm(bone, axis=1, keepdims=True)
    angle = turn * time
    x, z = joints[..., 0].copy(), joints[..., 2].copy()
    joints[..., 0], joints[..., 2] = x * np.cos(angle) + z * np.sin(angle), z * np.cos(angle) - x * np.sin(angle)
    joints[..., 2] += 0.05 * time
    joints[..., 1] += 1 + 0.1 * np.sin(0.3 * time)
    return joints.astype(np.float32)


def rotated(joints, angle):
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return joints @ turn.T


def test_recovering_joints_inverts_features():
    joints = walker()
    recovered = motion.features_to_joints(motion.joints_to_features(joints))
    np.testing.assert_allclose(recovered, motion.canonicalise(joints)[:-1], atol=1e-4)


def test_features_do_not_depend_on_where_the_clip_was_recorded():
    joints = walker()
    moved = rotated(joints, 2.2) + np.array([4.0, 0.7, -3.0])
    np.testing.assert_allclose(motion.joints_to_features(moved), motion.joints_to_features(joints), atol=2e-4)


def test_a_canonical_clip_stands_on_the_floor_faces_z_and_starts_over_the_origin():
    joints = motion.canonicalise(rotated(walker(), 1.0) + 5.0)
    np.testing.assert_allclose(joints[0, 0, [0, 2]], 0, atol=1e-6)
    np.testing.assert_allclose(np.sort(joints[..., 1].ravel())[:20].mean(), 0, atol=1e-6)
    across = joints[0, 2] - joints[0, 1] + joints[0, 17] - joints[0, 16]
    assert across[0] < 0
    np.testing.assert_allclose(across[2], 0, atol=1e-5)


def test_the_floor_may_be_the_hard_minimum():
    assert motion.canonicalise(walker(), floor_lowest=1)[..., 1].min() == pytest.approx(0, abs=1e-6)


def test_features_of_mirrored_joints_are_the_mirrored_features():
    joints = walker()
    mirrored = motion.mirror_features(motion.joints_to_features(joints))
    np.testing.assert_allclose(mirrored, motion.joints_to_features(motion.mirror_joints(joints)), atol=2e-5)
    recovered = motion.features_to_joints(mirrored)
    np.testing.assert_allclose(recovered, motion.mirror_joints(motion.canonicalise(joints))[:-1], atol=1e-4)
    assert np.abs(mirrored - motion.joints_to_features(joints)).max() > 0.1


def test_mirroring_twice_changes_nothing():
    features = motion.joints_to_features(walker())
    np.testing.assert_array_equal(motion.mirror_features(motion.mirror_features(features)), features)
    np.testing.assert_array_equal(motion.mirror_joints(motion.mirror_joints(walker())), walker())


def test_recovery_accepts_leading_batch_dimensions():
    clips = [motion.joints_to_features(walker(seed=seed)) for seed in range(3)]
    batched = motion.features_to_joints(np.stack(clips).reshape(3, 1, 29, 263))
    assert batched.shape == (3, 1, 29, 22, 3)
    for clip, joints in zip(clips, batched[:, 0], strict=True):
        np.testing.assert_allclose(joints, motion.features_to_joints(clip), atol=1e-6)


def test_contacts_mark_the_feet_that_rest():
    joints = np.repeat(walker()[:1], 10, axis=0)
    joints[5:, 8, 0] += 0.2 * np.arange(5)[:, None].ravel()
    contacts = motion.joints_to_features(joints)[:, skeleton.CONTACTS]
    assert contacts[:, [0, 1, 3]].all()
    np.testing.assert_array_equal(contacts[:, 2], [1, 1, 1, 1, 1, 0, 0, 0, 0])


def test_opposite_bones_give_finite_features():
    joints = walker(12)
    joints[:, 4] = joints[:, 1] + [0, 0.4, 0]  # the rest direction is straight down, this is straight up
    joints[:, 15] = joints[:, 12]  # a bone of no length
    assert np.isfinite(motion.joints_to_features(joints)).all()


@pytest.mark.parametrize("shape", [(10, 21, 3), (10, 22, 2), (22, 3), (1, 22, 3)])
def test_joints_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match="expected shape"):
        motion.joints_to_features(np.zeros(shape))


def test_joints_that_are_not_finite_are_refused():
    joints = walker()
    joints[3, 4, 1] = np.nan
    with pytest.raises(DataError, match="1 values are NaN"):
        motion.joints_to_features(joints)


def test_features_of_another_width_are_refused():
    with pytest.raises(DataError, match="263"):
        motion.features_to_joints(np.zeros((4, 251)))


def test_resampling_keeps_both_ends_and_a_straight_line_straight():
    line = np.linspace(0, 1, 31)[:, None, None] * np.ones((1, 22, 3))
    slow = motion.resample(line, 30)
    np.testing.assert_allclose(slow[:, 0, 0], np.linspace(0, 1, 21), atol=1e-6)
    np.testing.assert_array_equal(motion.resample(slow[:1], 30), slow[:1])
    with pytest.raises(DataError, match="rate"):
        motion.resample(line, 0)


def test_statistics_agree_for_clips_one_packed_array_and_several_blocks(monkeypatch):
    clips = [motion.joints_to_features(walker(seed=seed)) for seed in range(3)]
    packed = np.concatenate(clips)
    whole = motion.compute_statistics(packed)
    monkeypatch.setattr(motion, "_BLOCK", 7)
    for other in (motion.compute_statistics(packed), motion.compute_statistics(clips)):
        np.testing.assert_allclose(other.mean_F, whole.mean_F, atol=1e-6)
        np.testing.assert_allclose(other.std_F, whole.std_F, atol=1e-6)
    np.testing.assert_allclose(whole.mean_F, packed.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(whole.std_F[4:67], packed.std(axis=0)[4:67].mean(), atol=1e-6)


def test_normalising_is_undone_for_numpy_and_torch():
    features = motion.joints_to_features(walker())
    statistics = motion.compute_statistics(features)
    scored = statistics.normalise(features)
    np.testing.assert_allclose(scored.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(statistics.denormalise(scored), features, atol=1e-5)
    as_torch = statistics.normalise(torch.from_numpy(features))
    np.testing.assert_allclose(as_torch.numpy(), scored, atol=1e-6)
    np.testing.assert_allclose(statistics.denormalise(as_torch).numpy(), features, atol=1e-5)


def test_a_group_that_never_varies_gets_deviation_one():
    statistics = motion.compute_statistics(np.ones((5, 263), dtype=np.float32))
    np.testing.assert_array_equal(statistics.std_F, 1)
    assert np.isfinite(statistics.normalise(np.ones((5, 263), dtype=np.float32))).all()


def test_broken_statistics_are_refused():
    good = np.ones(263, dtype=np.float32)
    with pytest.raises(DataError, match="263 finite"):
        motion.Statistics(good[:10], good)
    with pytest.raises(DataError, match="above 0"):
        motion.Statistics(good, good * 0)
    with pytest.raises(DataError, match="at least one frame"):
        motion.compute_statistics([])
