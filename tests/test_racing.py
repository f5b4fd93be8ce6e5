"""Racing on simulated trials: good ones are rarely stopped, hopeless ones often, and judge seeds count for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.config import RacingConfig
from search.racing import is_hopeless
from tests.bench import search

P = RacingConfig().p_threshold
Array = NDArray[np.float64]


def stopped(better: float, repetitions: int = 3, finished: int = 8, races: int = 400) -> float:
    """Return how often a trial is stopped that is truly so much better than the best finished one.

    In units of a repetition's own deviation, which is half of that between settings; repetitions are lucky for all.
    """
    rng, stops = np.random.default_rng(0), 0
    for _ in range(races):
        truth, shared = rng.normal(0, 2, (finished, 1)), rng.normal(0, 5, repetitions)
        scores = truth + shared + rng.normal(0, 1, (finished, repetitions))
        ours = truth[scores.mean(axis=1).argmax()] + better + shared + rng.normal(0, 1, repetitions)
        stops += any(is_hopeless(ours[:k], scores, P) for k in range(1, repetitions))
    return stops / races


@pytest.mark.parametrize("repetitions", [2, 3, 5])
def test_a_trial_as_good_as_the_best_is_seldom_stopped_and_a_hopeless_one_nearly_always(repetitions: int) -> None:
    assert stopped(0.0, repetitions) < 0.13
    assert stopped(1.0, repetitions) < 0.04
    assert stopped(-8.0, repetitions) > 0.95


def test_more_repetitions_tell_smaller_deficits() -> None:
    assert stopped(-2.0, repetitions=2) + 0.2 < stopped(-2.0, repetitions=5)


def test_it_is_paired_what_a_repetition_does_to_all_is_no_deficit() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (6, 1)) + np.array([0.0, 9.0, -9.0]) + rng.normal(0, 0.1, (6, 3))
    best = scores[scores.mean(axis=1).argmax()]
    assert not is_hopeless(best[:1], scores, P)
    assert is_hopeless(best[:1] - 2.0, scores, P)


def test_while_luck_is_not_known_nothing_is_stopped() -> None:
    rng = np.random.default_rng(0)
    awful = np.full(1, -100.0)
    assert not is_hopeless(awful, rng.normal(size=(2, 3)), P)  # 2 degrees of freedom
    assert is_hopeless(awful, rng.normal(size=(3, 3)), P)  # 4
    assert not is_hopeless(awful, rng.normal(size=(9, 1)), P)  # a single repetition has no spread


def test_trials_without_luck_that_are_equal_stay() -> None:
    assert not is_hopeless(np.array([0.5 - 1e-12]), np.full((5, 3), 0.5), P)
    assert is_hopeless(np.array([0.4]), np.full((5, 3), 0.5), P)


@pytest.mark.parametrize(("value", "expected"), [(True, RacingConfig()), (False, None), (None, None)])
def test_it_is_switched_by_a_word(value: bool | None, expected: RacingConfig | None) -> None:
    assert search(racing=value).racing == expected
    assert search().racing == RacingConfig()
    assert search(racing={"p_threshold": 0.1}).racing == RacingConfig(p_threshold=0.1)
