"""Trials on a real Ray, without tracking: stopping as plain Optuna would stop, and shares that grow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState
from ray import cloudpickle

from kinemic.reading import with_values
from search import study as studies
from search.again import Run, failure_lines, fresh_seeds, plan, run_all
from search.baselines import Contender
from search.config import ResourcesConfig, SearchConfig
from search.failures import BUG, INFRASTRUCTURE
from search.ledger import SearchStoppedError
from search.patience import OutOfPatienceError
from search.resources import connected, share
from search.runner import run_trials
from search.space import suggest
from search.status import TrialRow, trial_rows
from search.trainable import RunTrial, Work
from tests import analytic
from tests.bench import RUNGS, SPACE, Bench, search

TRIALS = 12


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(analytic)
    with pytest.MonkeyPatch.context() as patch:
        # A GPU that is only declared: Ray hands it out, and the analytic trial does not use it.
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2, "GPU": 1}')
        with connected("local"):
            yield
    cloudpickle.unregister_pickle_by_value(analytic)


def run(bench: Bench, run_trial: RunTrial = analytic.run_trial) -> list[FrozenTrial]:
    folder = bench.folder / "trials"
    work = Work(analytic.inputs(folder), bench.config.trial, bench.config.seeds, folder, run_trial)
    run_trials(bench.ledger, work, bench.folder)
    assert bench.ledger.finished
    return bench.study.get_trials()


def plain(config: Any, pruner: optuna.pruners.BasePruner, folder: Path, *, by_seed: bool) -> list[FrozenTrial]:
    """Return the trials of a plain loop over Optuna, which reports a rung's mean, or its seeds as a step each.

    It knows of no repetitions but that a trial's value is the mean over all of them.
    """
    bench = Bench(config, folder)
    bench.study.pruner = pruner
    for number in range(TRIALS):
        bench.study.sampler = studies.make_sampler(config.sampler, number)
        trial = bench.study.ask()
        values = studies.trial_config(config, suggest(trial, bench.space, studies.fixed_values(trial)))
        for steps in RUNGS:
            accuracies = [analytic.accuracy(values, steps, seed) for seed in config.seeds[0].judge]
            mean = sum(accuracies) / len(accuracies)
            for instance, value in enumerate(accuracies if by_seed else [mean]):
                trial.report(value, steps * len(accuracies) + instance if by_seed else steps)
            if steps == RUNGS[-1]:
                every = [analytic.accuracy(values, steps, s.adaptation + j) for s in config.seeds for j in s.judge]
                bench.study.tell(trial, sum(every) / len(every))
            elif trial.should_prune():
                bench.study.tell(trial, state=TrialState.PRUNED)
                break
    return bench.study.get_trials()


@pytest.mark.parametrize(
    ("kind", "settings", "pruner", "repetitions"),
    [
        ("none", {}, NopPruner(), 2),
        ("median", {"startup_trials": 2}, MedianPruner(n_startup_trials=2), 1),
        ("median", {"startup_trials": 2}, MedianPruner(n_startup_trials=2), 3),
        ("successive_halving", {"reduction_factor": 2}, SuccessiveHalvingPruner(4, 2), 3),
        ("hyperband", {"reduction_factor": 2}, HyperbandPruner(4, 16, 2), 3),
        ("wilcoxon", {"p_threshold": 0.1}, None, 3),
    ],
)
def test_trials_stop_where_optuna_would_stop_them_and_the_study_holds_what_they_recorded(
    kind: str, settings: dict[str, Any], pruner: optuna.pruners.BasePruner | None, repetitions: int, tmp_path: Path
) -> None:
    seeds = [{"adaptation": 10 * k, "judge": [0, 1, 2]} for k in range(repetitions)]
    stops = {"pruner": {"kind": kind, **settings}, "racing": False}
    config = search(**stops, seeds=seeds, budget={"trials": TRIALS}, sampler="random")
    if pruner is None:
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            pruner = WilcoxonPruner(p_threshold=0.1)
    bench = Bench(config, tmp_path)
    trials = run(bench)
    expected = plain(config, pruner, tmp_path, by_seed=kind == "wilcoxon")
    assert [(t.params, t.state) for t in trials] == [(t.params, t.state) for t in expected]
    for trial in trials:
        record = analytic.recorded(bench.ledger.workdir(trial.number))
        assert list(trial.intermediate_values.items()) == record
        assert trial.value == record[-1][1]
        # A pruner stops trials at rungs before the last; those that pass get every repetition.
        whole = [*RUNGS, *(RUNGS[-1] + k for k in range(1, repetitions))]
        steps = [step for step, _ in record]
        assert steps == whole if trial.state == TrialState.COMPLETE else steps in (RUNGS[:1], RUNGS[:2])
    assert (TrialState.PRUNED in {trial.state for trial in trials}) == (kind != "none")


@pytest.mark.parametrize(
    ("small", "large"), [({"CPU": 1.0}, {"CPU": 2.0}), ({"CPU": 0.5, "GPU": 0.25}, {"CPU": 0.5, "GPU": 0.5})]
)
def test_a_trial_out_of_memory_goes_on_with_a_larger_share_and_then_is_infeasible(
    small: dict[str, float], large: dict[str, float], tmp_path: Path
) -> None:
    banks = {"type": "categorical", "choices": [60, analytic.NEEDS_MORE, analytic.RUNS_OUT]}
    config = search(
        space={**SPACE, "loss.bank_size": banks},
        budget={"trials": 4},
        pruner="none",
        sampler={"kind": "random", "seed": 2},  # 60, needs more, runs out, 60
    )
    bench = Bench(config, tmp_path, share=share(ResourcesConfig(cpus=small["CPU"], gpus=small.get("GPU", 0.0))))
    trials = run(bench)
    seen = set()
    for trial in trials:
        bank, shares = trial.params["loss.bank_size"], analytic.shares(bench.ledger.workdir(trial.number))
        seen.add(bank)
        if bank == analytic.RUNS_OUT:
            assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"memory": 1.0})
            assert studies.state_name(trial) == "infeasible"
            assert shares == [small]
            assert list(trial.intermediate_values) == RUNGS[:1]
        else:
            assert (trial.state, trial.constraints) == (TrialState.COMPLETE, {})
            assert shares == ([small, large, large] if bank == analytic.NEEDS_MORE else [small] * 3)
    assert seen == set(banks["choices"])


def test_a_run_on_fresh_seeds_that_is_out_of_memory_is_tried_once_with_the_larger_share(tmp_path: Path) -> None:
    config = search(resources={"cpus": 0.5, "gpus": 0.25})
    banks = {
        "fits": 60,
        "needs_more": analytic.NEEDS_MORE,
        "runs_out": analytic.RUNS_OUT,
        "diverges": analytic.DIVERGES,
    }
    found = [Contender(key, key, with_values(config.trial, {"loss.bank_size": bank})) for key, bank in banks.items()]
    runs = plan(found, [fresh_seeds(0, "test", k, judges=2) for k in range(2)], tmp_path / "again")
    work = Work(analytic.inputs(tmp_path), config.trial, config.seeds, tmp_path, analytic.run_trial)
    seen: list[tuple[int, int]] = []
    results = run_all(runs, work, share(config.resources), lambda *count: seen.append(count))
    assert {key: failure_lines(row) for key, row in results.items()} == {
        "fits": (),
        "needs_more": (),
        "runs_out": ("out of memory: MemoryError: no memory for the bank",) * 2,
        "diverges": ("diverged: DivergedError: loss is nan",) * 2,
    }
    small, large = {"CPU": 0.5, "GPU": 0.25}, {"CPU": 0.5, "GPU": 0.5}
    for run in runs["needs_more"]:
        assert analytic.shares(run.workdir) == [small, large, large]
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)


def test_a_run_on_fresh_seeds_whose_worker_dies_goes_on_twice_and_then_is_a_lost_worker(tmp_path: Path) -> None:
    config = search(resources={"cpus": 0.5, "gpus": 0})

    def results(name: str, run_trial: RunTrial, **values: Any) -> tuple[tuple[str, ...], Run]:
        found = Contender(name, name, with_values(config.trial, values))
        runs = plan([found], [fresh_seeds(0, "test", 0, judges=2)], tmp_path / name)
        work = Work(analytic.inputs(tmp_path), config.trial, config.seeds, tmp_path, run_trial)
        return failure_lines(run_all(runs, work, share(config.resources))[name]), runs[name][0]

    lines, run = results("once", analytic.run_trial, **{"loss.bank_size": analytic.DIES})
    assert lines == ()
    assert [steps for steps, _ in analytic.recorded(run.workdir)] == RUNGS  # its first rung was not computed again
    (line,), run = results("always", analytic.run_killed)
    assert line.startswith("worker lost: ")
    assert (run.workdir / "starts").read_text() == "xxx"


def blocked(folder: Path) -> Path:
    """Put a file where trials want their shared folder: nobody, root neither, can write there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / analytic.SHARED).touch()
    return folder / analytic.SHARED


def writing(**more: Any) -> SearchConfig:
    banks = {"type": "categorical", "choices": [60, analytic.WRITES]}
    settings = {"space": {**SPACE, "loss.bank_size": banks}, "pruner": "none", "sampler": {"kind": "random", "seed": 2}}
    return search(**settings, budget={"trials": 3}, **more)


def test_trials_whose_writes_are_refused_wait_and_go_on_from_their_last_rung(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(writing(patience=30.0), tmp_path, share=share(ResourcesConfig(cpus=0.5, gpus=0)))
    place = blocked(bench.folder / "trials")
    shown: list[list[TrialRow]] = []

    def changed() -> None:
        shown.append(trial_rows(bench.study))
        if len(caplog.messages) == 2 and place.is_file():
            place.unlink()

    bench.ledger._changed = changed
    trials = run(bench)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    waited = {t.number for t in trials if t.params.get("loss.bank_size") == analytic.WRITES}
    assert waited >= bench.tracker.faults > set()
    for trial in trials:
        assert [steps for steps, _ in analytic.recorded(bench.ledger.workdir(trial.number))] == RUNGS
    faults = [row for rows in shown for row in rows if row.failure_kind]
    assert {(row.failure_kind, row.state, row.steps) for row in faults} == {(INFRASTRUCTURE, "running", RUNGS[0])}
    assert not any(row.failure_kind for row in shown[-1])
    line = rf"waiting, for another 30 s at most: trial \d: {place}/\d+: cannot be written \(File exists\)"
    assert re.match(line, caplog.messages[0])


def test_a_fault_that_stays_stops_the_search_with_a_line_and_a_resume_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(writing(patience=0), tmp_path)
    place = blocked(bench.folder / "trials")
    with pytest.raises(OutOfPatienceError, match=r"^waited 0 s in vain: trial \d: .*: cannot be written") as caught:
        run(bench)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)
    assert TrialState.FAIL not in {trial.state for trial in bench.study.get_trials()}
    place.unlink()
    bench.ledger = bench.sitting()
    trials = run(bench)
    assert [(trial.number, trial.state) for trial in trials] == [(k, TrialState.COMPLETE) for k in range(3)]
    for trial in trials:
        assert [steps for steps, _ in analytic.recorded(bench.ledger.workdir(trial.number))] == RUNGS


def test_a_run_on_fresh_seeds_whose_writes_are_refused_waits_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = search()
    found = [
        Contender(key, key, with_values(config.trial, {"loss.bank_size": bank}))
        for key, bank in {"other": 60, "writes": analytic.WRITES}.items()
    ]
    runs = plan(found, [fresh_seeds(0, "test", 0, judges=2)], tmp_path / "again")
    work = Work(analytic.inputs(tmp_path), config.trial, config.seeds, tmp_path, analytic.run_trial)
    part, place = share(ResourcesConfig(cpus=0.5, gpus=0)), blocked(tmp_path)
    with pytest.raises(OutOfPatienceError, match="waited 0 s in vain: writes-0-"):
        run_all(runs, work, part)

    def changed(done: int, total: int) -> None:
        if caplog.messages and place.is_file():
            place.unlink()

    results = run_all(runs, work, part, changed, patience=30.0)
    assert {key: failure_lines(row) for key, row in results.items()} == {"other": (), "writes": ()}
    assert [steps for steps, _ in analytic.recorded(runs["writes"][0].workdir)] == RUNGS


def test_a_trial_goes_on_where_the_device_is_another_one(tmp_path: Path) -> None:
    bench = Bench(search(budget={"trials": 1}), tmp_path)
    assignment = bench.ledger.next()
    assert assignment is not None
    bench.run(assignment, stop_after=1, device="cuda:0")  # its second report is on disk, and was not taken any more
    bench.ledger = bench.sitting()
    (trial,) = run(bench)
    assert trial.state == TrialState.COMPLETE
    assert [report.device for report in studies.reports(trial)] == ["cuda:0", "cuda:0", "cpu"]


def test_a_trial_that_ran_on_another_device_than_its_own_is_a_bug(tmp_path: Path) -> None:
    (trial,) = run(Bench(search(budget={"trials": 1}), tmp_path), analytic.run_elsewhere)
    failure = studies.failure(trial)
    assert failure is not None
    assert (failure.kind, failure.message) == (BUG, "AssertionError: ran on cuda:0, not on cpu")


def test_a_worker_that_cannot_be_set_up_is_a_bug_and_no_lost_worker(tmp_path: Path) -> None:
    with pytest.raises(SearchStoppedError, match=r"\(0, 1, 2\): KeyError: 'nothing is prepared'$"):
        run(Bench(search(), tmp_path), analytic.run_unprepared)
