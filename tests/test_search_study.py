"""The ledger and its study, without Ray: what workers report is what the study holds, also after a stop."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from kinemic.config import TrialSeeds
from kinemic.errors import DivergedError, KinemicError
from kinemic.progress import silent
from kinemic.report import RungReport
from search import ledger
from search import study as studies
from search.failures import Failure, classify
from search.ledger import Assignment
from search.pruners import decide
from search.shares import Share
from search.space import contains
from search.status import trial_rows
from tests import analytic
from tests.bench import ALONE, RUNGS, SPACE, Bench, search

PRUNERS: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "median", "startup_trials": 2},
    {"kind": "successive_halving", "reduction_factor": 2},
    {"kind": "hyperband", "reduction_factor": 2},
    {"kind": "wilcoxon", "p_threshold": 0.1},
]


REPETITIONS = [{"adaptation": 10 * k, "judge": [0, 1]} for k in range(3)]
STEPS = [*RUNGS, RUNGS[-1] + 1, RUNGS[-1] + 2]  # of the reports of three repetitions


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: str(pruner["kind"]))
def test_the_study_holds_what_the_trials_reported_under_each_pruner(tmp_path: Path, pruner: dict[str, Any]) -> None:
    bench = Bench(search(pruner=pruner, budget={"trials": 12}), tmp_path)
    trials = bench.run_all()
    assert len(trials) == 12
    for trial in trials:
        assert trial.intermediate_values == bench.reported[trial.number]
        whole = max(trial.intermediate_values) == RUNGS[-1]
        assert trial.state == (TrialState.COMPLETE if whole else TrialState.PRUNED)
        assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
        assert [r.dev_accuracy for r in studies.reports(trial)] == list(trial.intermediate_values.values())
        assert bench.tracker.ended[trial.number] == ("FINISHED" if whole else "KILLED", None)
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    assert (pruned > 0) == (pruner["kind"] != "none")


def test_the_same_seed_gives_the_same_study_and_another_seed_another(tmp_path: Path) -> None:
    def values(seed: int, folder: str) -> list[dict[str, Any]]:
        (tmp_path / folder).mkdir()
        bench = Bench(
            search(sampler={"kind": "tpe", "seed": seed, "startup_trials": 3}, budget={"trials": 7}), tmp_path / folder
        )
        return [trial.params for trial in bench.run_all()]

    first = values(1, "a")
    assert first == values(1, "b")
    assert first != values(2, "c")


def test_a_search_that_was_stopped_anywhere_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    config = search(
        storage=None,
        budget={"trials": 8},
        pruner={"kind": "median", "startup_trials": 2},
        seeds=REPETITIONS,
        sampler={"startup_trials": 3},
    )
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    undisturbed = Bench(config, tmp_path / "whole").run_all()

    bench = Bench(config, tmp_path / "broken")
    for stop_after in (0, 1, 2, 3, 4, 0, 1):
        assignment = bench.ledger.next()
        assert assignment is not None
        bench.run(assignment, stop_after)  # the driver dies here: nothing more is told to the study
        bench.study = studies.open_study(config, tmp_path / "broken", studies.study_name(config, bench.space))
        bench.ledger = bench.sitting()
        if bench.study.trials[assignment.number].state == TrialState.RUNNING:
            again = bench.ledger.next()
            assert again == assignment
            bench.run(again)
    resumed = bench.run_all()
    assert [(t.state, t.params, t.intermediate_values) for t in resumed] == [
        (t.state, t.params, t.intermediate_values) for t in undisturbed
    ]
    for trial in resumed:  # no rung was computed twice
        trace = (tmp_path / "broken" / "trials" / f"{trial.number:04d}" / analytic.TRACE).read_text().splitlines()
        assert [int(line.split()[0]) for line in trace] == STEPS[: len(trace)]


def test_a_rung_that_the_dead_driver_never_took_is_replayed(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}), tmp_path)
    assignment = bench.ledger.next()
    assert assignment is not None
    workdir = bench.ledger.workdir(0)
    workdir.mkdir(parents=True)
    trial = studies.trial_config(bench.config, assignment.values)
    rungs = analytic.run_trial(analytic.inputs(workdir), trial, (TrialSeeds(),), workdir, "cpu", silent)
    next(rungs)
    bench.ledger = bench.sitting()
    (trial_0,) = bench.run_all()
    assert list(trial_0.intermediate_values) == RUNGS


def raced(folder: Path, **more: Any) -> list[FrozenTrial]:
    # The analytic trial's luck is the same for every setting, so that any deficit is more than luck.
    config = search(pruner="none", sampler="random", seeds=REPETITIONS, budget={"trials": 12}, **more)
    return Bench(config, folder).run_all()


def test_racing_gives_hopeless_trials_one_repetition_and_the_best_so_far_all(tmp_path: Path) -> None:
    best, finished = 0.0, 0
    for trial in raced(tmp_path):
        steps, first = list(trial.intermediate_values), trial.intermediate_values[RUNGS[-1]]
        hopeless = finished >= 3 and first < best  # before that nothing is known of luck
        assert steps == STEPS[: len(RUNGS)] if hopeless else steps == STEPS
        assert trial.state == (TrialState.PRUNED if hopeless else TrialState.COMPLETE)
        assert [len(report.accuracies) for report in studies.reports(trial)] == [2, 2, 2, 4, 6][: len(steps)]
        best, finished = (best, finished) if hopeless else (max(best, first), finished + 1)
    assert 3 < finished < 9


def test_without_racing_every_trial_gets_all_repetitions(tmp_path: Path) -> None:
    assert all(list(trial.intermediate_values) == STEPS for trial in raced(tmp_path, racing=False))


class PrunesAlways(optuna.pruners.BasePruner):
    """Stops whatever it is asked about."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return True


def test_what_racing_decided_is_asked_once_and_kept(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 6}, pruner="none", sampler="random", seeds=REPETITIONS), tmp_path)
    for stop_after in (math.inf, math.inf, math.inf, math.inf, len(RUNGS) - 1):
        assignment = bench.ledger.next()
        assert assignment is not None
        bench.run(assignment, stop_after)
    number = bench.study.trials[-1].number
    trial = optuna.Trial(bench.study, bench.study.trials[number]._trial_id)
    report = RungReport(2, 16, 16, (0.0, 0.0), {}, {}, (), 0, "cpu", 0.0, repetitions=3)
    studies.store_report(trial, report)
    assert decide(trial, report, bench.config.racing)  # and the driver dies before it tells the study
    assert decide(trial, report, None), "a decision that was made is not made again"
    assert studies.decision(trial) == studies.Decision(16, True)


def test_a_resumed_trial_is_not_stopped_at_a_rung_that_it_had_passed(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}, pruner="none"), tmp_path)
    assignment = bench.ledger.next()
    assert assignment is not None
    bench.run(assignment, stop_after=1)
    bench.ledger = bench.sitting()
    bench.study.pruner = PrunesAlways()  # as when the trials that ended meanwhile are better
    (trial,) = bench.run_all()
    assert trial.state == TrialState.PRUNED
    assert list(trial.intermediate_values) == RUNGS[:2]


def test_no_two_random_trials_are_the_same(tmp_path: Path) -> None:
    _, *others = Bench(search(budget={"trials": 5}, sampler="random"), tmp_path).run_all()
    assert len({trial.params["synthesis.guidance"] for trial in others}) == len(others)


def test_trial_0_is_the_published_configuration(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 2}), tmp_path)
    first, second = bench.run_all()
    assert studies.is_published(first)
    assert not studies.is_published(second)
    assert studies.trial_values(first) == {
        "synthesis.guidance": 2.5,
        "adapt.learning_rate": 2e-5,
        "mining.top_k": 6,  # round(250 / 23384 * 600)
        "loss.dynamic_window_weighting": True,
    }
    assert [row.role for row in trial_rows(bench.study)] == ["published", ""]


@pytest.mark.parametrize(
    "guidance",
    [
        {"type": "float", "low": 3.0, "high": 5.0},
        {"type": "int", "low": 1, "high": 5},  # the published 2.5 lies between its ends, and is none of its values
        {"type": "categorical", "choices": [2, 3]},
    ],
)
def test_a_published_value_outside_the_space_is_run_but_never_modelled(
    guidance: dict[str, Any], tmp_path: Path
) -> None:
    space = {**SPACE, "synthesis.guidance": guidance}
    bench = Bench(search(space=space, budget={"trials": 4}, sampler={"startup_trials": 1}), tmp_path)
    first, *others = bench.run_all()
    assert studies.trial_values(first)["synthesis.guidance"] == 2.5
    assert "synthesis.guidance" not in first.params
    assert all(contains(bench.space["synthesis.guidance"], t.params["synthesis.guidance"]) for t in others)


def test_a_failed_trial_fails_alone_and_says_why(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 2}), tmp_path)
    assignment = bench.ledger.next()
    assert assignment is not None
    bench.ledger.fail(assignment.number, classify(DivergedError("loss is nan after 4 steps")))
    failed, other = bench.run_all()
    assert failed.state == TrialState.FAIL
    assert other.state == TrialState.COMPLETE
    assert trial_rows(bench.study)[0].failure == "diverged: DivergedError: loss is nan after 4 steps"
    assert bench.tracker.ended[0] == ("FAILED", Failure("diverged", "DivergedError: loss is nan after 4 steps"))


def test_an_accuracy_that_is_not_a_number_fails_the_trial(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}), tmp_path)
    assert bench.ledger.next() is not None
    report = RungReport(0, 4, 16, (math.nan,), {}, {}, (), 0, "cpu", 0.0)
    assert bench.ledger.report(0, report)
    assert bench.study.trials[0].state == TrialState.FAIL
    assert trial_rows(bench.study)[0].failure.startswith("diverged")


def test_a_trial_whose_worker_died_starts_again_a_few_times(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}), tmp_path)
    for _ in range(3):
        assert bench.ledger.next() == Assignment(0, studies.trial_values(bench.study.trials[0]), ALONE)
        assert bench.ledger.next() is None
        bench.ledger.lose(0, "ActorDiedError: killed")
    assert bench.ledger.finished
    assert trial_rows(bench.study)[0].failure == "worker lost: ActorDiedError: killed"


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("x"), "diverged"),
        (KinemicError("x"), "bad data"),
        (MemoryError(), "out of memory"),
        (OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
        (RuntimeError("shapes differ"), "bug"),
        (KeyError("x"), "bug"),
    ],
)
def test_failures_have_kinds(error: Exception, kind: str) -> None:
    assert classify(error).kind == kind


def test_no_trial_starts_after_the_hours_are_over(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 5, "hours": 1e-9}), tmp_path)
    assert bench.run_all()[0].state == TrialState.WAITING
    with pytest.raises(KinemicError, match=r"no trial of analytic-.* has finished"):
        studies.best_trial(bench.study)


def test_hours_are_counted_over_sittings_and_what_runs_when_they_are_over_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(ledger, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bench = Bench(search(budget={"trials": 9, "hours": 1}, pruner="none"), tmp_path, share=Share(1, 0, 2))
    first = bench.ledger.next()
    assert first is not None
    now[0] += 1500
    bench.run(first)  # the sitting is killed at a report, and another day goes on
    now[0] += 86400
    bench.ledger = bench.sitting()
    second = bench.ledger.next()
    assert second is not None
    now[0] += 1500
    bench.ledger.next()  # Tune asks again and again; the sitting is killed half a minute later, within a rung
    now[0] += 30
    bench.ledger = bench.sitting()
    now[0] += 590
    third = bench.ledger.next()
    assert third is not None
    now[0] += 20
    bench.run(third, stop_after=1)
    assert {bench.ledger.next() is None for _ in range(2)} == {False, True}  # the interrupted one, and no new one
    bench.ledger = bench.sitting()
    assert [trial.state for trial in bench.run_all()] == [TrialState.COMPLETE] * 3


def test_a_storage_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KinemicError, match=r"storage sqlite:////none/x\.db: cannot be opened") as caught:
        Bench(search(storage="sqlite:////none/x.db"), tmp_path)
    assert "\n" not in str(caught.value)
