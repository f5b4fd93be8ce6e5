"""What a confirmation found: rows on dev and test, the winner, the looks at the test split; kept as one JSON file.

Shapes: K repetitions, J judge seeds in each, N test clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from kinemic.config import Frozen
from kinemic.documents import load_result
from kinemic.errors import KinemicError
from kinemic.files import write_text
from kinemic.report import RungReport, mean, standard_error
from search.again import Result, failure_lines
from search.baselines import Contender
from search.goal import Objective, goal
from search.statistics import estimate, paired_difference

Interval = tuple[float, float]
Correct = Mapping[str, NDArray[np.bool_]]  # (K, J, N) of every row that was tested


class Look(Frozen):
    """One opening of the test split: when, for which winner, by which runs' judges, on which clips."""

    number: int
    time: str  # UTC, ISO 8601
    winner: str
    runs: dict[str, tuple[str, ...]]  # row to the folders of its runs, whose names are a hash of what was run
    clips: int
    split: str  # hash of the clips' names; the names themselves stay out of what is tracked


class ConfirmedRow(Frozen):
    """One row: dev accuracy of each repetition (0..1), and for winner and baselines what the test split says.

    ``difference`` is the winner's accuracy minus the row's, over the same clips and seeds, None for the winner itself;
    intervals are of 95 %, and a difference is ``noise`` where its interval holds 0.
    """

    key: str
    title: str
    baseline: bool
    dev_accuracies: tuple[float, ...]
    dev_mean: float | None
    dev_se: float | None
    dev_goal: float | None = None  # the mean of what the search maximises
    failures: tuple[str, ...] = ()
    test_accuracy: float | None = None
    test_interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    smallest_detectable_difference: float | None = None
    noise: bool | None = None


class FurtherRows(Frozen):
    """The winner and every baseline under another profile of the judge, by which nothing was chosen.

    Its rows are the clips of the rows of the same key, on which the classifier alone was trained again.
    """

    judge: str
    runs: dict[str, tuple[str, ...]]
    rows: tuple[ConfirmedRow, ...]


class Confirmation(Frozen):
    """All of it; before the test split is opened, rows have their dev side alone."""

    search: str
    judge: str
    steps: int
    repetitions: int
    judge_seeds: int
    winner: str
    objective: Objective = "accuracy"  # by which the winner was chosen on dev
    runs: dict[str, tuple[str, ...]]
    rows: tuple[ConfirmedRow, ...]
    looks: int = 0  # at the test split, in all
    look_log: tuple[Look, ...] = ()
    test_clips: int | None = None  # None: not opened for these rows
    further: tuple[FurtherRows, ...] = ()

    @model_validator(mode="after")
    def _has_its_winner(self) -> Confirmation:
        if all(row.key != self.winner for row in self.rows):
            raise ValueError(f"winner {self.winner} has no row")
        return self

    @property
    def tested(self) -> bool:
        """Whether the test split was opened for these rows."""
        return self.test_clips is not None

    @property
    def winning_row(self) -> ConfirmedRow:
        """The winner's row."""
        return next(row for row in self.rows if row.key == self.winner)

    @property
    def tables(self) -> dict[str, list[ConfirmedRow]]:
        """The rows as they are read, by judge, the search's own first: the winner, the other trials, the baselines."""
        rows = {self.judge: self.rows} | {each.judge: each.rows for each in self.further}
        return {judge: sorted(r, key=lambda row: (row.key != self.winner, row.baseline)) for judge, r in rows.items()}

    def metrics(self) -> dict[str, float]:
        """Return the numbers as metrics of the search's own run."""
        names = ("dev_mean", "dev_se", "test_accuracy", "difference", "smallest_detectable_difference")
        rows = {row.key: row for row in self.rows}
        rows |= {under(row.key, each.judge): row for each in self.further for row in each.rows}
        values = {f"confirm_{key}_{name}": getattr(row, name) for key, row in rows.items() for name in names}
        return {"test_looks": float(self.looks)} | {key: value for key, value in values.items() if value is not None}


def under(key: str, judge: str) -> str:
    """Return the name of a row under a further judge."""
    return f"{key}.{judge}"


def dev_row(
    contender: Contender | ConfirmedRow, results: Sequence[Result], baseline: bool, objective: Objective
) -> ConfirmedRow:
    """Return a row with its dev side: the mean over repetitions of the mean over judge seeds."""
    reports = [result for result in results if isinstance(result, RungReport)]
    accuracies = tuple(report.dev_accuracy for report in reports)
    return ConfirmedRow(
        key=contender.key,
        title=contender.title,
        baseline=baseline,
        dev_accuracies=accuracies,
        dev_mean=mean(accuracies) if accuracies else None,
        dev_se=standard_error(accuracies),
        dev_goal=mean([goal(report, objective) for report in reports]) if reports else None,
        failures=failure_lines(results),
    )


def choose_winner(rows: Sequence[ConfirmedRow]) -> str:
    """Return the key of the trial of highest mean goal on dev, the first of equals. Raises KinemicError for none.

    A trial with a failed repetition can't win: its mean is over other seeds than the others'.
    """
    whole = [row for row in rows if not row.baseline and not row.failures]
    if not whole:
        failed = next(row for row in rows if not row.baseline)
        raise KinemicError(f"none of the best trials ran on every seed, first {failed.title}: {failed.failures[0]}")
    return max(whole, key=lambda row: -math.inf if row.dev_goal is None else row.dev_goal).key


def tested_row(row: ConfirmedRow, winner: str, is_winner: bool, correct: Correct, seed: int) -> ConfirmedRow:
    """Return a row with its test side; one that was not tested stays as it is.

    ``is_winner`` says that its runs are the winner's own, though it may go by another name: a baseline may win.
    """
    if row.key not in correct:
        return row
    own = estimate(correct[row.key], seed)
    found: dict[str, object] = {"test_accuracy": own.value, "test_interval": (own.low, own.high)}
    if not is_winner and winner in correct:
        gap = paired_difference(correct[winner], correct[row.key], seed)
        found |= {
            "difference": gap.value,
            "difference_interval": (gap.low, gap.high),
            "smallest_detectable_difference": gap.smallest_detectable,
            "noise": gap.is_noise,
        }
    return row.model_copy(update=found)


def store(confirmation: Confirmation, path: Path) -> None:
    """Write a confirmation to the search's folder, atomically."""
    write_text(path, confirmation.model_dump_json(indent=1))


def load(path: Path) -> Confirmation | None:
    """Read a search's confirmation, None where there is none yet. Raises DataError for a damaged file."""
    return load_result(path, Confirmation, "delete it and confirm again")
