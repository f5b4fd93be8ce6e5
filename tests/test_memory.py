"""Workers that Ray's own memory monitor kills: out of memory as any other, in a search and on fresh seeds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray import cloudpickle

from kinemic.report import RungReport
from search import study as studies
from search.again import failure_lines, fresh_seeds, plan, run_all
from search.baselines import Contender
from search.config import SearchConfig
from search.resources import connected, share
from search.runner import run_trials
from search.status import trial_rows
from search.trainable import Work
from tests import analytic
from tests.bench import Bench, search

KILLED = "worker(s) were killed due to the node running low on memory"


def run_until_killed(*given: Any) -> Iterator[RungReport]:
    """Run until it is killed: the node is always short of memory here."""
    time.sleep(120)
    yield from analytic.run_trial(*given)


@contextmanager
def short_of_memory(look_every_ms: int) -> Iterator[None]:
    """A Ray whose node seems to be short of memory whenever it looks: it kills a worker each time."""
    modules = (analytic, sys.modules[__name__])
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2, "GPU": 0}')
        patch.setenv("RAY_memory_usage_threshold", "0.001")
        patch.setenv("RAY_memory_monitor_refresh_ms", str(look_every_ms))
        with connected("local"):
            yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


def work(folder: Path, config: SearchConfig) -> Work:
    return Work(analytic.inputs(folder), config.trial, config.seeds, folder / "trials", run_until_killed)


@pytest.mark.parametrize("look_every_ms", [200, 8000])  # killed as it starts, and while it runs
def test_a_trial_that_ray_kills_for_memory_gets_the_larger_share_and_then_is_infeasible(
    look_every_ms: int, tmp_path: Path
) -> None:
    config = search(budget={"trials": 1}, pruner="none")
    with short_of_memory(look_every_ms):
        bench = Bench(config, tmp_path, share=share(config.resources))
        run_trials(bench.ledger, work(tmp_path, config), tmp_path)
    (trial,), (row,) = bench.study.get_trials(), trial_rows(bench.study)
    assert studies.enlarged(trial)
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"memory": 1.0})
    assert (row.state, row.failure_kind) == ("infeasible", "out of memory")
    assert KILLED in row.failure_message


def test_a_run_on_fresh_seeds_that_ray_kills_for_memory_ends_as_out_of_memory(tmp_path: Path) -> None:
    config = search()
    runs = plan([Contender("a", "a", config.trial)], [fresh_seeds(0, "test", 0, judges=2)], tmp_path / "again")
    with short_of_memory(1000):
        (row,) = run_all(runs, work(tmp_path, config), share(config.resources)).values()
    (line,) = failure_lines(row)
    assert line.startswith("out of memory: ")
    assert KILLED in line
