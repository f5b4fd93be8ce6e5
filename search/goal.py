"""What a search maximises: the goal of a rung's report. Nothing else says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from kinemic.errors import KinemicError
from kinemic.report import RungReport, mean

Objective = Literal["accuracy", "log_likelihood", "brier"]

TITLES: Final[dict[Objective, str]] = {
    "accuracy": "dev accuracy",
    "log_likelihood": "dev log-likelihood",
    "brier": "minus dev Brier score",
}


def goal(report: RungReport, objective: Objective) -> float:
    """Return the maximised value of a report, the mean over repetitions and judge seeds. Raises as ``goals`` does."""
    return mean(goals(report, objective))


def goals(report: RungReport, objective: Objective) -> Sequence[float]:
    """Return the goal under each judge seed, repetition by repetition; a Brier score, an error, with a minus.

    Raises KinemicError for a report of before probabilities were scored.
    """
    found = {
        "accuracy": report.accuracies,
        "log_likelihood": report.log_likelihoods,
        "brier": tuple(-score for score in report.briers),
    }[objective]
    if not found:
        raise KinemicError(
            f"the report at {report.steps} steps has no {TITLES[objective]}: an earlier version made it; "
            "start the search under another name: --set name=NEW"
        )
    return found
