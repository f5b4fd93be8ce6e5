"""A driver that dies between any two writes to its study: the resumed search ends like an undisturbed one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from search import study as studies
from search.shares import Share
from tests import analytic
from tests.bench import SPACE, Bench, search
from tests.faults.settings import THOROUGH

PRUNERS = ["none", "median", "successive_halving", "hyperband", "wilcoxon"]
WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
)
BANKS = {"type": "categorical", "choices": [60, 61, 62, analytic.FINDS_NOTHING, analytic.RUNS_OUT]}
SHARE = Share(1.0, 0.0, 2, Share(2.0, 0.0, 1))


class DriverDiedError(Exception):
    """Stands for kill -9 of the driver."""


class MortalStorage(InMemoryStorage):
    """Optuna's storage in memory, whose driver dies once, after so many writes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = math.inf
        self.written = 0

    def count(self) -> None:
        if self.left == 0:
            self.left = math.inf
            raise DriverDiedError
        self.left -= 1
        self.written += 1


def _counted(name: str) -> Callable[..., Any]:
    write = getattr(InMemoryStorage, name)

    def counted(self: MortalStorage, *args: Any, **kwargs: Any) -> Any:
        self.count()
        return write(self, *args, **kwargs)

    return counted


for _name in WRITES:
    setattr(MortalStorage, _name, _counted(_name))


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Callable[[], MortalStorage]:
    """Return a maker of the storage that the next study is created in."""

    def make() -> MortalStorage:
        made = MortalStorage()
        monkeypatch.setattr(studies, "_open_storage", lambda *_: made)
        return made

    return make


def ended(trials: list[FrozenTrial]) -> list[Any]:
    return [
        (t.number, t.state, t.values, t.params, t.intermediate_values, t.constraints, studies.leader(t)) for t in trials
    ]


@pytest.mark.parametrize(("pruner", "variants"), [*((pruner, 1) for pruner in PRUNERS), ("median", 3)])
def test_a_driver_that_dies_at_any_write_changes_nothing(
    pruner: str, variants: int, storage: Callable[[], MortalStorage], tmp_path: Path
) -> None:
    config = search(
        space={**SPACE, "loss.bank_size": BANKS},
        pruner=pruner,
        budget={"trials": 8},
        sampler={"startup_trials": 3, "seed": 5, "variants": variants},
    )
    kept = storage()
    whole = Bench(config, tmp_path / "whole", share=SHARE)
    created = kept.written
    undisturbed = ended(whole.run_all())
    assert any(studies.leader(trial) is not None for trial in whole.study.trials) == (variants > 1)
    writes = range(created, kept.written)
    for at in writes if THOROUGH else random.Random(pruner).sample(writes, 8):
        broken = storage()
        bench = Bench(config, tmp_path / str(at), share=SHARE)
        broken.left = at - created
        with pytest.raises(DriverDiedError):
            bench.run_all()
        if bench.tracker.ended:
            bench.tracker.ended.popitem()  # the last end may not have reached the tracking server
        bench.ledger = bench.sitting()
        bench.ledger.reconcile()
        assert ended(bench.run_all()) == undisturbed, f"after {at} writes"
        assert bench.tracker.ended == whole.tracker.ended, f"after {at} writes"
