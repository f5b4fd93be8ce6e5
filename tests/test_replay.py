"""Replaying a pruner: what it saves and loses follows from how well its rung ranks, and from what scoring costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from kinemic.report import RungReport
from search.replay import Replayed, replay
from tests.bench import search

RUNGS = (4, 8, 16)
TRUTH = [0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
HALVING = {"kind": "successive_halving", "reduction_factor": 2}

Value = Callable[[int, int, int], float]  # of configuration, adaptation seed and steps


def report(steps: int, accuracy: float, scoring: float) -> RungReport:
    rung, seconds = RUNGS.index(steps), {"adapt": 1.0, "synthesise": scoring / 2, "classify": scoring / 2}
    return RungReport(rung, steps, RUNGS[-1], (accuracy, accuracy), {}, seconds, (), 0, "cpu", 0.0)


def replayed(value: Value, rungs: Sequence[int] = RUNGS, scoring: float = 0.0, **pruner: Any) -> Replayed:
    config = search(trial={"adapt": {"rungs": RUNGS}}, pruner=pruner or HALVING)
    instances = [
        [[[report(s, value(c, adaptation, s), scoring) for s in RUNGS] for c in range(len(TRUTH))]] * 2
        for adaptation in range(2)
    ]
    return replay(instances, config, rungs, np.random.default_rng(0), orders=60)


def true(configuration: int, adaptation: int, steps: int) -> float:
    return TRUTH[configuration]


def test_a_rung_that_ranks_as_the_last_one_never_loses_the_best() -> None:
    found = replayed(true)
    assert found.lost == found.regret == 0.0
    assert 0.3 < found.stopped < 0.9
    # Nothing is scored for free here: a third or two of a stopped trial's steps are what is saved.
    assert found.stopped / 3 <= found.saved <= found.stopped * 2 / 3


def test_a_rung_that_ranks_the_other_way_round_loses_the_best_and_says_how_much_worse_what_is_left_is() -> None:
    found = replayed(lambda c, a, steps: TRUTH[c] if steps == RUNGS[-1] else -TRUTH[c])
    assert found.lost > 0.5
    assert found.regret >= found.lost * (TRUTH[0] - TRUTH[1])


def test_a_rung_that_ranks_by_luck_loses_the_best_as_often_as_any() -> None:
    luck = np.random.default_rng(3).random((len(TRUTH), 2))
    found = replayed(lambda c, a, steps: TRUTH[c] if steps == RUNGS[-1] else luck[c, a])
    assert 0 < found.lost < 1
    assert found.regret > 0


def test_which_is_best_is_said_by_other_seeds_than_those_that_were_pruned_on() -> None:
    # The last configuration is the best on one adaptation seed and the worst on the other, where it is stopped.
    found = replayed(lambda c, a, steps: float(a) if c == len(TRUTH) - 1 else TRUTH[c])
    assert found.lost > 0.4


@pytest.mark.parametrize("rung", RUNGS[:-1])
def test_pruning_at_one_rung_stops_there_alone(rung: int) -> None:
    found = replayed(true, (rung, RUNGS[-1]))
    left = (RUNGS.index(RUNGS[-1]) - RUNGS.index(rung)) / len(RUNGS)
    assert found.saved == pytest.approx(found.stopped * left)


def test_scoring_a_rung_may_cost_more_than_stopping_saves() -> None:
    assert replayed(true, (4, 16), scoring=0.1).saved > 0 > replayed(true, (8, 16), scoring=20.0).saved


def test_the_pruner_is_the_searches_own() -> None:
    assert replayed(true, kind="none") == Replayed(0.0, 0.0, 0.0, 0.0)
    assert replayed(true, kind="median", startup_trials=8).stopped == 0.0
    assert 0 < replayed(true, kind="median", startup_trials=2).stopped < replayed(true).stopped
