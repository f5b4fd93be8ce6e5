"""What a search's own MLflow run shows while it goes on: a leaderboard, the goal curve, importances."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from kinemic.errors import DataError
from search import confirmation, contenders
from search import study as studies
from search.baselines import NONE
from search.confirmation import Confirmation
from search.goal import TITLES, Objective, goal
from search.sitting import Sitting, search_command
from search.status import TrialRow
from search.tracking import Tracker
from search.wording import (
    accuracy,
    by_objective,
    described,
    objective_cell,
    objective_column,
    percent,
    ranked,
    span,
    states,
)

NOTE_TAG = "mlflow.note.content"  # the description on a run's page, Markdown
CURVE = "best_dev_"  # what the curves' names begin with: the accuracy of the best trial, and its goal if another
LEADERS = 10
# Fewer finished trials than this say nothing about a dozen settings.
LEAST_FOR_IMPORTANCES = 10
_SHOWN_VALUES, _SHOWN_IMPORTANCES = 4, 8
_EVERY = 5.0  # seconds between two descriptions


class Board:
    """Keeps the description and the goal curve of a search's own run up to date, through the tracker's outbox."""

    def __init__(
        self,
        tracker: Tracker,
        study: optuna.Study,
        name: str,
        budget: int,
        runs: Path,
        confirmation_file: Path | None = None,
        contenders_file: Path | None = None,
    ) -> None:
        self._tracker, self._study = tracker, study
        self._name, self._budget, self._runs = name, budget, runs
        self._confirmation_file, self._contenders_file = confirmation_file, contenders_file
        self._points, self._ended, self._written = 0, -1, 0.0

    def update(self, rows: Sequence[TrialRow], last: bool = False) -> None:
        """Take the trials as they are now; ``last`` writes the description whenever the one before was written."""
        ended = sum(row.state != "running" for row in rows)
        if ended != self._ended:
            leaders = leaders_so_far(self._study)
            for name, points in goal_curves(leaders[self._points :], studies.objective(self._study)).items():
                self._tracker.log_curve(name, points)
            self._points = len(leaders)
        if last or (ended != self._ended and time.monotonic() - self._written > _EVERY):
            found = importances(self._study)
            file, link = self._confirmation_file, self._tracker.trials_link
            confirmed = confirmation.load(file) if file else None
            note = description(rows, self._budget, found, self._name, self._runs, link, confirmed)
            note += f"\n\n**{verdict}**" if (verdict := self._verdict()) else ""
            self._tracker.log_parent({}, {NOTE_TAG: note}, {})
            self._written = time.monotonic()
            if last:
                self._tracker.log_parent({f"importance_{path}": value for path, value in found.items()}, {}, {})
        self._ended = ended

    def _verdict(self) -> str:
        """What the table at the search's end says; nothing of one that is damaged, which is told where it is shown."""
        try:
            table = contenders.load(self._contenders_file) if self._contenders_file else None
        except DataError:
            return ""
        return table.verdict if table else ""


def board_of(sitting: Sitting, runs: Path) -> Board:
    """Return the board of a search that is sat at."""
    opened = sitting.opened
    name, trials = opened.config.name, opened.config.budget.trials
    files = (opened.folder.confirmation_file, opened.folder.contenders_file)
    return Board(sitting.tracker, opened.study, name, trials, runs, *files)


def leaders_so_far(study: optuna.Study) -> list[tuple[int, FrozenTrial, datetime]]:
    """Return (trials ended, the best of them, when), for every trial that ended."""
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.datetime_complete]
    found, best = [], None
    for count, trial in enumerate(sorted(ended, key=lambda t: (t.datetime_complete, t.number)), 1):
        if trial.state == TrialState.COMPLETE and (best is None or trial.values > best.values):
            best = trial
        if best is not None and trial.datetime_complete is not None:
            found.append((count, best, trial.datetime_complete))
    return found


def goal_curves(
    leaders: Sequence[tuple[int, FrozenTrial, datetime]], objective: Objective
) -> dict[str, list[tuple[int, float, datetime]]]:
    """Return, by metric, the dev accuracy of the best trial so far and, where it is another, what it is the best by."""
    reports = [studies.reports(best)[-1] for _, best, _ in leaders]
    found = {"accuracy": [report.dev_accuracy for report in reports]}
    if objective != "accuracy":
        sign = -1.0 if objective == "brier" else 1.0
        found[objective] = [sign * goal(report, objective) for report in reports]
    return {
        f"{CURVE}{name}": [(count, value, when) for (count, _, when), value in zip(leaders, values, strict=True)]
        for name, values in found.items()
    }


def importances(study: optuna.Study) -> dict[str, float]:
    """Return each setting's share of what the goal depends on, the largest first (Optuna's default evaluator).

    Empty with too few finished trials to say anything, or where all of them are equally good.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < LEAST_FOR_IMPORTANCES or len({trial.value for trial in done}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)


def description(
    rows: Sequence[TrialRow],
    budget: int,
    found: Mapping[str, float],
    name: str,
    runs: Path = Path("runs"),
    trials_link: str = "",
    confirmed: Confirmation | None = None,
) -> str:
    """Return the leaderboard as Markdown: counts, best, confirmed winner, first ten, importances, how to go on."""
    leaders = ranked(rows)[:LEADERS]
    # The page folds a description after a few lines, so the link and the best come before the table.
    parts = [f"**{len(rows)} of {budget} trials**: {states(rows)}."]
    if leaders:
        best = leaders[0]
        parts[0] += (
            f" Best: trial {best.number}, dev accuracy {accuracy(best)} % "
            f"(standard error over its seeds; chosen on these clips{by_objective(best.objective)})."
        )
    if confirmed:
        parts[0] += f" **Confirmed: {confirmed.winning_row.title}**, {_sure(confirmed)}."
    if trials_link:
        parts[0] += f" [All trials, the best first]({trials_link})"
    if leaders:
        titles = ("trial", "dev %", *objective_column(leaders), "steps", "seconds", "settings")
        table = [f"| {' | '.join(titles)} |", f"|{'---:|' * (len(titles) - 1)}:---|"]
        table += [f"| {' | '.join(_cells(row))} |" for row in leaders]
        parts.append("\n".join(table))
    if found:
        shares = ", ".join(f"{path} {percent(value)} %" for path, value in list(found.items())[:_SHOWN_IMPORTANCES])
        parts.append(f"What {TITLES[rows[0].objective]} depends on: {shares}.")
    commands = (("status", name), ("resume", name), ("report", name), ("export", name, "DIR"))
    # Four blanks make it code, in which Markdown and HTML mean nothing.
    lines = [f"    {search_command(command, runs, *words)}" for command, *words in commands]
    return "\n\n".join([*parts, "\n".join(lines)])


def _sure(confirmed: Confirmation) -> str:
    """What is known of the winner: dev on fresh seeds, test, and its difference to real clips and augmentation."""
    row = confirmed.winning_row
    said = f"dev {percent(row.dev_mean)} +- {percent(row.dev_se)} % on {confirmed.repetitions} fresh seeds"
    # No brackets: in Markdown a pair of them before a parenthesis is a link.
    if row.test_interval:
        said += f", test {percent(row.test_accuracy)} % ({span(row.test_interval)})"
    for real in confirmed.rows:
        if real.key == NONE and real.difference_interval:
            noise = ", noise" if real.noise else ""
            said += f", minus {real.title} {percent(real.difference)} ({span(real.difference_interval)}{noise})"
    return said


def _cells(row: TrialRow) -> tuple[str, ...]:
    said = described(row, _SHOWN_VALUES)
    # A bar would end the cell.
    unbroken = accuracy(row).replace(" ", "\u00a0")
    figures = (unbroken, *objective_cell(row), str(row.steps), f"{row.seconds:.1f}")
    return str(row.number), *figures, said.replace("|", "/")
