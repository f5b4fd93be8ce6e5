"""Tune's hand on the brake: it only carries out what the study's pruner decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from kinemic.report import RungReport
from search.failures import BUG, OUT_OF_MEMORY, Failure, classify
from search.ledger import Ledger
from search.memory import KilledForMemoryError
from search.messages import first_line


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
        if isinstance(error, KilledForMemoryError):
            self._ledger.fail(number, Failure(OUT_OF_MEMORY, first_line(error)))
        elif isinstance(error, RayActorError) and error.actor_init_failed:  # Ray's text ends with the error itself
            self._ledger.fail(number, Failure(BUG, str(error).strip().splitlines()[-1][:500]))
        elif isinstance(error, RayActorError):
            self._ledger.lose(number, classify(error).message)
        else:
            self._ledger.fail(number, classify(error))


def _error_of(trial: Any) -> Exception:
    """Return the error that Tune has just written down for a trial, where its own reader does not look yet.

    What a worker raised is inside Ray's error.
    """
    path = Path(trial.pickled_error_file or "")
    error = cloudpickle.loads(path.read_bytes()) if path.is_file() else RuntimeError("Tune kept no error of the trial")
    return error.cause or error if isinstance(error, RayTaskError) else error
