"""Random kill -9 during a search, of its driver, a worker or Ray itself: after a resume nothing is lost or doubled."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from search import contenders
from search import study as studies
from search.config import SearchConfig
from tests import analytic
from tests.bench import Bench, search
from tests.faults.driver import COMPUTED
from tests.faults.killing import VICTIMS, Search
from tests.faults.settings import THOROUGH

TRIALS, REPETITIONS = 12, 2
RUNS = 4 * REPETITIONS - 2  # of contenders before the last ones, so that there is something left to kill
# Seed, workers, kills among the trials, and what is killed once among the contenders.
LATER = ["driver", "worker", "gcs", "worker"]
SEARCHES = [(seed, 1 + seed % 2, 4, LATER[seed]) for seed in range(4)] if THOROUGH else [(0, 1, 3, "driver")]


def outcome(trials: list[FrozenTrial]) -> list[object]:
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in trials]


@pytest.mark.timeout(1200)  # every kill may cost a start of Python and of Ray
@pytest.mark.parametrize(("seed", "workers", "kills", "later"), SEARCHES)
def test_a_search_that_is_killed_again_and_again_ends_whole(
    seed: int, workers: int, kills: int, later: str, searches: Callable[[SearchConfig, Path], Search], tmp_path: Path
) -> None:
    rng = random.Random(seed)
    config = search(
        name="killed",
        storage=None,
        budget={"trials": TRIALS},
        pruner={"kind": "median", "startup_trials": 2},
        sampler={"startup_trials": 4, "seed": seed},
        contenders={"seeds": REPETITIONS, "rows": ["real", "published"]},
        resources={"max_concurrent": workers},
    )
    victims = ["driver", rng.choice(["raylet", "gcs"]), *rng.choices(list(VICTIMS), k=kills - 3)]
    rng.shuffle(victims)
    killed = searches(config, tmp_path)
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
