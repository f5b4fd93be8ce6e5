from __future__ import annotations

import math

import pytest
import torch

from kinemic.augment import Augmentation, augment

NOTHING = Augmentation(yaw=0, scale=0, crop=0, warp=0, jitter=0)


def _clips(clips=3, frames=12, joints=5):
    return torch.randn((clips, frames, joints, 3), generator=torch.Generator().manual_seed(1))


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _only(**ranges):
    return Augmentation(**({"yaw": 0.0, "scale": 0.0, "crop": 0.0, "warp": 0.0, "jitter": 0.0} | ranges))


def test_ranges_of_zero_change_nothing():
    clips = _clips()
    torch.testing.assert_close(augment(clips, _generator(), NOTHING), clips)


def test_a_seed_decides_the_result_and_the_input_is_left_alone():
    clips = _clips()
    before = clips.clone()
    first = augment(clips, _generator(3))
    assert torch.equal(first, augment(clips, _generator(3)))
    assert not torch.allclose(first, augment(clips, _generator(4)))
    assert torch.equal(clips, before)


def test_yaw_keeps_heights_and_distances_and_stays_in_range():
    x_axis = torch.zeros(400, 2, 1, 3)
    x_axis[..., 0] = 1.0
    x_axis[..., 1] = 0.5
    turned = augment(x_axis, _generator(), _only(yaw=30.0))
    torch.testing.assert_close(turned[..., 1], x_axis[..., 1])
    torch.testing.assert_close(turned.norm(dim=-1), x_axis.norm(dim=-1))
    angles = torch.rad2deg(torch.atan2(turned[:, 0, 0, 2], turned[:, 0, 0, 0]))
    assert angles.abs().max() <= 30.001
    assert angles.min() < -25
    assert angles.max() > 25


def test_scale_is_one_factor_a_clip_within_its_range():
    clips = _clips(clips=300).abs() + 0.1
    factors = (augment(clips, _generator(), _only(scale=0.1)) / clips).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-5, atol=1e-5)
    assert 0.8999 <= factors.min() < 0.92
    assert 1.08 < factors.max() <= 1.1001


def _ramp(clips=200, frames=21):
    """Every coordinate of frame t is t: the output reads off which times were taken."""
    return torch.arange(frames, dtype=torch.float32).reshape(1, -1, 1, 1).expand(clips, frames, 1, 3)


def test_crop_takes_a_stretch_at_even_speed():
    times = augment(_ramp(), _generator(), _only(crop=0.2))[:, :, 0, 0]
    length = times[:, -1] - times[:, 0]
    assert times.min() >= 0
    assert times.max() <= 20
    assert 16 <= length.min() < 16.5
    assert times[:, 0].max() > 3  # the start moves too
    steps = times.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-3)


def test_warp_keeps_the_ends_and_never_turns_back():
    times = augment(_ramp(), _generator(), _only(warp=0.1))[:, :, 0, 0]
    torch.testing.assert_close(times[:, [0, -1]], torch.tensor([[0.0, 20.0]]).expand(200, 2), rtol=0, atol=1e-4)
    assert (times.diff(dim=1) > 0).all()
    middle = times[:, 10] - 10
    assert middle.min() < -1.5
    assert middle.max() > 1.5


def test_jitter_has_the_given_deviation():
    noise = augment(torch.zeros(50, 20, 22, 3), _generator(), _only(jitter=0.01))
    assert float(noise.std()) == pytest.approx(0.01, rel=0.05)


def test_a_clip_of_one_frame_is_still_a_clip():
    assert augment(torch.ones(2, 1, 22, 3), _generator()).shape == (2, 1, 22, 3)


def test_the_default_ranges_are_those_of_the_method():
    defaults = Augmentation()
    assert (defaults.yaw, defaults.scale) == (30.0, 0.1)
    assert 0 < defaults.warp < 1 / math.pi
