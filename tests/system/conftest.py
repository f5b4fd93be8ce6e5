"""What is looked at in a browser: a small finished search, its report and its store; and a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, expect
from ray import cloudpickle

from docs.screenshots import browser, served
from search import runner
from search.api import SearchResult, result
from search.board import Board
from search.resources import connected
from search.sitting import artifacts_folder, tracking_uri
from search.status import trial_rows
from search.tracking import open_tracker
from search.wording import ranked
from tests import analytic
from tests.bench import Bench, search

NAME = "looked-at"
PATIENCE = 120_000  # milliseconds; two busy cores are slow to draw
expect.set_options(timeout=PATIENCE)


@dataclass(frozen=True)
class Searched:
    """A finished search: its name, the folder of all searches, its identity and what it found."""

    name: str
    runs: Path
    identity: str
    found: SearchResult


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Searched:
    """A search that a real Ray has run; of 12 trials, enough for every figure."""
    runs = tmp_path_factory.mktemp("runs")
    shutil.copyfile(empty_store, runs / "mlflow.db")
    config = search(name=NAME, storage=None, budget={"trials": 12}, pruner="none", contenders={"seeds": 2})
    cloudpickle.register_pickle_by_value(analytic)
    try:
        with connected("local"):
            prepared = (analytic.inputs(runs), analytic.SOURCE_CLIPS)
            outcome = runner.run(config, runs, run_trial=analytic.run_trial, prepared=prepared)
    finally:
        cloudpickle.unregister_pickle_by_value(analytic)
    return Searched(NAME, runs, outcome.folder.state().identity, result(NAME, runs))


@dataclass(frozen=True)
class Large:
    """A tracked search of many trials: its name, its experiment's id, trials that ended whole and all, best first."""

    name: str
    experiment: str
    finished: list[int]
    everyone: list[int]


@pytest.fixture(scope="session")
def large(searched: Searched) -> Large:
    """A search of 200 trials in the same store, run in this process as a worker runs them; no Ray, no contenders."""
    name, experiment = "large", "many"
    config = search(name=name, budget={"trials": 200}, sampler="random", tracking={"experiment": experiment})
    bench = Bench(config, searched.runs / name)
    tracker = open_tracker(
        tracking_uri(config, searched.runs), experiment, name, name, artifacts_folder(config, searched.runs)
    )
    tracker.save_view(tuple(bench.space), "accuracy")
    bench.tracker = tracker  # type: ignore[assignment]
    bench.ledger = bench.sitting()
    bench.run_all()
    rows = trial_rows(bench.study)
    Board(tracker, bench.study, name, len(rows), "").update(rows, last=True)
    assert tracker.close("FINISHED", patience=600.0)
    assert tracker.refused == []
    parent = MlflowClient(tracking_uri(config, searched.runs)).get_run(tracker.parent_id)
    everyone = sorted(rows, key=lambda row: -(row.accuracy or 0.0))  # stopped ones too, by what they had reached
    numbers = [[row.number for row in each] for each in (ranked(rows), everyone)]
    return Large(name, parent.info.experiment_id, *numbers)


@dataclass(frozen=True)
class Served:
    """The search's store as ``kinemic search ui`` serves it: the server's address, and what the command said."""

    uri: str
    said: str


@pytest.fixture(scope="session")
def server(searched: Searched) -> Iterator[Served]:
    """Serve the search's store."""
    log = searched.runs / "ui.log"
    with log.open("wb") as out, served(searched.runs, out) as uri:
        yield Served(uri, log.read_text())


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a fresh browser that finds nothing outside this machine."""
    with browser() as opened:
        opened.set_default_timeout(PATIENCE)
        yield opened
