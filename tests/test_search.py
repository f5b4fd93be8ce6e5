"""A whole search on a real local Ray, with a real study and a real MLflow store; only the trial is analytic."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState
from ray import cloudpickle

from kinemic.cli import run as command
from kinemic.errors import KinemicError
from kinemic.files import write_text
from search import contenders, runner
from search import study as studies
from search.again import fresh_seeds
from search.config import SearchConfig, validate
from search.folder import SearchFolder, find
from search.known_rows import TITLES
from search.patience import OutOfPatienceError
from search.resources import connected
from search.runner import Outcome
from search.status import TrialRow
from search.tracking import FINAL_KEYS
from search.trainable import Work, same_device
from tests import analytic
from tests.bench import Bench

RUNGS = [4, 8, 16]
SECRET = "the-test-split"
SPACE = {
    "synthesis.guidance": {"type": "float", "low": 1.0, "high": 5.0},
    "adapt.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "mining.top_k": {"type": "int", "low": 4, "high": "auto", "log": True},
}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(analytic)
    with connected("local"):
        yield
    cloudpickle.unregister_pickle_by_value(analytic)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """One folder of searches: their names differ, so they share the tracking store."""
    path = tmp_path_factory.mktemp("runs")
    shutil.copyfile(empty_store, path / "mlflow.db")
    return path


def search(name: str, trials: int = 8, **more: Any) -> SearchConfig:
    values = {
        "name": name,
        "data": {"source": {"format": "generated"}, "target": {"format": "generated", "part": "target"}},
        "prior": {"path": "p"},
        "space": SPACE,
        "trial": {"adapt": {"rungs": RUNGS}},
        "budget": {"trials": trials},
        "pruner": {"kind": "median", "startup_trials": 2},
        "sampler": {"startup_trials": 3},
        "contenders": {"seeds": 2},
        "resources": {"max_concurrent": 2},
        "confirm": {"test_subjects": [SECRET]},
    }
    return validate(values | more, f"{name}.yaml")


def run(config: SearchConfig, runs: Path) -> Outcome:
    return runner.run(
        config, runs, run_trial=analytic.run_trial, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS)
    )


def trials_of(folder: SearchFolder) -> list[FrozenTrial]:
    return studies.open_study(folder.config(), folder.path, folder.state().study).get_trials()


def tracked(runs: Path, folder: SearchFolder) -> tuple[Run, list[Run]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("kinemic").experiment_id])
    mine = [r for r in found if r.data.tags["kinemic.study"] == folder.state().identity]
    (parent,) = [r for r in mine if r.data.tags["kinemic.role"] == "search"]
    children = [r for r in mine if r.data.tags["kinemic.role"] == "trial"]
    return parent, sorted(children, key=lambda r: int(r.data.tags["kinemic.trial"]))


def trace(folder: SearchFolder, number: int) -> list[int]:
    """Return the rungs that were really computed for a trial, in order."""
    return [steps for steps, _ in analytic.recorded(folder.trials / f"{number:04d}")]


@pytest.fixture(scope="module")
def done(runs: Path, _ray: None) -> Outcome:
    """A finished search of 8 trials, two at a time, that began with more in the shared stages than it allows."""
    for name in ("old.safetensors", "older.safetensors"):
        write_text(runs / "stages" / "adapted" / name, "weights" * 100)  # 700 bytes each
    config = search("done", stages={"limit_gb": 1e-6})
    inputs = replace(analytic.inputs(runs), stages=runs / "stages")
    return runner.run(config, runs, run_trial=analytic.run_trial, prepared=(inputs, analytic.SOURCE_CLIPS))


def test_shared_stages_stay_within_the_limit(done: Outcome, runs: Path) -> None:
    assert done.folder.state().inputs.stages == runs / "stages"
    assert len(list((runs / "stages" / "adapted").iterdir())) == 1


def test_the_study_holds_what_the_workers_reported(done: Outcome) -> None:
    trials = trials_of(done.folder)
    assert len(trials) == len(done.rows) == 8
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        config = studies.trial_config(done.folder.config(), studies.trial_values(trial))
        expected = [analytic.accuracy(config, steps, 0) for steps in trace(done.folder, trial.number)]
        assert list(trial.intermediate_values) == trace(done.folder, trial.number)
        assert [r.accuracies[0] for r in studies.reports(trial)] == pytest.approx(expected)
        assert (trial.state == TrialState.COMPLETE) == (max(trial.intermediate_values) == RUNGS[-1])


def test_one_run_a_trial_none_running_and_the_same_keys(done: Outcome, runs: Path) -> None:
    parent, children = tracked(runs, done.folder)
    trials = trials_of(done.folder)
    assert done.tracked
    assert done.refused == []
    assert parent.info.status == "FINISHED"
    assert [int(run.data.tags["kinemic.trial"]) for run in children] == [trial.number for trial in trials]
    status = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}
    assert [run.info.status for run in children] == [status[trial.state] for trial in trials]
    for run, trial in zip(children, trials, strict=True):
        assert set(FINAL_KEYS) <= set(run.data.metrics)
        assert run.data.metrics["dev_accuracy"] == pytest.approx(trial.value)
        assert set(SPACE) <= set(run.data.params)
    assert parent.data.metrics["contender_best_dev_accuracy"] > parent.data.metrics["contender_real_dev_accuracy"]


def test_workers_are_reused(done: Outcome) -> None:
    pids = {
        line.split()[2]
        for trial in trials_of(done.folder)
        for line in (done.folder.trials / f"{trial.number:04d}" / analytic.TRACE).read_text().splitlines()
    }
    assert len(pids) <= 3


def test_contenders_run_on_fresh_seeds_and_are_kept(done: Outcome) -> None:
    rows = {row.key: row for row in done.table.rows}
    assert list(rows) == ["real", *TITLES, "published", "best"]
    assert done.table.heading == "on dev: chosen on these clips"
    config = done.folder.config()
    seeds = [fresh_seeds(config.sampler.seed, "contender", k, config.judge_seeds) for k in range(2)]
    assert all(seed not in config.seeds[0].judge for fresh in seeds for seed in fresh.judge)
    assert rows["real"].accuracies[0] != rows["real"].accuracies[1]
    assert rows["best"].mean > rows["published"].mean > rows["none"].mean > rows["real"].mean
    gaps = [a - b for a, b in zip(rows["best"].accuracies, rows["none"].accuracies, strict=True)]
    assert done.table.verdict.startswith(f"best trial minus real + augmentation: {100 * sum(gaps) / len(gaps):+.1f}")
    assert contenders.load(done.folder.contenders_file) == done.table


def test_a_seeded_search_on_ray_is_the_one_that_a_single_process_does(runs: Path, tmp_path: Path) -> None:
    config = search("one", 5, resources={"max_concurrent": 1})
    on_ray = trials_of(run(config, runs).folder)
    in_process = Bench(config.model_copy(update={"storage": "sqlite:///:memory:"}), tmp_path).run_all()
    assert [(t.params, t.state, t.value) for t in on_ray] == [(t.params, t.state, t.value) for t in in_process]


class Interrupts:
    """Ends the search by a signal (Ctrl-C is SIGINT) once the trials have made so many reports."""

    def __init__(self, after: int, by: signal.Signals) -> None:
        self.left, self.by = after, by

    def searching(self, folder: SearchFolder, budget: int, rows: list[TrialRow]) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.by)

    def contending(self, done: int, total: int) -> None: ...


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_search_is_resumed_with_nothing_lost_or_doubled(by: signal.Signals, runs: Path) -> None:
    name = f"broken-{by.name.lower()}"
    opened = runner.start(search(name, 6), runs, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS))
    line = rf"all state is kept; go on with `kinemic search resume {name} --runs .*`"
    with pytest.raises(KeyboardInterrupt, match=line):
        runner.go_on(opened, runs, run_trial=analytic.run_trial, watch=Interrupts(9, by))
    finished = [t for t in trials_of(opened.folder) if t.state.is_finished()]
    assert 0 < len(finished) < 6
    parent, children = tracked(runs, opened.folder)
    assert {run.info.status for run in (parent, *children)} <= {"FINISHED", "KILLED"}
    with pytest.raises(
        KinemicError, match=f"search '{name}' is there already; go on with `kinemic search resume {name} --runs "
    ):
        run(search(name, 6), runs)

    outcome = runner.resume(name, runs, run_trial=analytic.run_trial)
    trials = trials_of(outcome.folder)
    assert [t.number for t in trials] == list(range(6))
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    assert [t for t in trials if t.number in {f.number for f in finished}] == finished
    assert all(trace(outcome.folder, t.number) == list(t.intermediate_values) for t in trials)
    parent, children = tracked(runs, outcome.folder)
    assert len(children) == 6
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    for run_, trial in zip(children, trials, strict=True):
        assert run_.data.tags["kinemic.state"] == trial.state.name.lower()
        assert run_.data.metrics["steps"] == max(trial.intermediate_values)


class Locks:
    """Holds the study once the trials have made so many reports, as another process would, until it is released."""

    def __init__(self, after: int) -> None:
        self.left, self.holder = after, None

    def searching(self, folder: SearchFolder, budget: int, rows: list[TrialRow]) -> None:
        self.left -= 1
        if self.left == 0:
            self.holder = sqlite3.connect(folder.path / "study.db")
            self.holder.execute("BEGIN EXCLUSIVE")

    def contending(self, done: int, total: int) -> None: ...


def test_a_study_that_stays_locked_stops_the_search_with_one_line_and_a_resume_loses_nothing(runs: Path) -> None:
    config = search("locked", 4, patience=0)
    opened = runner.start(config, runs, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS))
    locks = Locks(6)
    line = (
        r"^waited 0 s in vain: study in sqlite:///.*/locked/study\.db: database is locked; nothing is lost, "
        r"go on with `kinemic search resume locked --runs .*`$"
    )
    with pytest.raises(OutOfPatienceError, match=line):
        runner.go_on(opened, runs, run_trial=analytic.run_trial, watch=locks)
    assert locks.holder is not None
    locks.holder.close()
    parent, children = tracked(runs, opened.folder)
    assert {run.info.status for run in (parent, *children)} <= {"FINISHED", "KILLED"}
    trials = trials_of(runner.resume("locked", runs, run_trial=analytic.run_trial).folder)
    assert [t.number for t in trials] == list(range(4))
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(trace(opened.folder, t.number) == list(t.intermediate_values) for t in trials)


def test_what_the_search_itself_cannot_write_is_waited_for(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = search("blocked-table", 1, patience=30)
    opened = runner.start(config, runs, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS))
    opened.folder.contenders_file.mkdir()

    class Unblocks(Interrupts):
        def contending(self, done: int, total: int) -> None:
            if caplog.messages and opened.folder.contenders_file.is_dir():
                opened.folder.contenders_file.rmdir()

    outcome = runner.go_on(opened, runs, run_trial=analytic.run_trial, watch=Unblocks(0, signal.SIGINT))
    assert "contenders.json: cannot be written (Is a directory)" in caplog.messages[0]
    assert contenders.load(opened.folder.contenders_file) == outcome.table


def test_failures_have_a_kind_and_fail_alone(runs: Path) -> None:
    # With this seed every kind comes once after trial 0.
    sizes = [60, analytic.DIVERGES, analytic.HAS_A_BUG, analytic.DIES, analytic.FINDS_NOTHING]
    space = {"loss.bank_size": {"type": "categorical", "choices": sizes}}
    config = search("failing", 5, space=space, pruner="none", sampler={"kind": "random", "seed": 33})
    outcome = run(config, runs)
    by_size = {row.values["loss.bank_size"]: row for row in outcome.rows}
    assert set(by_size) == set(sizes)
    assert by_size[60].state == "complete"
    assert by_size[analytic.DIVERGES].failure.startswith("diverged: DivergedError: loss is nan")
    assert by_size[analytic.FINDS_NOTHING].failure == "empty pool: EmptyPoolError: the pool of class 1 is empty"
    assert by_size[analytic.HAS_A_BUG].failure == "bug: KeyError: 'a bug of the trial'"
    # A worker that is killed costs no rung: the trial goes on elsewhere.
    dead = by_size[analytic.DIES]
    assert dead.state == "complete"
    assert trace(outcome.folder, dead.number) == RUNGS
    _, children = tracked(runs, outcome.folder)
    kinds = {run.data.tags.get("kinemic.failure") for run in children}
    assert kinds == {None, "diverged", "bug", "empty pool"}
    assert all(set(FINAL_KEYS) <= set(run.data.metrics) for run in children)
    assert len(children) == 5


def test_three_bugs_in_a_row_end_the_search_with_a_line_and_a_resume_does_the_rest(runs: Path) -> None:
    # Trial 0 is the published configuration, which this space does not hold, and which has no bug.
    space = {"loss.bank_size": {"type": "categorical", "choices": [analytic.HAS_A_BUG]}}
    line = (
        r"3 trials in a row failed with a bug \(1, 2, 3\): KeyError: 'a bug of the trial'; "
        r"mend it, then go on with `kinemic search resume bugs --runs .*`"
    )
    with pytest.raises(KinemicError, match=line) as caught:
        run(search("bugs", 6, space=space, resources={"max_concurrent": 1}), runs)
    assert "\n" not in str(caught.value)
    folder = find(runs, "bugs")
    parent, children = tracked(runs, folder)
    assert [parent.info.status, *(run_.info.status for run_ in children)] == ["FAILED", "FINISHED"] + ["FAILED"] * 3
    outcome = runner.resume("bugs", runs, run_trial=analytic.run_mended)
    assert [row.failure_kind for row in outcome.rows] == ["", "bug", "bug", "bug", "", ""]
    parent, children = tracked(runs, folder)
    assert (parent.info.status, len(children)) == ("FINISHED", 6)


def test_no_worker_and_no_tracked_run_ever_sees_the_test_split(done: Outcome, runs: Path) -> None:
    config = done.folder.config()
    assert config.confirm is not None
    assert config.confirm.test_subjects == (SECRET,)
    work = Work(analytic.inputs(runs), config.trial, config.seeds, done.folder.trials, None)
    assert SECRET.encode() not in pickle.dumps(work)
    assert SECRET.encode() not in (runs / "mlflow.db").read_bytes()
    artifacts = [path for path in (runs / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert any(path.name == "search.yaml" for path in artifacts)
    left = [path for path in done.folder.path.rglob("*") if path.is_file() and path.name != "search.yaml"]
    for path in artifacts + left:
        assert SECRET.encode() not in path.read_bytes(), path


def test_the_firewall_check_would_see_a_leak(done: Outcome, runs: Path) -> None:
    config = done.folder.config()
    leaking = Work(analytic.inputs(runs / SECRET), config.trial, config.seeds, done.folder.trials, None)
    assert SECRET.encode() in pickle.dumps(leaking)


def test_a_trial_that_asks_for_more_than_there_is_is_one_line(runs: Path) -> None:
    with pytest.raises(KinemicError, match="a trial takes 4096 CPUs and 0 GPUs and no node of Ray has") as caught:
        run(search("large", resources={"cpus": 4096}), runs)
    assert "\n" not in str(caught.value)
    runner.start(search("large"), runs, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS))  # mended, it may start


def test_best_and_status_read_the_finished_search(
    done: Outcome, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = max((row for row in done.rows if row.state == "complete"), key=lambda row: row.accuracy or 0.0)
    assert command(["search", "best", "done", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"trial {best.number}: dev accuracy {best.accuracy:.4f} +- ")
    assert f"--set trial.mining.top_k={best.values['mining.top_k']}" in shown

    assert command(["search", "status", "done", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "8 of 8 trials" in shown
    assert "on dev: chosen on these clips" in shown


def test_the_report_is_written_and_logged_to_the_search_that_has_a_leaderboard(
    done: Outcome, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "page.html"
    assert command(["search", "report", "done", "--runs", str(runs), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    assert "8 of 8: " in page.read_text()
    parent, _ = tracked(runs, done.folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    assert "page.html" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"].startswith("**8 of 8 trials**")
    assert parent.data.metrics["best_dev_accuracy"] == max(
        t.value for t in trials_of(done.folder) if t.state.value == 1
    )


def test_an_unknown_search_is_one_line_with_the_known_ones(
    done: Outcome, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["search", "best", "dnoe", "--runs", str(runs)]) == 2
    assert "no search 'dnoe'" in (line := capsys.readouterr().err)
    assert "done" in line
    assert len(line.splitlines()) == 1
    with pytest.raises(KinemicError):
        find(runs, "dnoe")


def test_an_unreachable_tracking_server_stops_a_search_before_it_writes_anything(tmp_path: Path) -> None:
    config = search("away", tracking={"uri": "http://127.0.0.1:9"})
    with pytest.raises(KinemicError, match="cannot be reached"):
        run(config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(KinemicError, match="cannot be written"):
        run(search("blocked"), tmp_path / "runs")


def test_devices_are_compared_by_what_they_are() -> None:
    assert same_device("cuda", "cuda:0")
    assert not same_device("cpu", "cuda:0")
    assert not same_device("cuda:1", "cuda:0")


def test_the_tracking_store_has_no_run_left_running(done: Outcome, runs: Path) -> None:
    with sqlite3.connect(runs / "mlflow.db") as store:
        statuses = {status for (status,) in store.execute("select status from runs")}
    store.close()
    assert "RUNNING" not in statuses
    assert json.loads((done.folder.path / "state.json").read_text())["study"].startswith("done-")
