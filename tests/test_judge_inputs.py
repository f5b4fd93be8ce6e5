from __future__ import annotations

import numpy as np
import pytest

from kinemic.errors import DataError
from kinemic.judge_inputs import judge_inputs
from kinemic.skeleton import LEFT_HIP, LEFT_SHOULDER, RIGHT_HIP, RIGHT_SHOULDER


def _clip(frames, seed=0):
    """A body that faces +z in frame 0: its left is +x."""
    clip = np.random.default_rng(seed).normal(scale=0.1, size=(frames, 22, 3)).astype(np.float32)
    clip[0, [LEFT_HIP, RIGHT_HIP, LEFT_SHOULDER, RIGHT_SHOULDER]] = [
        [0.1, 1, 0],
        [-0.1, 1, 0],
        [0.2, 1, 0],
        [-0.2, 1, 0],
    ]
    return clip


def _turned(clip, degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    return (clip @ turn).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 35, 90, 180, 260])
def test_where_a_clip_stands_and_looks_does_not_matter(degrees):
    clip = _clip(10)
    moved = _turned(clip, degrees) + np.array([3.0, 0.4, -2.0], np.float32)
    np.testing.assert_allclose(judge_inputs([moved], 10), judge_inputs([clip], 10), atol=2e-6)


def test_frame_0_faces_forward_and_later_turns_are_kept():
    clip = _clip(10)
    clip[5:] = _turned(clip[:1], 90)
    x = judge_inputs([_turned(clip, 50)], 10)[0]
    np.testing.assert_allclose(x[0, LEFT_HIP] - x[0, RIGHT_HIP], [0.2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(x[5, LEFT_HIP] - x[5, RIGHT_HIP]), [0, 0, 0.2], atol=1e-6)


def test_the_pelvis_stays_over_the_origin_and_keeps_its_rise():
    clip = _clip(6)
    rise = np.linspace(0, 0.5, 6, dtype=np.float32)
    clip[:, 0] = np.stack([rise, 1 + rise, -rise], axis=1)
    x = judge_inputs([clip], 6)[0]
    np.testing.assert_allclose(x[:, 0, [0, 2]], 0, atol=1e-6)
    np.testing.assert_allclose(x[:, 0, 1], rise, atol=1e-6)


def test_clips_of_any_length_are_resampled_together_as_alone():
    clips = [_clip(n, seed=n) for n in (1, 2, 7, 30)]
    together = judge_inputs(clips, 12)
    assert together.shape == (4, 12, 22, 3)
    assert together.dtype == np.float32
    for clip, x in zip(clips, together, strict=True):
        np.testing.assert_array_equal(judge_inputs([clip], 12)[0], x)


def test_resampling_is_linear_and_keeps_both_ends():
    clip = np.repeat(_clip(1), 5, axis=0)
    clip[:, 20, 1] += np.array([0, 1, 4, 9, 16], np.float32)
    heights = judge_inputs([clip], 9)[0, :, 20, 1]
    np.testing.assert_allclose(heights - heights[0], [0, 0.5, 1, 2.5, 4, 6.5, 9, 12.5, 16], atol=1e-5)


def test_the_given_clips_are_left_alone():
    clip = _clip(8)
    before = clip.copy()
    judge_inputs([clip], 8)
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize(
    ("clips", "says"),
    [
        ([], "at least one"),
        ([np.zeros((4, 21, 3))], "22, 3"),
        ([np.zeros((0, 22, 3))], "0, 22, 3"),
        ([np.zeros((4, 22, 3)), np.full((4, 22, 3), np.nan)], "index 1"),
    ],
)
def test_clips_that_cannot_be_used_are_refused(clips, says):
    with pytest.raises(DataError, match=says):
        judge_inputs(clips, 8)
