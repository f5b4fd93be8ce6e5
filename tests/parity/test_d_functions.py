"""Golden set d_functions: the pure functions of the adaptation loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from kinemic.losses import (
    MemoryBank,
    cut_windows,
    find_windows,
    masked_mean,
    masked_mse,
    prior_timesteps,
    soft_nearest_neighbours,
)

Close = Callable[[Any, Any], None]


@pytest.fixture(scope="module")
def numbers(golden: Callable[[str], Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in golden("d_functions").items()}


def test_soft_nearest_neighbours_value_and_gradients(numbers: dict[str, torch.Tensor], assert_close: Close) -> None:
    leaves = [numbers[k].clone().requires_grad_() for k in ("snn_a", "snn_b", "snn_logit_scale")]
    loss = soft_nearest_neighbours(leaves[0], leaves[1], numbers["snn_ya"], numbers["snn_yb"], leaves[2])
    assert_close(loss, numbers["snn_loss"])
    assert_close(loss, numbers["snn_loss_simple"])
    loss.mean().backward()
    for leaf, name in zip(leaves, ("a", "b", "logit_scale"), strict=True):
        assert_close(leaf.grad, numbers[f"snn_grad_{name}"])


def test_soft_nearest_neighbours_without_a_positive_is_infinite(
    numbers: dict[str, torch.Tensor], assert_close: Close
) -> None:
    a, b, scale = numbers["snn_a"], numbers["snn_b"], numbers["snn_logit_scale"]
    loss = soft_nearest_neighbours(a, b, numbers["snn_ya"], numbers["snn_yb_missing"], scale)
    assert_close(loss, numbers["snn_loss_missing"])


def test_masked_means(numbers: dict[str, torch.Tensor], assert_close: Close) -> None:
    a, b = (numbers[k].flatten(1, 2).transpose(1, 2) for k in ("mlx_a", "mlx_b"))  # (B, T, F)
    mask = numbers["mlx_mask"][:, 0, 0]
    assert_close(masked_mse(a, b, mask), numbers["mlx_l2"])
    assert_close(masked_mean((a - b).abs(), mask), numbers["mlx_l1"])
    assert_close(masked_mse(a, b, mask) * a.shape[2], numbers["mlx_l2_noentries"])


def test_windows(numbers: dict[str, torch.Tensor]) -> None:
    starts, lengths = find_windows(numbers["win_scores"], numbers["win_prior_len"], numbers["win_target_len"])
    assert starts.tolist() == numbers["win_start"].tolist()
    assert lengths.tolist() == numbers["win_eff_len"].tolist()


@pytest.mark.parametrize("name", ["align", "align3"])
def test_cutting_windows(numbers: dict[str, torch.Tensor], assert_close: Close, name: str) -> None:
    x, expected = (numbers[f"{name}_{k}"].flatten(1, -2).transpose(1, 2) for k in ("x", "out"))
    cut = cut_windows(x, numbers["win_start"], numbers["win_eff_len"], expected.shape[1])
    assert_close(cut, expected)


def test_memory_bank(numbers: dict[str, torch.Tensor], assert_close: Close) -> None:
    calls = numbers["bank_in"]
    bank = MemoryBank(int(numbers["bank_limit"]), calls.shape[2])
    for call, embeddings in enumerate(calls):
        size = int(numbers["bank_returned_size"][call])
        assert_close(bank.embeddings_ND, numbers["bank_returned"][call, :size])
        assert bank.labels_N.tolist() == numbers["bank_returned_y"][call, :size].tolist()
        bank.push(embeddings, numbers["bank_in_y"][call])
    assert_close(bank.embeddings_ND, numbers["bank_final"])
    assert bank.labels_N.tolist() == numbers["bank_final_y"].tolist()


def test_prior_timesteps(numbers: dict[str, torch.Tensor]) -> None:
    """The published table's one entry past the prior's last step is a defect; here it is clamped."""
    for key in (k for k in numbers if k.startswith("prior_t_") and k != "prior_t_in"):
        steps, prior_steps = map(int, key.removeprefix("prior_t_").split("_"))
        expected = numbers[key].clamp_max(prior_steps - 1)
        assert prior_timesteps(torch.arange(len(expected)), steps, prior_steps).tolist() == expected.tolist()
