"""The range of motion: of movements whose range is known."""

from __future__ import annotations

import numpy as np
import pytest

from kinemic.errors import DataError
from kinemic.motion_range import LIMBS, range_of_motion


def test_a_body_that_stands_or_glides_has_no_range() -> None:
    clip = np.tile(np.random.default_rng(0).normal(size=(22, 3)), (60, 1, 1))
    clip += np.linspace(0, 3, 60)[:, None, None] * np.array([1.0, 0.0, 1.0])
    assert range_of_motion(clip) == pytest.approx(np.zeros(len(LIMBS)), abs=1e-12)


def test_a_crouch_and_a_swing_have_the_range_that_they_cover() -> None:
    wave = np.sin(np.linspace(0, 4 * np.pi, 400))
    clip = np.zeros((400, 22, 3))
    clip[:, :, 1] += 0.2 * wave[:, None]  # the whole body, down and up
    clip[:, 20, 0] += 0.3 * wave
    clip[:, 20, 2] += 0.4 * wave  # the left wrist by 0.5 m to either side
    expected = np.array([0.4, 0, 1.0, 0, 0, 0])
    assert range_of_motion(clip) == pytest.approx(expected, rel=0.02, abs=1e-9)


def test_jitter_of_a_sensor_counts_little() -> None:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(100, 22, 3))
    assert range_of_motion(noise).max() < 0.04  # unsmoothed it would be 0.08


def test_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="22, 3"):
        range_of_motion(np.zeros((10, 21, 3)))
