"""Tables for the terminal: the live one of a running search, and those that are printed at its end."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from kinemic.report import shown
from search.contenders import ContenderTable
from search.folder import SearchFolder
from search.status import TrialRow
from search.trainable import read_progress

_SHOWN_VALUES = 4  # searched values beside each trial; `search best` shows all
_LIVE_ROWS = 20
_FAILURE_WIDTH = 120  # characters; MLflow's tag holds all of it


class LiveTable:
    """A table on stderr that follows a running search; it reads the trials' progress from their folders."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder, self._rows, self._budget, self._again = folder, list[TrialRow](), 0, (0, 0)
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
        self._said: set[str] = set()

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._live.stop()

    def searching(self, folder: SearchFolder, budget: int, rows: list[TrialRow]) -> None:
        """Take the trials as they are now; where there is no terminal, say in a line what has ended."""
        self._rows, self._budget = rows, budget
        for row in rows:
            if row.state != "running":
                self._say(f"trial {row.number:3d} {row.state:9s} dev accuracy {_accuracy(row)} {row.failure}")

    def contending(self, done: int, total: int) -> None:
        """Take how many runs of contenders are done."""
        self._again = (done, total)
        self._say(f"contenders {done}/{total}")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal and line not in self._said:
            self._said.add(line)
            self._console.print(line.rstrip(), soft_wrap=True)

    def _render(self) -> RenderableType:
        shown = [row for row in self._rows if row.state == "running"]
        ended = sorted((r for r in self._rows if r.state != "running"), key=lambda row: row.number)
        rows = sorted(ended[-(_LIVE_ROWS - len(shown)) :] + shown, key=lambda row: row.number)
        parts: list[RenderableType] = [trial_table(rows, self._folder), summary_line(self._rows, self._budget)]
        done, total = self._again
        if total:
            parts.append(f"contenders on fresh seeds: {done} of {total} runs{_running(self._folder.contenders)}")
        return Group(*parts)


def trial_table(rows: list[TrialRow], folder: SearchFolder) -> Table:
    """Return the trials as a table; running ones show their stage."""
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("trial", "state", "steps", "dev accuracy", "seconds", "failure"):
        table.add_column(name, justify="left" if name in ("state", "failure") else "right", no_wrap=True)
    table.add_column("settings")
    complete = [row for row in rows if row.state == "complete" and row.accuracy is not None]
    best = max(complete, key=lambda row: (row.accuracy or 0.0, -row.number), default=None)
    for row in rows:
        mark = "*" if row is best else ""
        table.add_row(
            f"{row.number}{mark}",
            _state(row, folder),
            str(row.steps),
            _accuracy(row),
            f"{row.seconds:.1f}",
            row.failure_kind,
            shorten(row.failure_message, _FAILURE_WIDTH)
            or ("published configuration" if row.published else _values(row)),
        )
    return table


def contender_table(table: ContenderTable) -> Table:
    """Return the contenders' table, accuracy in percent, mean and standard error over the repetitions."""
    printed = Table(
        title=f"{table.heading} ({table.repetitions} fresh seeds each)", title_justify="left", title_style="bold"
    )
    printed.add_column("contender")
    printed.add_column("dev accuracy %", justify="right", no_wrap=True)
    printed.add_column("standard error", justify="right", no_wrap=True)
    for row in table.rows:
        if row.accuracies:
            note = f" ({len(row.failures)} failed)" if row.failures else ""
            printed.add_row(row.title + note, _percent(row.mean), _percent(row.se))
        else:
            printed.add_row(row.title, "failed", row.failures[0])
    return printed


def summary_line(rows: list[TrialRow], budget: int) -> str:
    """Return how many trials there are of each state."""
    states = [row.state for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(rows)} of {budget} trials: {counted}" if rows else f"0 of {budget} trials"


def _state(row: TrialRow, folder: SearchFolder) -> str:
    if row.state != "running":
        return row.state
    progress = read_progress(folder.trials / f"{row.number:04d}")
    return f"{progress.stage} {progress.done}/{progress.total}" if progress else "running"


def _accuracy(row: TrialRow) -> str:
    if row.accuracy is None:
        return "-"
    return f"{_percent(row.accuracy)} +- {_percent(row.accuracy_se)}"


def _percent(value: float | None) -> str:
    return shown(None if value is None else 100 * value, 1)


def _values(row: TrialRow) -> str:
    shown = [f"{path.rpartition('.')[2]} {_short(value)}" for path, value in row.values.items()]
    return ", ".join(shown[:_SHOWN_VALUES]) + (", ..." if len(shown) > _SHOWN_VALUES else "")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _running(folder: Path) -> str:
    """Return what the contenders' runs are at, from the progress of those that are not done."""
    at = []
    for workdir in sorted(folder.glob("*-*")) if folder.is_dir() else []:
        progress = read_progress(workdir)
        if progress and not any(workdir.glob("rung-*/report.json")):
            at.append(f"{workdir.name} {progress.stage} {progress.done}/{progress.total}")
    return f" ({'; '.join(at[:3])})" if at else ""
