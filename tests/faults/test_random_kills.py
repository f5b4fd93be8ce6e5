"""Random kill -9 during a search, of its driver, a worker or Ray itself: after a resume nothing is lost or doubled."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from search import contenders
from search import study as studies
from search.config import SearchConfig
from search.folder import SearchFolder, dump
from tests import analytic
from tests.bench import Bench, search
from tests.faults.driver import COMPUTED
from tests.faults.settings import THOROUGH

ROOT = Path(__file__).resolve().parents[2]
TRIALS, REPETITIONS = 12, 2
RUNS = 4 * REPETITIONS - 2  # of contenders before the last ones, so that there is something left to kill
VICTIMS = {
    "driver": re.compile("driver"),
    "worker": re.compile(r"ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent)"),
    "raylet": re.compile(r".*/raylet$"),
    "gcs": re.compile(r".*/gcs_server$"),
}
PATIENCE = 60.0  # seconds that a driver has to notice that its Ray is dead, before it is killed too

RAY = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # instead of a minute until a driver gives up a dead Ray
TOO_BUSY = "timed out during startup"  # Ray's own words, where a machine takes more than 30 seconds to start it

# Seed, workers, kills among the trials, and what is killed once among the contenders.
LATER = ["driver", "worker", "gcs", "worker"]
SEARCHES = [(seed, 1 + seed % 2, 4, LATER[seed]) for seed in range(4)] if THOROUGH else [(0, 1, 3, "driver")]


@dataclass
class Search:
    """A search in a process of its own, which is killed and started again."""

    config: SearchConfig
    runs: Path
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = SearchFolder((self.runs / self.config.name).resolve())
        self.file = self.runs / "search.yaml"
        self.file.write_text(dump(self.config), encoding="utf-8")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.faults.driver", str(self.file), str(self.runs)]
        with (self.runs / "driver.log").open("wb") as out:
            self.driver = subprocess.Popen(command, cwd=ROOT, env=os.environ | RAY, stdout=out, stderr=out)

    def rungs(self, among: Path) -> int:
        """Return how many rungs the runs in a folder have recorded."""
        return sum(len(path.read_text().splitlines()) for path in among.glob(f"*/{analytic.TRACE}"))

    def kill(self, victim: str, among: Path, after: int, pause: float) -> None:
        """Kill a part of the search some seconds after so many rungs; a driver that dies of it is started again."""
        while self.rungs(among) < after and self.runs_on():
            time.sleep(0.02)
        time.sleep(pause)
        while not self.strike(victim):
            assert self.runs_on(), f"the driver ended by itself, killed before: {self.killed}; {self.said()}"
            time.sleep(0.02)
        self.killed.append(f"{victim} after {self.rungs(among)} rungs of {among.name}")
        if victim != "worker":
            self.bury()
            self.start()

    def runs_on(self) -> bool:
        """Say whether the driver runs; it is started again where the machine was too busy to start Ray."""
        if self.driver.poll() and TOO_BUSY in self.said():
            self.start()
        return self.driver.poll() is None

    def strike(self, victim: str) -> bool:
        """Kill a process of the search that is such a victim; returns whether there was one."""
        there = [(self.driver.pid, "driver"), *descendants(self.driver.pid)]
        for pid in [pid for pid, title in there if VICTIMS[victim].match(title) and self.driver.poll() is None]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def bury(self) -> None:
        """Wait until the driver is dead; one that hangs without its Ray is killed too."""
        try:
            self.driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.killed.append("the driver, which hung")
            self.driver.kill()
            self.driver.wait()

    def said(self) -> str:
        return (self.runs / "driver.log").read_text(errors="replace")[-3000:]


def descendants(root: int) -> list[tuple[int, str]]:
    """Return the process ids and titles of all that a process has started, and what that has."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family and pid not in family}:
        family |= more
    return [(pid, titles[pid]) for pid in sorted(family - {root}) if pid in titles]


@pytest.fixture
def searches(tmp_path: Path, empty_store: Path) -> Iterator[Callable[[SearchConfig], Search]]:
    """Return a starter of searches; what still runs at the end is ended."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    started: list[Search] = []

    def begin(config: SearchConfig) -> Search:
        started.append(Search(config, tmp_path))
        return started[-1]

    yield begin
    for each in started:
        each.driver.kill()
        each.driver.wait()


def outcome(trials: list[FrozenTrial]) -> list[object]:
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in trials]


@pytest.mark.timeout(1200)  # every kill may cost a start of Python and of Ray
@pytest.mark.parametrize(("seed", "workers", "kills", "later"), SEARCHES)
def test_a_search_that_is_killed_again_and_again_ends_whole(
    seed: int, workers: int, kills: int, later: str, searches: Callable[[SearchConfig], Search], tmp_path: Path
) -> None:
    rng = random.Random(seed)
    config = search(
        name="killed",
        storage=None,
        budget={"trials": TRIALS},
        pruner={"kind": "median", "startup_trials": 2},
        sampler={"startup_trials": 4, "seed": seed},
        contenders={"seeds": REPETITIONS},
        resources={"max_concurrent": workers},
    )
    victims = ["driver", rng.choice(["raylet", "gcs"]), *rng.choices(list(VICTIMS), k=kills - 3)]
    rng.shuffle(victims)
    killed = searches(config)
    # A worker last: no sitting comes after it among the trials, which would find what the ledger has lost.
    for victim, after in zip([*victims, "worker"], sorted(rng.sample(range(TRIALS), kills)), strict=True):
        killed.kill(victim, killed.folder.trials, after, rng.uniform(0, 0.3))
    killed.kill(later, killed.folder.contenders, rng.randrange(1, RUNS), rng.uniform(0, 0.3))
    while killed.runs_on():
        time.sleep(0.1)
    assert killed.driver.returncode == 0, killed.said()
    assert len(killed.killed) >= kills + 1

    folder = killed.folder
    trials = studies.open_study(folder.config(), folder.path, folder.state().study).get_trials()
    assert [t.number for t in trials] == list(range(TRIALS)), killed.killed
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}, killed.killed
    for trial in trials:
        assert trial.intermediate_values == dict(analytic.recorded(folder.trials / f"{trial.number:04d}"))
    computed = Counter((tmp_path / COMPUTED).read_text().splitlines())
    assert set(computed.values()) == {1}, (computed.most_common(3), killed.killed)  # what is stored is replayed
    table = contenders.load(folder.contenders_file)
    assert table is not None
    assert [len(row.accuracies) for row in table.rows] == [REPETITIONS] * 4, killed.killed
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("kinemic").experiment_id])
    roles = sorted(run.data.tags["kinemic.role"] for run in runs)
    assert roles == ["search"] + ["trial"] * TRIALS, killed.killed
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}, killed.killed
    for run in runs:
        if run.data.tags["kinemic.role"] == "trial":
            trial = trials[int(run.data.tags["kinemic.trial"])]
            assert run.data.tags["kinemic.state"] == trial.state.name.lower()
            history = client.get_metric_history(run.info.run_id, "dev_accuracy")
            assert {metric.step: metric.value for metric in history} == pytest.approx(trial.intermediate_values)
            assert len(history) == len(trial.intermediate_values)
    if workers == 1:
        undisturbed = config.model_copy(update={"storage": "sqlite:///:memory:"})
        assert outcome(trials) == outcome(Bench(undisturbed, tmp_path / "undisturbed").run_all()), killed.killed
