"""Keeps the study and the tracking in step with what the workers report; it alone decides what runs and what stops."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from kinemic.report import RungReport
from search import study as studies
from search.config import SearchConfig
from search.failures import BUG, DIVERGED, WORKER_LOST, Failure
from search.space import Domain, Scalar, suggest
from search.tracking import Tracker

_MOST_LOSSES = 2  # how often a trial whose worker died is started again from its last rung


@dataclass(frozen=True)
class Assignment:
    """A trial to run: its number in the study and the values of its searched paths."""

    number: int
    values: dict[str, Scalar]


class Ledger:
    """The trials of one sitting of a search, over its durable study.

    Every method may be repeated after a crash: what is already in the study is left as it is.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: SearchConfig,
        space: Mapping[str, Domain],
        tracker: Tracker,
        trials_folder: Path,
        max_concurrent: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._study, self._config, self._space, self._tracker = study, config, space, tracker
        self._folder, self._max_concurrent, self._changed = trials_folder, max_concurrent, changed
        self._open: dict[int, optuna.Trial] = {}
        self._losses: Counter[int] = Counter()
        started = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
        self._started = len(started)
        self._again = deque(t.number for t in started if t.state == TrialState.RUNNING)
        hours = config.budget.hours
        self._deadline = math.inf if hours is None else time.monotonic() + hours * 3600

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self._open and not self._again and not self._may_start

    @property
    def _may_start(self) -> bool:
        return self._started < self._config.budget.trials and time.monotonic() < self._deadline

    def workdir(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self._folder / f"{number:04d}"

    def next(self) -> Assignment | None:
        """Return the next trial to run, or None where none may start now; interrupted ones come first."""
        if len(self._open) >= self._max_concurrent or not (self._again or self._may_start):
            return None
        trial = self._reopen(self._again.popleft()) if self._again else self._ask()
        values = suggest(trial, self._space, studies.fixed_values(trial))
        self._open[trial.number] = trial
        self._tracker.start_trial(trial.number, values, studies.trial_config(self._config, values))
        self._changed()
        return Assignment(trial.number, values)

    def report(self, number: int, report: RungReport) -> bool:
        """Take a rung's report; returns whether the trial is over, because it is finished or is pruned."""
        trial = self._open[number]
        if not math.isfinite(report.dev_accuracy):
            self.fail(number, Failure(DIVERGED, f"dev accuracy is {report.dev_accuracy} after {report.steps} steps"))
            return True
        studies.store_report(trial, report)
        self._tracker.log_rung(number, report)
        over = self._decide(trial, report)
        self._changed()
        return over

    def fail(self, number: int, failure: Failure) -> None:
        """Take a trial's failure; it fails alone."""
        trial = self._open.pop(number, None)
        if trial is None:  # its worker died after the trial had ended
            return
        trial.set_user_attr(studies.FAILURE_KIND, failure.kind)
        trial.set_user_attr(studies.FAILURE_MESSAGE, failure.message)
        self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self._tracker.end_trial(number, "FAILED", self.workdir(number), failure)
        self._changed()

    def lose(self, number: int, message: str) -> None:
        """Take the death of a trial's worker: it starts again from its last rung, a few times, then fails."""
        if number not in self._open:
            return
        self._losses[number] += 1
        if self._losses[number] > _MOST_LOSSES:
            self.fail(number, Failure(WORKER_LOST, message))
        else:
            del self._open[number]
            self._again.append(number)

    def reconcile(self) -> None:
        """Bring the tracking up to the study: what a killed driver had told the one but not the other."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and not self._tracker.is_ended(trial.number):
                values = studies.trial_values(trial)
                self._tracker.start_trial(trial.number, values, studies.trial_config(self._config, values))
                for report in studies.reports(trial):
                    self._tracker.log_rung(trial.number, report)
                attrs = trial.user_attrs
                failure = Failure(attrs.get(studies.FAILURE_KIND, BUG), attrs.get(studies.FAILURE_MESSAGE, ""))
                status = _MLFLOW_STATUS[trial.state]
                self._tracker.end_trial(
                    trial.number, status, self.workdir(trial.number), failure if status == "FAILED" else None
                )

    def _ask(self) -> optuna.Trial:
        self._study.sampler = studies.make_sampler(self._config.sampler, self._started)
        self._started += 1
        return self._study.ask()

    def _reopen(self, number: int) -> optuna.Trial:
        frozen = self._study.get_trials(deepcopy=False)[number]
        self._study.sampler = studies.make_sampler(self._config.sampler, number)
        return optuna.Trial(self._study, frozen._trial_id)

    def _decide(self, trial: optuna.Trial, report: RungReport) -> bool:
        if report.steps >= report.total_steps:
            self._end(trial, TrialState.COMPLETE, report.dev_accuracy)
            return True
        if studies.passed(trial) >= report.steps:
            return False
        if trial.should_prune():
            self._end(trial, TrialState.PRUNED, None)
            return True
        studies.mark_passed(trial, report.steps)
        return False

    def _end(self, trial: optuna.Trial, state: TrialState, value: float | None) -> None:
        self._study.tell(trial, value, state=state, skip_if_finished=True)
        del self._open[trial.number]
        self._tracker.end_trial(trial.number, _MLFLOW_STATUS[state], self.workdir(trial.number), None)


_MLFLOW_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
