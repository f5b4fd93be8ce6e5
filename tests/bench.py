"""A search over the analytic trial without Ray: the ledger is the real one, the worker is this very process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from kinemic.config import TrialConfig
from kinemic.errors import KinemicError
from kinemic.progress import silent
from kinemic.report import RungReport
from search import study as studies
from search.config import SearchConfig, validate
from search.failures import Failure, classify
from search.ledger import Assignment, Ledger
from search.shares import Share
from search.space import Domain, Scalar, resolve_space
from tests import analytic

RUNGS = [4, 8, 16]
SPACE = {
    "synthesis.guidance": {"type": "float", "low": 1.0, "high": 5.0},
    "adapt.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "mining.top_k": {"type": "int", "low": 4, "high": "auto", "log": True},
    "loss.dynamic_window_weighting": {"type": "categorical", "choices": [True, False]},
}


def search(**more: Any) -> SearchConfig:
    data = {"source": {"format": "generated"}, "target": {"format": "generated", "part": "target"}}
    values = {
        "name": "analytic",
        "storage": "sqlite:///:memory:",
        "data": data,
        "prior": {"path": "p"},
        "space": SPACE,
        "objective": "accuracy",
        "trial": {"adapt": {"rungs": RUNGS}},
    }
    return validate(values | more, "analytic.yaml")


ALONE = Share(1.0, 0.0, 1)


class Untracked:
    """A tracker that only counts."""

    def __init__(self) -> None:
        self.ended: dict[int, tuple[str, Failure | None]] = {}
        self.faults: set[int] = set()  # trials that waited one out

    def is_ended(self, number: int) -> bool:
        return number in self.ended

    def start_trial(
        self, number: int, values: Mapping[str, Scalar], config: TrialConfig, leader: int | None = None
    ) -> None: ...

    def log_rung(self, number: int, report: RungReport) -> None: ...

    def log_fault(self, number: int, fault: Failure) -> None:
        self.faults.add(number)

    def end_trial(self, number: int, status: str, workdir: Path, failure: Failure | None) -> None:
        assert number not in self.ended
        self.ended[number] = (status, failure)


class Bench:
    """A search over the analytic trial whose workers are this very process."""

    def __init__(
        self, config: SearchConfig, folder: Path, study: optuna.Study | None = None, share: Share = ALONE
    ) -> None:
        self.config, self.folder, self.share = config, folder, share
        self.space: dict[str, Domain] = resolve_space(config.space, analytic.SOURCE_CLIPS, "temporal")
        self.study = study or studies.create_study(config, folder, self.space, analytic.SOURCE_CLIPS)
        self.tracker = Untracked()
        self.ledger = self.sitting()
        self.reported: dict[int, dict[int, float]] = {}

    def sitting(self) -> Ledger:
        return Ledger(self.study, self.config, self.space, self.tracker, self.folder / "trials", self.share)  # type: ignore[arg-type]

    def run(self, assignment: Assignment, stop_after: float = math.inf, device: str = "cpu") -> None:
        workdir = self.ledger.workdir(assignment.number)
        workdir.mkdir(parents=True, exist_ok=True)
        trial = studies.trial_config(self.config, assignment.values)
        rungs = analytic.run_trial(analytic.inputs(workdir), trial, self.config.seeds, workdir, device, silent)
        try:
            for count, report in enumerate(rungs):
                if count >= stop_after:
                    return
                self.reported.setdefault(assignment.number, {})[report.steps] = report.dev_accuracy
                if self.ledger.report(assignment.number, report):
                    return
        except (KinemicError, MemoryError, KeyError) as error:
            self.ledger.fail(assignment.number, classify(error))

    def run_all(self) -> list[FrozenTrial]:
        while (assignment := self.ledger.next()) is not None:
            self.run(assignment)
        assert self.ledger.finished
        return self.study.get_trials()
