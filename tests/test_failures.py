"""What becomes of a trial that fails, by kind; without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.failures import BUG, DIVERGED, OUT_OF_MEMORY, Failure
from search.folder import SearchFolder
from search.ledger import Assignment, SearchStoppedError
from search.live import trial_table
from search.shares import Share
from search.status import trial_rows
from tests import analytic
from tests.bench import SPACE, Bench, search

TWO = Share(1.0, 0.0, 2, Share(2.0, 0.0, 1))
NO_MEMORY = Failure(OUT_OF_MEMORY, "MemoryError: no memory")


def started(bench: Bench) -> Assignment:
    assignment = bench.ledger.next()
    assert assignment is not None
    return assignment


def test_without_a_gpu_a_trial_out_of_memory_is_tried_again_alone(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 5}), tmp_path, share=TWO)
    first, second = started(bench), started(bench)
    bench.ledger.fail(first.number, NO_MEMORY)
    assert bench.study.trials[first.number].state == TrialState.RUNNING
    assert bench.ledger.next() is None  # not even a new trial: the large one would wait for ever
    bench.run(second)
    assert started(bench) == Assignment(first.number, first.values, Share(2.0, 0.0, 1))
    assert bench.ledger.next() is None
    bench.ledger.fail(first.number, NO_MEMORY)
    row = trial_rows(bench.study)[first.number]
    assert (row.state, row.failure) == ("infeasible", "out of memory: MemoryError: no memory")
    assert bench.tracker.ended[first.number] == ("FAILED", NO_MEMORY)
    assert started(bench).share == TWO


def test_the_second_chance_is_not_given_again_after_a_resume(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}), tmp_path, share=TWO)
    bench.ledger.fail(started(bench).number, NO_MEMORY)
    bench.ledger = bench.sitting()
    bench.ledger.reconcile()
    assert started(bench).share == Share(2.0, 0.0, 1)
    bench.ledger.fail(0, NO_MEMORY)
    assert bench.ledger.finished
    assert bench.study.trials[0].constraints == {"memory": 1.0}


def test_the_sampler_learns_which_sizes_are_infeasible(tmp_path: Path) -> None:
    banks = {"type": "categorical", "choices": [60, analytic.RUNS_OUT]}
    config = search(space={**SPACE, "loss.bank_size": banks}, pruner="none", budget={"trials": 24}, sampler="tpe")
    sizes = [trial.params["loss.bank_size"] for trial in Bench(config, tmp_path).run_all()]
    assert sizes[:10].count(analytic.RUNS_OUT) >= 3  # still at random
    assert sizes[10:].count(analytic.RUNS_OUT) <= 3


def test_three_bugs_in_a_row_stop_the_search_and_a_resume_starts_with_a_clean_count(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 9}), tmp_path, share=Share(1.0, 0.0, 9))
    for _ in range(9):
        started(bench)
    bug = Failure(BUG, "KeyError: 'x'")
    for number, failure in enumerate([bug, bug, Failure(DIVERGED, "nan"), bug, bug]):
        bench.ledger.fail(number, failure)
        assert bench.ledger.next() is None
    bench.ledger.fail(5, bug)
    with pytest.raises(SearchStoppedError, match=r"^3 trials in a row failed with a bug \(3, 4, 5\): KeyError: 'x'$"):
        bench.ledger.next()
    bench.ledger = bench.sitting()
    assert [started(bench).number for _ in range(3)] == [6, 7, 8]


def test_a_trial_whose_workers_die_goes_on_as_long_as_it_gets_further(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}, pruner="none"), tmp_path)
    for rungs in (0, 0, 1, 1, 2, 2):
        bench.run(started(bench), stop_after=rungs)
        bench.ledger.lose(0, "ActorDiedError: killed")
    (trial,) = bench.run_all()
    assert trial.state == TrialState.COMPLETE


def test_status_has_a_column_of_kinds(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 2}), tmp_path)
    bench.ledger.fail(started(bench).number, Failure(BUG, "KeyError: 'x'"))
    bench.run_all()
    table = trial_table(trial_rows(bench.study), SearchFolder(tmp_path))
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["failure"] == ["bug", ""]
    assert cells["motion"] == ["", "0.25"]  # only a trial that came to its last rung was looked at
    assert cells["settings"][0] == "KeyError: 'x'"
