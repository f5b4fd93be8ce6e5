"""Keeps the study and the tracking in step with what the workers report; it alone decides what runs and what stops."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from kinemic.errors import KinemicError
from kinemic.report import RungReport
from search import study as studies
from search.config import SamplerConfig, SearchConfig
from search.failures import BUG, DIVERGED, INFRASTRUCTURE, MOST_LOSSES, OUT_OF_MEMORY, WORKER_LOST, Failure
from search.goal import TITLES, goal
from search.patience import OutOfPatienceError, Pauses
from search.pruners import decide, make_pruner
from search.shares import Share
from search.space import Domain, Scalar, suggest
from search.tracking import Tracker
from search.variants import enqueue_variants

MakeSampler = Callable[[SamplerConfig, int], optuna.samplers.BaseSampler]  # of a trial, by its number

_KEEP_TIME_EVERY = 60.0  # seconds
_MOST_BUGS = 3  # in a row, before nothing more is tried


class SearchStoppedError(KinemicError):
    """Trial after trial failed with a bug, which the next one would meet too."""


@dataclass(frozen=True)
class Assignment:
    """A trial to run: its number in the study, the values of its searched paths and its share of the machine."""

    number: int
    values: dict[str, Scalar]
    share: Share


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
        share: Share,
        changed: Callable[[], None] = lambda: None,
        make_sampler: MakeSampler = studies.make_sampler,
    ) -> None:
        self._study, self._config, self._space, self._tracker = study, config, space, tracker
        self._folder, self._share, self._changed = trials_folder, share, changed
        self._make_sampler = make_sampler
        self._open: dict[int, _Open] = {}
        self._losses: Counter[int] = Counter()
        self._bugs: list[tuple[int, Failure]] = []  # of the trials that ended last, all in a row
        self._pauses = Pauses(config.patience)
        self._gave_up: OutOfPatienceError | None = None
        self._objective = studies.objective(study)
        study.pruner = make_pruner(config, self._objective)
        started = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
        self._started = len(started)
        self._again = deque(t.number for t in started if t.state == TrialState.RUNNING and not studies.failure(t))
        self._earlier, self._since, self._kept = studies.searched_seconds(study), time.monotonic(), 0.0

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self._open and not self._again and not self._may_start

    @property
    def _may_start(self) -> bool:
        trials, hours = self._config.budget.trials, self._config.budget.hours
        return self._started < trials and (hours is None or self._searched_seconds < hours * 3600)

    @property
    def _searched_seconds(self) -> float:
        """Of this sitting and all before it."""
        return self._earlier + time.monotonic() - self._since

    def workdir(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self._folder / f"{number:04d}"

    def next(self) -> Assignment | None:
        """Return the next trial to run, or None where none may start now; interrupted ones come first.

        Raises SearchStoppedError after bugs in a row, OutOfPatienceError for a fault of the machine that stays.
        """
        if self._gave_up:
            raise self._gave_up
        if len(self._bugs) >= _MOST_BUGS:
            numbers, message = ", ".join(str(number) for number, _ in self._bugs), self._bugs[-1][1].message
            raise SearchStoppedError(f"{len(self._bugs)} trials in a row failed with a bug ({numbers}): {message}")
        if self._searched_seconds - self._kept > _KEEP_TIME_EVERY:
            self.keep_time()
        if self._pauses.on or not (self._again or self._may_start) or not self._fits(self._next_share):
            return None
        share = self._next_share
        trial = self._reopen(self._again.popleft()) if self._again else self._ask()
        values = suggest(trial, self._space, studies.fixed_values(trial))
        self._open[trial.number] = _Open(trial, share)
        self._start_tracking(trial, values)
        self._changed()
        return Assignment(trial.number, values, share)

    def report(self, number: int, report: RungReport) -> bool:
        """Take a rung's report; returns whether the trial is over, because it is finished or is pruned."""
        trial, reached = self._open[number].trial, goal(report, self._objective)
        if not math.isfinite(reached):
            said = f"{TITLES[self._objective]} is {reached} after {report.steps} steps"
            self.fail(number, Failure(DIVERGED, said))
            return True
        if studies.store_report(trial, report):
            del self._losses[number]
            self._pauses.over(number)
            studies.forget_fault(trial)
        self.keep_time()
        self._tracker.log_rung(number, report)
        over = self._decide(trial, report)
        self._changed()
        return over

    def fail(self, number: int, failure: Failure) -> None:
        """Take a trial's failure: it fails alone. Out of memory it first goes on once with a larger share, if any.

        A fault of the machine is never its end: it goes on from its last rung after a pause.
        """
        if number not in self._open:  # its worker died after the trial had ended
            return
        if failure.kind == INFRASTRUCTURE:
            self._wait(number, failure)
            return
        trial = self._open.pop(number).trial
        if failure.kind == OUT_OF_MEMORY and self._share.larger and not studies.enlarged(trial):
            studies.enlarge(trial)
            self._again.append(number)
            return
        studies.keep_failure(trial, failure)
        studies.tell_failure(trial)
        self._tracker.end_trial(number, "FAILED", self.workdir(number), failure)
        self._bugs = [*self._bugs, (number, failure)] if failure.kind == BUG else []
        self._changed()

    def lose(self, number: int, message: str) -> None:
        """Take the death of a trial's worker: it goes on from its last rung; dead again and again there, it fails."""
        if number not in self._open:
            return
        self._losses[number] += 1
        if self._losses[number] > MOST_LOSSES:
            self.fail(number, Failure(WORKER_LOST, message))
        else:
            del self._open[number]
            self._again.append(number)

    def _wait(self, number: int, fault: Failure) -> None:
        trial = self._open.pop(number).trial
        self._again.append(number)
        studies.keep_fault(trial, fault)
        self._tracker.log_fault(number, fault)
        try:
            self._since += self._pauses.begin(number, f"trial {number}: {fault.message}")
        except OutOfPatienceError as error:  # raised where the next trial is asked for: Tune would wrap it here
            self._gave_up = error
        self._changed()

    def keep_time(self) -> None:
        """Write down how long was searched; Tune asks for the next trial all the time, so a kill loses a minute."""
        self._kept = self._searched_seconds
        studies.keep_searched_seconds(self._study, self._kept)

    def reconcile(self) -> None:
        """Carry out what a killed driver had begun: failures that it had decided, and what the tracking has missed."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and studies.failure(trial):
                studies.tell_failure(self._reopen(trial.number))
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and not self._tracker.is_ended(trial.number):
                self._start_tracking(trial, studies.trial_values(trial))
                for report in studies.reports(trial):
                    self._tracker.log_rung(trial.number, report)
                failure = studies.failure(trial)
                status = "FAILED" if failure else _MLFLOW_STATUS[trial.state]
                self._tracker.end_trial(trial.number, status, self.workdir(trial.number), failure)

    def _start_tracking(self, trial: FrozenTrial | optuna.Trial, values: Mapping[str, Scalar]) -> None:
        config = studies.trial_config(self._config, values)
        self._tracker.start_trial(trial.number, values, config, studies.leader(trial))

    @property
    def _next_share(self) -> Share:
        larger = self._share.larger
        return larger if larger and self._again and studies.enlarged(self._frozen(self._again[0])) else self._share

    def _fits(self, share: Share) -> bool:
        """Whether a share is free; each takes one part in ``max_concurrent`` of the search's."""
        parts = [
            Fraction(1, each.max_concurrent) for each in (share, *(opened.share for opened in self._open.values()))
        ]
        return sum(parts) <= 1

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _ask(self) -> optuna.Trial:
        enqueue_variants(self._study, self._config, self._space)
        # Enqueued trials have the lowest free numbers and start first, so this is the number of the one to come.
        self._study.sampler = self._make_sampler(self._config.sampler, self._started)
        self._started += 1
        return self._study.ask()

    def _reopen(self, number: int) -> optuna.Trial:
        self._study.sampler = self._make_sampler(self._config.sampler, number)
        trial = optuna.Trial(self._study, self._frozen(number)._trial_id)
        studies.redraw(trial, self._space)
        return trial

    def _decide(self, trial: optuna.Trial, report: RungReport) -> bool:
        if report.last:
            self._end(trial, TrialState.COMPLETE, goal(report, self._objective))
            return True
        if decide(trial, report, self._config.racing):
            self._end(trial, TrialState.PRUNED, None)
            return True
        return False

    def _end(self, trial: optuna.Trial, state: TrialState, value: float | None) -> None:
        self._study.tell(trial, value, state=state, skip_if_finished=True)
        del self._open[trial.number]
        self._tracker.end_trial(trial.number, _MLFLOW_STATUS[state], self.workdir(trial.number), None)
        self._bugs = []


@dataclass(frozen=True)
class _Open:
    """A trial that runs, with its share."""

    trial: optuna.Trial
    share: Share


_MLFLOW_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
