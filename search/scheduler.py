"""Tune's hand on the brake: it only carries out what the study's pruner decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from kinemic.report import RungReport
from search.failures import BUG, Failure
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

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Close a trial that Tune ended without being told to; one that the study knows to be over stays as it is."""
        self._ledger.fail(trial.config["number"], Failure(BUG, "Tune ended the trial before its last rung"))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Take an error that the worker did not recognise: a bug, or the death of the worker itself."""
        number, error = trial.config["number"], _error_of(trial)
        lines = (str(error).strip() or "no message").splitlines()
        if isinstance(error, RayActorError):
            self._ledger.lose(number, lines[0][:500])
        else:  # the last line of a worker's traceback is the error itself
            self._ledger.fail(number, Failure(BUG, lines[-1][:500]))


def _error_of(trial: Any) -> object:
    """Return the error that Tune has just written down for a trial; its own reader looks where it is copied later."""
    path = Path(trial.pickled_error_file or "")
    return cloudpickle.loads(path.read_bytes()) if path.is_file() else None
