"""MLflow: one parent run a search and one child a trial, found again by their tags and never doubled.

An own tracker over ``MlflowClient``, because Ray's callback and the fluent API leave runs RUNNING after a crash.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from kinemic.config import TrialConfig
from kinemic.documents import dump_yaml
from kinemic.errors import InfrastructureError, KinemicError
from kinemic.report import RungReport
from search.failures import Failure
from search.goal import Objective
from search.messages import first_line
from search.outbox import DELIVERY_ERRORS, Outbox, is_away
from search.records import as_table, readable, rung_metrics
from search.space import Scalar, getattr_path
from search.tags import (
    DEVICE_TAG,
    FAILURE_TAG,
    IDENTITY_TAG,
    LEADER_TAG,
    ROLE_TAG,
    STATE_TAG,
    TRIAL_TAG,
    WARNINGS_TAG,
    runs_where,
)
from search.urls import resolve
from search.view import trials_link, view_tag

FINAL_KEYS = ("dev_accuracy", "dev_accuracy_se", "steps", "seconds", "peak_memory_mb")

# Settings that are worth a column beside the searched ones.
_FIXED_OF_INTEREST = ("judge.profile", "judge.augment", "adapt.batch_size", "adapt.precision", "synthesis.sampler")
_TABLES_TAG = "mlflow.loggedArtifacts"
_ENDED = ("FINISHED", "KILLED", "FAILED")
_STATES = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed"}


@dataclass
class _Child:
    """What the tracker knows of a trial's run; ``run_id`` is set by the outbox's thread when it has been created."""

    run_id: str = ""
    status: str = ""
    steps: set[int] = field(default_factory=set)  # rungs that are logged
    seconds: float = 0.0
    rungs: int = 0
    tables: list[str] = field(default_factory=list)  # files that are logged as tables
    waits: bool = False  # tagged with a fault of the machine


class Tracker:
    """Keeps a search's runs on a tracking server. Every call returns at once; an outbox delivers it."""

    def __init__(
        self, client: MlflowClient, experiment_id: str, identity: str, parent_id: str, retry_after: float
    ) -> None:
        self._client, self._experiment, self._identity = client, experiment_id, identity
        self.parent_id = parent_id
        self._children: dict[int, _Child] = {}
        self._find_children()
        self._outbox = Outbox(retry_after, self._prove)

    def is_ended(self, number: int) -> bool:
        """Whether a trial's run exists and is over."""
        return number in self._children and self._children[number].status in _ENDED

    def start_trial(
        self, number: int, values: Mapping[str, Scalar], config: TrialConfig, leader: int | None = None
    ) -> None:
        """Create a trial's run, or go on with the one that is there. Only readable parameters are logged.

        A variant has its ``leader`` as a tag, the number of the trial whose dear values it takes.
        """
        child = self._children.setdefault(number, _Child())
        child.status = "RUNNING"
        shown = {path: readable(value) for path, value in values.items()}
        shown |= {path: readable(getattr_path(config, path)) for path in _FIXED_OF_INTEREST if path not in shown}
        text = dump_yaml(config.model_dump(mode="json"))
        tags = {STATE_TAG: "running"} | ({} if leader is None else {LEADER_TAG: str(leader)})
        self._outbox.put(lambda: self._start(number, child, shown, tags))
        self._outbox.put(lambda: self._client.log_text(child.run_id, text, "config.yaml"))

    def log_rung(self, number: int, report: RungReport) -> None:
        """Log a rung's metrics in one request, at the report's own step."""
        child = self._children[number]
        self._outbox.put(lambda: self._log_rung(child, report))

    def log_fault(self, number: int, fault: Failure) -> None:
        """Tag a trial's run with the fault of the machine that it waits out, until its next rung."""
        child = self._children[number]
        self._outbox.put(lambda: self._log_fault(child, fault))

    def end_trial(self, number: int, status: str, workdir: Path, failure: Failure | None) -> None:
        """End a trial's run as FINISHED, KILLED (pruned) or FAILED, with the files of its ``artifacts`` folder."""
        child = self._children[number]
        child.status = status
        # A call each, so that a file that is refused costs nothing but itself.
        for path in sorted(path for path in (workdir / "artifacts").glob("*") if path.is_file()):
            self._outbox.put(partial(self._log_file, child, path))
        self._outbox.put(lambda: self._end(child, status, failure))

    def log_parent(self, metrics: Mapping[str, float], tags: Mapping[str, str], texts: Mapping[str, str]) -> None:
        """Log metrics, tags and text artifacts (file name to content) on the search's own run."""
        now, run_id = _now(), self.parent_id

        def deliver() -> None:
            self._client.log_batch(
                run_id,
                metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )

        self._outbox.put(deliver)
        for name, text in texts.items():
            self._outbox.put(partial(self._client.log_text, run_id, text, name))

    def log_curve(self, key: str, points: Sequence[tuple[int, float, datetime]]) -> None:
        """Log a metric of the search's own run as (step, value, time) points; a point that is there stays the one.

        MLflow knows a point by its step, value and time, so points of an earlier sitting may be sent again.
        """
        metrics = [Metric(key, value, int(when.timestamp() * 1000), step) for step, value, when in points]
        self._outbox.put(lambda: self._client.log_batch(self.parent_id, metrics=metrics))

    @property
    def trials_link(self) -> str:
        """The list of this search's trials, the best first, relative to the server's root."""
        return trials_link(self._experiment, self._identity)

    def save_view(self, parameters: Sequence[str], objective: Objective) -> None:
        """Keep what ``trials_link`` shows, with columns for these parameters, the best by the objective first."""
        key, value = view_tag(self._identity, parameters, objective)
        self._outbox.put(lambda: self._client.set_experiment_tag(self._experiment, key, value))

    def close(self, status: str, patience: float = 60.0) -> bool:
        """End the parent run, and as KILLED every child that still runs; returns whether all was delivered in time."""
        for child in self._children.values():
            if child.status == "RUNNING":
                self._outbox.put(lambda child=child: self._interrupt(child))  # type: ignore[misc]
        self._outbox.put(lambda: self._client.set_terminated(self.parent_id, status))
        return self._outbox.close(patience)

    @property
    def refused(self) -> list[str]:
        """Calls that the server refused, one line each."""
        return self._outbox.refused

    def _prove(self) -> None:
        """Write what is there already, as a sign that the server takes calls."""
        self._client.set_tag(self.parent_id, IDENTITY_TAG, self._identity)

    def _find_children(self) -> None:
        token: str | None = None
        while True:
            where = runs_where(self._identity, ROLE_TAG, "trial")
            page = self._client.search_runs([self._experiment], where, page_token=token)
            for run in page:
                child = _Child(run.info.run_id, run.info.status, waits=FAILURE_TAG in run.data.tags)
                if child.status not in _ENDED or run.data.tags.get(STATE_TAG) == "interrupted":
                    child.status = "RUNNING"
                    history = self._client.get_metric_history(child.run_id, "dev_accuracy")
                    child.steps = {metric.step for metric in history}
                    child.seconds = run.data.metrics.get("seconds", 0.0)
                    child.rungs = len(child.steps)
                self._children[int(run.data.tags[TRIAL_TAG])] = child
            token = page.token
            if not token:
                return

    def _start(self, number: int, child: _Child, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        if not child.run_id:
            child.run_id = self._created(number)
        self._client.update_run(child.run_id, status="RUNNING")
        self._client.log_batch(
            child.run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def _created(self, number: int) -> str:
        """Return the trial's run; asked first, because a create whose answer was lost must not be done twice."""
        where = runs_where(self._identity, TRIAL_TAG, str(number))
        found = self._client.search_runs([self._experiment], where, max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {
            IDENTITY_TAG: self._identity,
            TRIAL_TAG: str(number),
            ROLE_TAG: "trial",
            "mlflow.parentRunId": self.parent_id,
        }
        return str(self._client.create_run(self._experiment, tags=tags, run_name=f"trial {number:04d}").info.run_id)

    def _log_rung(self, child: _Child, report: RungReport) -> None:
        if report.step in child.steps:
            return
        seconds, now = child.seconds + sum(report.seconds.values()), _now()
        metrics = [Metric(key, value, now, report.step) for key, value in rung_metrics(report, seconds).items()]
        tags = {DEVICE_TAG: report.device} | ({WARNINGS_TAG: "; ".join(report.warnings)} if report.warnings else {})
        if child.waits:
            tags |= _failure_tags(Failure("", ""))
        self._client.log_batch(child.run_id, metrics=metrics, tags=[RunTag(*tag) for tag in tags.items()])
        child.steps.add(report.step)
        child.waits = False
        child.seconds, child.rungs = seconds, child.rungs + 1

    def _log_fault(self, child: _Child, fault: Failure) -> None:
        self._client.log_batch(child.run_id, tags=[RunTag(*tag) for tag in _failure_tags(fault).items()])
        child.waits = True

    def _end(self, child: _Child, status: str, failure: Failure | None) -> None:
        if not child.rungs:  # a trial that failed before its first rung ends with the same keys as every other
            now = _now()
            empty = {key: float("nan") if key.startswith("dev_") else 0.0 for key in FINAL_KEYS}
            self._client.log_batch(child.run_id, metrics=[Metric(key, value, now, 0) for key, value in empty.items()])
            child.rungs = 1
        tags = {STATE_TAG: _STATES[status]}
        if child.tables:
            tags[_TABLES_TAG] = json.dumps([{"path": name, "type": "table"} for name in child.tables])
        if failure is not None:
            tags |= _failure_tags(failure)
        self._client.log_batch(child.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client.set_terminated(child.run_id, status)

    def _interrupt(self, child: _Child) -> None:
        self._client.set_tag(child.run_id, STATE_TAG, "interrupted")
        self._client.set_terminated(child.run_id, "KILLED")

    def _log_file(self, child: _Child, path: Path) -> None:
        table = as_table(path)
        if table is None:
            self._client.log_artifact(child.run_id, str(path))
        else:
            # The format and the tag of MLflow's log_table, which itself would append when delivered twice.
            self._client.log_dict(child.run_id, table, path.name)
            child.tables.append(path.name)


def open_tracker(
    uri: str, experiment: str, identity: str, name: str, artifacts: Path | None, retry_after: float = 2.0
) -> Tracker:
    """Open a search's runs: the experiment and the parent run are created, or found again by their tags.

    ``artifacts`` is the folder for artifacts of a local store, None where the server decides. Raises
    InfrastructureError for a store that is away, and KinemicError.
    """
    with opened(uri) as client:
        experiment_id = _experiment(client, experiment, artifacts)
        parent_id = _parent(client, experiment_id, identity, name)
        return Tracker(client, experiment_id, identity, parent_id, retry_after)


def attach(uri: str, experiment: str, identity: str, file: Path) -> None:
    """Log a file on a search's own run, whatever its status, without touching that. Raises KinemicError."""
    with opened(uri) as client:
        found = client.get_experiment_by_name(experiment)
        parent = found and _find_parent(client, found.experiment_id, identity)
        if not parent:
            raise KinemicError(f"MLflow at {uri} has no run of {identity} in experiment {experiment!r}")
        client.log_artifact(parent.info.run_id, str(file))


@contextmanager
def opened(uri: str) -> Iterator[MlflowClient]:
    """Yield a client of a store that does not wait long.

    Raises InfrastructureError for a store that is away or locked, and KinemicError for what else goes wrong with it.
    """
    # MLflow's client retries for minutes by default; the outbox does the waiting here, and nothing else may block.
    for key, value in {"MAX_RETRIES": "1", "TIMEOUT": "10", "BACKOFF_FACTOR": "1"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{key}", value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # else two lines on stdout for every run that ends
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # a new database is set up in silence
    try:
        yield MlflowClient(tracking_uri=resolve(uri))
    except DELIVERY_ERRORS as error:
        if is_away(error):
            raise InfrastructureError(f"MLflow at {uri} cannot be reached: {first_line(error)}") from error
        raise KinemicError(f"MLflow at {uri} refuses: {first_line(error)}") from error


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifacts.resolve().as_uri() if artifacts else None))


def _parent(client: MlflowClient, experiment_id: str, identity: str, name: str) -> str:
    found = _find_parent(client, experiment_id, identity)
    if found is not None:
        client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)
    tags = {IDENTITY_TAG: identity, ROLE_TAG: "search"}
    return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)


def _find_parent(client: MlflowClient, experiment_id: str, identity: str) -> Run | None:
    where = runs_where(identity, ROLE_TAG, "search")
    found = client.search_runs([experiment_id], where, max_results=1)
    return found[0] if found else None


def _failure_tags(failure: Failure) -> dict[str, str]:
    return {FAILURE_TAG: failure.kind, f"{FAILURE_TAG}.message": failure.message}


def _now() -> int:
    return int(time.time() * 1000)
