"""The search's own run while it goes on: goal curve, leaderboard, importances; a second sitting doubles nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search import board
from search.board import Board, description, importances, leaders_so_far
from search.confirmation import ConfirmedRow
from search.status import trial_rows
from search.tracking import Tracker, open_tracker
from search.wording import accuracy, ranked
from tests.bench import Bench, search
from tests.test_search_report import CONFIRMED


def bench(folder: Path, trials: int, pruner: Any = "none") -> Bench:
    made = Bench(search(budget={"trials": trials}, sampler="random", pruner=pruner), folder)
    made.run_all()
    return made


def test_the_goal_curve_has_a_point_for_each_ended_trial_with_the_best_until_then(tmp_path: Path) -> None:
    made = bench(tmp_path, 9, {"kind": "median", "startup_trials": 4})
    curve = [(step, best.value, when) for step, best, when in leaders_so_far(made.study)]
    trials = made.study.get_trials()  # one at a time: they ended in the order of their numbers
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    values = [t.value for t in trials if t.state == TrialState.COMPLETE]
    assert values != sorted(values)  # some finished trial is no gain
    assert [step for step, _, _ in curve] == list(range(1, 10))
    for step, best, when in curve:
        assert best == max(t.value for t in trials[:step] if t.state == TrialState.COMPLETE)
        assert when == trials[step - 1].datetime_complete


def test_the_description_ranks_the_finished_trials_and_says_how_to_go_on(tmp_path: Path) -> None:
    made = bench(tmp_path, 14, "successive_halving")
    rows = trial_rows(made.study)
    complete = sum(row.state == "complete" for row in rows)
    text = description(rows, 20, {"adapt.learning_rate": 0.75}, "mine", Path("some where"), "#/experiments/1")
    assert text.startswith(f"**14 of 20 trials**: {complete} complete, {14 - complete} pruned. Best: trial ")
    shown = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [(cells[0], cells[1].replace("\u00a0", " ")) for cells in shown] == [
        (f"| {row.number}", accuracy(row)) for row in ranked(rows)[: board.LEADERS]
    ]
    assert "adapt.learning_rate 75.0 %" in text
    assert "chosen on these clips). [All trials, the best first](#/experiments/1)\n\n| trial" in text
    for line in ("resume mine", "report mine", "export mine DIR"):
        assert f"    kinemic search {line} --runs 'some where'" in text


def test_what_was_confirmed_is_said_beside_the_best_of_the_search(tmp_path: Path) -> None:
    rows = trial_rows(bench(tmp_path, 6).study)
    first = description(rows, 6, {}, "mine", trials_link="#/experiments/1", confirmed=CONFIRMED).splitlines()[0]
    assert first.endswith(
        " **Confirmed: trial 3**, dev 71.0 +- 2.0 % on 3 fresh seeds, test 64.0 % (60.0 to 68.0), minus real + "
        "augmentation 8.0 (-1.0 to 17.0, noise). [All trials, the best first](#/experiments/1)"
    )
    untested = CONFIRMED.model_copy(update={"rows": tuple(dev_side(row) for row in CONFIRMED.rows)})
    assert description(rows, 6, {}, "mine", confirmed=untested).splitlines()[0].endswith("on 3 fresh seeds.")


def dev_side(row: ConfirmedRow) -> ConfirmedRow:
    kept = row.model_dump(include={"key", "title", "baseline", "dev_accuracies", "dev_mean", "dev_se"})
    return ConfirmedRow(**kept)


def test_a_search_without_a_finished_trial_is_described_too(tmp_path: Path) -> None:
    made = Bench(search(budget={"trials": 2}), tmp_path)
    made.ledger.next()
    text = description(trial_rows(made.study), 2, {}, "mine")
    assert text.startswith("**1 of 2 trials**: 1 running.")
    assert "Best" not in text


def test_importances_need_enough_finished_trials(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    assert importances(bench(tmp_path / "few", board.LEAST_FOR_IMPORTANCES - 1).study) == {}
    found = importances(bench(tmp_path, 20).study)
    assert sum(found.values()) == pytest.approx(1.0)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    # The analytic accuracy depends on these two alone.
    assert set(list(found)[:2]) == {"synthesis.guidance", "adapt.learning_rate"}


def test_two_sittings_leave_one_curve_and_the_last_description(empty_store: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")

    def opened() -> tuple[Tracker, Board]:
        tracker = open_tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "test", "study-1", "mine", tmp_path / "store")
        return tracker, Board(tracker, made.study, "mine", 12, "")

    made = Bench(search(budget={"trials": 12}, pruner="none"), tmp_path)
    for trials in (5, 12):
        tracker, shown = opened()
        while len(made.study.get_trials()) < trials and (assignment := made.ledger.next()):
            made.run(assignment)
            shown.update(trial_rows(made.study))
        shown.update(trial_rows(made.study), last=True)
        assert tracker.close("FINISHED")
        assert tracker.refused == []
        run = tracker._client.get_run(tracker.parent_id)
        assert run.data.tags[board.NOTE_TAG].startswith(f"**{trials} of 12 trials**")
    history = tracker._client.get_metric_history(tracker.parent_id, "best_dev_accuracy")
    assert [(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)] == [
        (step, best.value) for step, best, _ in leaders_so_far(made.study)
    ]
    for path, value in importances(made.study).items():
        assert run.data.metrics[f"importance_{path}"] == pytest.approx(value)
