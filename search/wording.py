"""How trials are put into words wherever they are shown: the terminal, the MLflow page, the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kinemic.report import shown
from search.goal import TITLES, Objective
from search.known_rows import TITLES as ROW_TITLES
from search.space import Scalar
from search.status import TrialRow

MOTION: Final = "motion_range_generated_over_real"
# What generated clips are like, by the name that kinemic.diagnostics gives it, as the head of a column.
DIAGNOSTICS: Final = {
    MOTION: "motion",
    "motion_range_mined_over_real": "of mined clips",
    "spread_generated_over_real": "spread",
    "nearest_shot_generated_over_real": "nearest shot",
    "nearest_real_is_of_class": "recognised",
}


def percent(value: float | None) -> str:
    """Return a share (0..1) in percent with one digit; ``?`` where it is unknown."""
    return shown(None if value is None else 100 * value, 1)


def span(interval: Sequence[float] | None) -> str:
    """Return an interval of shares (0..1) in percent; ``?`` where it is unknown."""
    return "?" if not interval else f"{percent(interval[0])} to {percent(interval[1])}"


def accuracy(row: TrialRow) -> str:
    """Return a trial's dev accuracy and standard error in percent; ``-`` before its first rung."""
    return "-" if row.accuracy is None else f"{percent(row.accuracy)} +- {percent(row.accuracy_se)}"


def ratio(row: TrialRow, name: str) -> str:
    """Return one of a trial's diagnostics with two digits; empty where there is none."""
    return f"{row.diagnostics[name]:.2f}" if name in row.diagnostics else ""


def objective_column(rows: Sequence[TrialRow]) -> tuple[str, ...]:
    """Return the title of the column of what trials are ranked by, of which accuracy has a column anyway."""
    objective: Objective = rows[0].objective if rows else "accuracy"
    return () if objective == "accuracy" else (TITLES[objective],)


def by_objective(objective: Objective) -> str:
    """Return, to go on a sentence, by what trials are ranked, where that is not accuracy."""
    return "" if objective == "accuracy" else f" by {TITLES[objective]}"


def objective_cell(row: TrialRow) -> tuple[str, ...]:
    """Return a trial's cell of that column."""
    return () if row.objective == "accuracy" else ("-" if row.goal is None else f"{row.goal:.3f}",)


def settings(values: Mapping[str, Scalar], most: int) -> str:
    """Return the first ``most`` searched values, each with the last part of its path."""
    said = [f"{path.rpartition('.')[2]} {short(value)}" for path, value in values.items()]
    return ", ".join(said[:most]) + (", ..." if len(said) > most else "")


def described(row: TrialRow, most: int) -> str:
    """Return what a trial is: a row that is known before, a variant of another and how it differs, or its settings."""
    if row.role:
        return ROW_TITLES.get(row.role, "published configuration")
    return ("" if row.leader is None else f"variant of {row.leader}: ") + settings(row.own, most)


def short(value: object) -> str:
    """Return a value with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def states(rows: Iterable[TrialRow]) -> str:
    """Return how many trials there are of each state."""
    found = [row.state for row in rows]
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))


def ranked(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Return the finished trials, the best first and the earliest of equals first."""
    complete = [row for row in rows if row.state == "complete" and row.goal is not None]
    return sorted(complete, key=lambda row: (-(row.goal or 0.0), row.number))
