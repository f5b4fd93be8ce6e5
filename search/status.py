"""A study as rows to show: one a trial, and the sum of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import study as studies
from search.goal import Objective, goal
from search.space import Scalar


@dataclass(frozen=True)
class TrialRow:
    """One trial: state in lower case, its last rung's dev accuracy and standard error (0..1), steps, warnings, seconds.

    ``goal`` is what of that rung the search maximises, by its ``objective``.
    ``diagnostics`` say what its generated clips are like (``kinemic.diagnostics``), empty before its last rung.
    ``reused`` are the seconds that stages made for other trials had taken, which this one was spared.
    ``leader`` is the number of the trial that a variant takes its dear values from, and ``own`` are the values of a
    variant that it does not share with its leader; of every other trial they are all.
    """

    number: int
    state: str
    steps: int
    accuracy: float | None
    accuracy_se: float | None
    objective: Objective
    goal: float | None
    seconds: float
    reused: float
    failure_kind: str
    failure_message: str
    warnings: tuple[str, ...]
    diagnostics: Mapping[str, float]
    role: str  # which of the rows that a search begins with; empty for any other
    leader: int | None
    values: Mapping[str, Scalar]
    own: Mapping[str, Scalar]

    @property
    def failure(self) -> str:
        """Why the trial failed, or what it waits for; empty for any other."""
        return f"{self.failure_kind}: {self.failure_message}" if self.failure_kind else ""


def trial_rows(study: optuna.Study) -> list[TrialRow]:
    """Return a row for every trial that was started."""
    trials, objective = study.get_trials(deepcopy=False), studies.objective(study)
    return [_row(trial, trials, objective) for trial in trials if trial.state != TrialState.WAITING]


def _row(trial: FrozenTrial, trials: list[FrozenTrial], objective: Objective) -> TrialRow:
    reports = studies.reports(trial)
    last = reports[-1] if reports else None
    failure = studies.failure(trial) or studies.fault(trial)
    leader, values = studies.leader(trial), studies.trial_values(trial)
    shared = {} if leader is None else studies.trial_values(trials[leader])
    return TrialRow(
        number=trial.number,
        state=studies.state_name(trial),
        steps=last.steps if last else 0,
        accuracy=last.dev_accuracy if last else None,
        accuracy_se=last.dev_accuracy_se if last else None,
        objective=objective,
        goal=goal(last, objective) if last else None,
        seconds=sum(sum(report.seconds.values()) for report in reports),
        reused=sum(sum(report.reused.values()) for report in reports),
        failure_kind=failure.kind if failure else "",
        failure_message=failure.message if failure else "",
        warnings=last.warnings if last else (),
        diagnostics={name: value for report in reports for name, value in report.diagnostics.items()},
        role=studies.role(trial),
        leader=leader,
        values=values,
        own={path: value for path, value in values.items() if path not in shared or shared[path] != value},
    )
