"""MLflow through the own tracker: one run a trial, the same keys at its end, none RUNNING, nothing lost while away."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run

from kinemic.config import TrialConfig
from kinemic.errors import KinemicError
from kinemic.report import RungReport
from search.board import CURVE, NOTE_TAG, Board
from search.failures import Failure
from search.outbox import Outbox
from search.server import check_reachable, page_of, server_environment, server_words
from search.status import trial_rows
from search.tracking import FINAL_KEYS, Tracker, attach, open_tracker
from tests.bench import RUNGS, Bench, search

VALUES = {"mining.top_k": 8, "synthesis.guidance": 2.5}


def report(steps: int, accuracy: float = 0.5) -> RungReport:
    return RungReport(0, steps, 20, (accuracy, accuracy + 0.1), {"rec": 0.3}, {"adapt": 2.0}, (4, 6), 1, "cpu", 9.0)


@pytest.fixture
def opened(empty_store: Path, tmp_path: Path) -> Callable[[], Tracker]:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return lambda: open_tracker(uri, "test", "study-1", "study", tmp_path / "store", retry_after=0.01)


def children(tracker: Tracker) -> list[Run]:
    client, experiment = tracker._client, tracker._experiment
    return sorted(
        client.search_runs([experiment], "tags.`kinemic.role` = 'trial'"),
        key=lambda run: run.data.tags["kinemic.trial"],
    )


def test_a_trial_of_one_judge_seed_has_every_key_and_an_unknown_error(opened: Callable[[], Tracker]) -> None:
    tracker = opened()
    tracker.start_trial(0, VALUES, TrialConfig())
    tracker.log_rung(0, replace(report(5), accuracies=(0.5,)))
    assert tracker.close("FINISHED")
    metrics = children(tracker)[0].data.metrics
    assert set(FINAL_KEYS) <= set(metrics)
    assert math.isnan(metrics["dev_accuracy_se"])


def test_every_trial_ends_with_the_same_keys_and_its_own_status(opened: Callable[[], Tracker], tmp_path: Path) -> None:
    folder = tmp_path / "t0"
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "pools.json").write_text(
        '[{"class": "wave", "clip": "a"}, {"class": "kick", "words": ["k"]}]'
    )
    (folder / "artifacts" / "per_class.json").write_text('[{"class": "wave", "dev_accuracy": 0.5}]')
    (folder / "artifacts" / "confusion.json").write_text('{"classes": ["wave"]}')
    (folder / "artifacts" / "clips.gif").write_bytes(b"GIF89a")
    tracker = opened()
    for number, leader in enumerate((None, None, 0)):
        tracker.start_trial(number, VALUES, TrialConfig(), leader)
    for steps in (5, 20):
        tracker.log_rung(0, report(steps))
    tracker.log_rung(1, report(5))
    tracker.end_trial(0, "FINISHED", folder, None)
    tracker.end_trial(1, "KILLED", tmp_path, None)
    tracker.end_trial(2, "FAILED", tmp_path, Failure("diverged", "loss is nan"))
    assert tracker.close("FINISHED")
    assert tracker.refused == []

    runs = children(tracker)
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FAILED"]
    assert all(set(FINAL_KEYS) <= set(run.data.metrics) for run in runs)
    assert [run.data.metrics["seconds"] for run in runs] == [4.0, 2.0, 0.0]
    assert [run.data.metrics["steps"] for run in runs] == [20.0, 5.0, 0.0]
    assert all(run.data.tags["mlflow.parentRunId"] == tracker.parent_id for run in runs)
    assert runs[0].data.params == {
        "mining.top_k": "8",
        "synthesis.guidance": "2.5",
        "judge.profile": "temporal",
        "judge.augment": "True",
        "adapt.batch_size": "30",
        "adapt.precision": "fp32",
        "synthesis.sampler": "ddpm",
    }
    assert runs[0].data.tags["kinemic.device"] == "cpu"
    assert runs[2].data.tags["kinemic.failure"] == "diverged"
    assert [run.data.tags.get("kinemic.variant_of") for run in runs] == [None, None, "0"]
    history = tracker._client.get_metric_history(runs[0].info.run_id, "dev_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(5, 0.55), (20, 0.55)]
    for key in ("loss_rec", "seconds_adapt", "pool_size_min", "pool_fallbacks", "accuracy_seed_1", "dev_accuracy_se"):
        assert key in runs[0].data.metrics
    files = {file.path for file in tracker._client.list_artifacts(runs[0].info.run_id)}
    assert files == {"config.yaml", "pools.json", "per_class.json", "confusion.json", "clips.gif"}
    tables = json.loads(runs[0].data.tags["mlflow.loggedArtifacts"])  # what is a table on the page
    assert {table["path"] for table in tables} == {"pools.json", "per_class.json"}
    assert tracker._client.get_run(tracker.parent_id).info.status == "FINISHED"


def test_a_second_sitting_goes_on_with_the_same_runs(opened: Callable[[], Tracker], tmp_path: Path) -> None:
    first = opened()
    for number in (0, 1):
        first.start_trial(number, VALUES, TrialConfig())
        first.log_rung(number, report(5))
    first.end_trial(0, "FINISHED", tmp_path, None)
    assert first.close("KILLED")  # as after Ctrl-C
    assert [run.info.status for run in children(first)] == ["FINISHED", "KILLED"]
    assert children(first)[1].data.tags["kinemic.state"] == "interrupted"

    second = opened()
    assert second.parent_id == first.parent_id
    assert second.is_ended(0)
    assert not second.is_ended(1)
    second.start_trial(1, VALUES, TrialConfig())
    second.log_rung(1, report(5))  # replayed from disk: it is there already
    second.log_rung(1, report(20))
    second.end_trial(1, "FINISHED", tmp_path, None)
    assert second.close("FINISHED")
    runs = children(second)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[1].data.metrics["seconds"] == 4.0
    history = second._client.get_metric_history(runs[1].info.run_id, "dev_accuracy")
    assert [metric.step for metric in history] == [5, 20]


def test_a_run_whose_creation_was_never_answered_is_not_made_twice(
    opened: Callable[[], Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened()
    create = MlflowClient.create_run
    answers = iter([False, True])

    def lost_once(self: MlflowClient, *arguments: Any, **named: Any) -> Run:
        run = create(self, *arguments, **named)
        if not next(answers, True):
            raise requests.exceptions.ConnectionError("connection reset")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", lost_once)
    tracker.start_trial(0, VALUES, TrialConfig())
    tracker.log_rung(0, report(5))
    assert tracker.close("FINISHED")
    assert len(children(tracker)) == 1
    assert children(tracker)[0].data.metrics["steps"] == 5.0


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """Serve the store in ``folder`` by MLflow's own server, as a user would, and kill it at the end."""
    command = [*server_words(None, port), "--workers", "1", "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "store")]
    env = server_environment(f"sqlite:///{folder / 'mlflow.db'}")
    log = (folder / "server.log").open("ab")
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        while not answers(f"http://127.0.0.1:{port}"):
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def answers(uri: str) -> bool:
    try:
        check_reachable(uri)
    except KinemicError:
        return False
    return True


def test_a_server_that_is_away_for_a_while_loses_nothing_and_keeps_nobody_waiting(
    empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    bench = Bench(search(budget={"trials": 4}, pruner="none"), tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server(tmp_path, port) as uri:
        tracker = open_tracker(uri, "test", "study-1", "study", None, retry_after=0.05)
        bench.tracker = tracker
        bench.ledger = bench.sitting()
        board = Board(tracker, bench.study, "study", 4, "")
        first = bench.ledger.next()
        bench.run(first, stop_after=1)
        while not any(run.data.metrics for run in children(tracker)):
            time.sleep(0.05)
    # Away: the first trial goes on and ends, the others start and end.
    bench.ledger = bench.sitting()
    bench.run_all()
    board.update(trial_rows(bench.study), last=True)
    while tracker._outbox.late < 2:
        assert tracker._outbox._calls.qsize(), "calls were dropped while the server was away"
        time.sleep(0.01)
    with server(tmp_path, port):
        assert tracker.close("FINISHED")
        assert tracker.refused == []
        runs = children(tracker)
        assert [run.info.status for run in runs] == ["FINISHED"] * 4
        for run, trial in zip(runs, bench.study.get_trials(), strict=True):
            history = tracker._client.get_metric_history(run.info.run_id, "dev_accuracy")
            assert {metric.step: metric.value for metric in history} == pytest.approx(trial.intermediate_values)
            assert len(history) == len(RUNGS)
            files = {file.path for file in tracker._client.list_artifacts(run.info.run_id)}
            assert files == {"config.yaml", "pools.json", "confusion.json"}
        curve = tracker._client.get_metric_history(tracker.parent_id, f"{CURVE}accuracy")
        assert {metric.step for metric in curve} == {1, 2, 3, 4}
        parent = tracker._client.get_run(tracker.parent_id)
        assert parent.data.tags[NOTE_TAG].startswith("**4 of 4 trials**: 4 complete")
        assert parent.info.status == "FINISHED"
    assert capsys.readouterr().out == ""  # a server makes MLflow print two lines for every run that ends


def test_a_call_that_the_server_refuses_is_dropped_and_told(opened: Callable[[], Tracker], tmp_path: Path) -> None:
    tracker = opened()
    tracker.start_trial(0, VALUES, TrialConfig())
    tracker.start_trial(0, {"mining.top_k": 9}, TrialConfig())  # a parameter can't change
    tracker.log_rung(0, report(5))
    tracker.end_trial(0, "FINISHED", tmp_path, None)
    assert tracker.close("FINISHED")
    assert len(tracker.refused) == 1
    assert children(tracker)[0].data.metrics["steps"] == 5.0


def test_an_outbox_that_cannot_deliver_says_so() -> None:
    outbox = Outbox(retry_after=0.01)

    def never() -> None:
        raise requests.exceptions.ConnectionError("no")

    outbox.put(never)
    assert not outbox.close(patience=0.05)


def test_an_unreachable_server_is_one_line_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(KinemicError, match=r"MLflow at http://127\.0\.0\.1:\d+ cannot be reached") as caught:
        check_reachable(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_a_folder_as_store_is_refused(uri: str) -> None:
    with pytest.raises(KinemicError, match="expected http"):
        check_reachable(uri)


def test_a_store_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be read as one " * 40)
    with pytest.raises(KinemicError, match=r"MLflow at sqlite:///.* (refuses|cannot be reached)") as caught:
        open_tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "test", "s", "s", None)
    assert "\n" not in str(caught.value)


def test_a_page_is_opened_by_its_address_or_by_a_command_that_holds_no_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PG", "of-the-database")
    pages = {
        None: "kinemic search ui --runs 'my runs'",
        "http://host:5000": "http://host:5000",
        "http://me:${PG}@host:5000": "http://***@host:5000",
        "postgresql://me:${PG}@host/mlflow": "kinemic search ui --store 'postgresql://me:${PG}@host/mlflow'",
    }
    for uri, page in pages.items():
        assert page_of(search(tracking={"uri": uri}), Path("my runs")) == page


def test_the_saved_view_lists_this_searchs_trials_with_columns_that_they_have(opened: Callable[[], Tracker]) -> None:
    tracker = opened()
    tracker.save_view(tuple(VALUES), "accuracy")
    tracker.start_trial(0, VALUES, TrialConfig())
    tracker.log_rung(0, report(5))
    assert tracker.close("FINISHED")
    (run,) = children(tracker)
    client, key = tracker._client, tracker.trials_link.rpartition("viewStateShareKey=")[2]
    view = json.loads(client.get_experiment(tracker._experiment).tags[f"mlflow.sharedViewState.{key}"])
    found = client.search_runs([tracker._experiment], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"])
    assert [other.info.run_id for other in found] == [run.info.run_id]
    there = {f"metrics.`{name}`" for name in run.data.metrics} | {f"params.`{name}`" for name in run.data.params}
    there |= {"tags.`kinemic.state`", "tags.`kinemic.failure`"}  # the latter on failed trials alone
    assert set(view["selectedColumns"]) <= there
    assert {f"params.`{path}`" for path in VALUES} <= set(view["selectedColumns"])


def test_a_file_is_attached_to_a_run_that_is_over_and_leaves_its_status(
    opened: Callable[[], Tracker], tmp_path: Path
) -> None:
    tracker = opened()
    tracker.close("KILLED")
    (tmp_path / "report.html").write_text("<p>report</p>")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    attach(uri, "test", "study-1", tmp_path / "report.html")
    assert [file.path for file in tracker._client.list_artifacts(tracker.parent_id)] == ["report.html"]
    assert tracker._client.get_run(tracker.parent_id).info.status == "KILLED"
    with pytest.raises(KinemicError, match="has no run of study-2 in experiment 'test'"):
        attach(uri, "test", "study-2", tmp_path / "report.html")


def test_the_parent_run_is_named_after_the_search(opened: Callable[[], Tracker]) -> None:
    tracker = opened()
    assert tracker._client.get_run(tracker.parent_id).info.run_name == "study"
    tracker.close("FINISHED", 1.0)
