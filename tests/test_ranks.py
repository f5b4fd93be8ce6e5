"""Rank correlation of rungs: what is luck that both share, and how far few configurations can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from search.ranks import other_seeds, same_seeds


def test_it_is_spearmans_of_the_means_also_with_ties() -> None:
    early, last = np.random.default_rng(0).integers(4, size=(2, 9, 3)).astype(float)
    expected = stats.spearmanr(early.mean(axis=1), last.mean(axis=1)).statistic
    assert same_seeds(early, last, np.random.default_rng(0)).value == pytest.approx(expected)


def test_shared_luck_is_agreement_on_the_same_seeds_alone() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(size=(12, 4))  # no configuration is better than another
    early, last = (luck + rng.normal(0, 0.1, luck.shape) for _ in range(2))
    assert same_seeds(early, last, rng).value > 0.9
    apart = other_seeds(early, last, rng)
    assert abs(apart.value) < 0.5
    assert apart.low < 0 < apart.high


def test_on_other_seeds_a_rung_agrees_no_better_with_the_last_than_that_with_itself() -> None:
    rng = np.random.default_rng(1)
    truth, reached = rng.normal(size=(200, 1)), rng.normal(size=(200, 1))
    last = truth + rng.normal(0, 0.5, (200, 3))
    early = truth + reached + rng.normal(0, 0.5, (200, 3))
    ceiling, agreement = (other_seeds(rung, last, rng) for rung in (last, early))
    assert 0 < agreement.value < ceiling.value < same_seeds(last, last, rng).value == 1.0


def test_the_interval_holds_the_true_correlation_about_95_times_in_100() -> None:
    rng, rho, held = np.random.default_rng(0), 0.8, []
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's of a normal pair
    for _ in range(150):
        early = rng.normal(size=(8, 1))
        last = rho * early + np.sqrt(1 - rho**2) * rng.normal(size=(8, 1))
        found = same_seeds(early, last, rng)
        held.append(found.low <= truth <= found.high)
    assert 0.9 <= np.mean(held) < 1


def test_equal_configurations_have_no_ranks() -> None:
    found = same_seeds(np.ones((5, 2)), np.ones((5, 2)), np.random.default_rng(0))
    assert np.isnan([found.value, found.low, found.high]).all()
