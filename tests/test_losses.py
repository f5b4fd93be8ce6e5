"""Invariants of the loss terms' parts; their numbers are compared in parity/test_d_functions.py."""

from __future__ import annotations

import math

import pytest
import torch

from kinemic.losses import (
    MemoryBank,
    cut_windows,
    dynamic_window_weight,
    find_windows,
    length_mask,
    masked_mse,
    prior_timesteps,
    soft_nearest_neighbours,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_masked_error_sees_nothing_beyond_the_length() -> None:
    a, b, lengths = random(2, 5, 3), random(2, 5, 3, seed=1), torch.tensor([5, 2])
    error = masked_mse(a, b, length_mask(lengths, 5))
    assert error[1] == pytest.approx(float((a[1, :2] - b[1, :2]).square().mean()), rel=1e-5)
    a[1, 2:] += 100
    torch.testing.assert_close(masked_mse(a, b, length_mask(lengths, 5)), error)


def test_masked_error_of_an_empty_mask_is_zero() -> None:
    assert masked_mse(random(1, 4, 2), random(1, 4, 2, seed=1), torch.zeros(1, 4, dtype=torch.bool)).item() == 0


def test_neighbours_of_the_right_label_lower_the_loss() -> None:
    anchors, labels, scale = torch.eye(3, 8), torch.arange(3), torch.tensor(math.log(10))
    right = soft_nearest_neighbours(anchors, anchors, labels, labels, scale)
    wrong = soft_nearest_neighbours(anchors, anchors, labels, labels.roll(1), scale)
    assert (right < 0.01).all()
    assert (wrong > 5).all()


def test_neighbours_go_by_direction_not_by_size() -> None:
    anchors, labels = random(4, 8), torch.tensor([0, 1, 0, 1])
    loss = soft_nearest_neighbours(anchors, anchors, labels, labels, torch.tensor(1.0))
    larger = soft_nearest_neighbours(anchors * 7, anchors / 3, labels, labels, torch.tensor(1.0))
    torch.testing.assert_close(larger, loss)


def test_a_window_is_the_stretch_with_the_largest_mass_inside_the_clip() -> None:
    attention = torch.tensor([[0.1, 0.0, 0.4, 0.4, 0.1, 9.0], [0.2, 0.2, 0.2, 0.0, 0.0, 0.0]])
    starts, lengths = find_windows(attention, torch.tensor([5, 3]), torch.tensor([2, 4]))
    assert starts.tolist() == [2, 0]
    assert lengths.tolist() == [2, 3]  # the second target is longer than its source clip: all of it


def test_windows_match_a_search_frame_by_frame() -> None:
    attention = random(20, 30).abs()
    prior = torch.randint(1, 31, (20,), generator=torch.Generator().manual_seed(1))
    target = torch.randint(1, 31, (20,), generator=torch.Generator().manual_seed(2))
    starts, lengths = find_windows(attention, prior, target)
    for row, (p, t) in enumerate(zip(prior.tolist(), target.tolist(), strict=True)):
        n = min(p, t)
        sums = [float(attention[row, s : s + n].sum()) for s in range(p - n + 1)]
        assert sums[int(starts[row])] == pytest.approx(max(sums), rel=1e-5)
        assert int(lengths[row]) == n


def test_a_cut_window_is_padded_with_its_own_last_frame() -> None:
    x = torch.arange(6.0)[None, :, None]
    assert cut_windows(x, torch.tensor([2]), torch.tensor([3]), 5).flatten().tolist() == [2, 3, 4, 4, 4]


def test_the_window_weight_runs_from_opposite_to_equal_and_has_no_gradient() -> None:
    z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weights = [float(dynamic_window_weight(z, other)) for other in (-z, z.flip(1), 2 * z)]
    assert weights == pytest.approx([0.0, 0.5, 1.0])
    assert not dynamic_window_weight(z, z).requires_grad


@pytest.mark.parametrize(("steps", "prior_steps"), [(100, 50), (50, 50), (20, 50), (7, 3)])
def test_prior_timesteps_stay_within_the_prior(steps: int, prior_steps: int) -> None:
    t = prior_timesteps(torch.arange(steps), steps, prior_steps)
    expected = [min(math.ceil(k * prior_steps / steps), prior_steps - 1) for k in range(steps)]
    assert t.tolist() == expected


def test_the_bank_keeps_the_newest_and_no_graph() -> None:
    bank = MemoryBank(3, 2)
    for value in range(3):
        bank.push(torch.full((2, 2), float(value), requires_grad=True), torch.tensor([value, value]))
    assert bank.embeddings_ND[:, 0].tolist() == [1, 2, 2]
    assert bank.labels_N.tolist() == [1, 2, 2]
    assert not bank.embeddings_ND.requires_grad


def test_a_bank_of_size_zero_stays_empty() -> None:
    bank = MemoryBank(0, 2)
    bank.push(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert len(bank.embeddings_ND) == len(bank.labels_N) == 0
