"""Tune's hand on the brake: it only carries out what the study's pruner decides."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from kinemic.report import RungReport
from search.failures import Failure
from search.ledger import Ledger


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """A Tune scheduler that reports every rung to the ledger and stops what the study has told it to."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that is never done here; the study's connection can't travel.
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Take one result of a worker: a rung's report or a failure that it recognised."""
        number = trial.config["number"]
        if "failure_kind" in result:
            self._ledger.fail(number, Failure(result["failure_kind"], result["failure_message"]))
            return str(TrialScheduler.STOP)
        over = self._ledger.report(number, RungReport.from_json(result["report"]))
        return str(TrialScheduler.STOP if over else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Take an error that the worker did not recognise: a bug, or the death of the worker itself."""
        number, error = trial.config["number"], trial.get_pickled_error()
        if isinstance(error, RayActorError):
            self._ledger.lose(number, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        else:
            lines = str(error or trial.get_error() or "no message").strip().splitlines()
            self._ledger.fail_bug(number, lines[-1][:500])
