"""Tables for the terminal: the live one of a running search, and those that are printed at its end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from kinemic.console import PlainConsole
from kinemic.store import Usage
from search.confirmation import Confirmation, ConfirmedRow
from search.contenders import ContenderTable
from search.folder import SearchFolder
from search.status import TrialRow
from search.trainable import read_progress
from search.wording import (
    MOTION,
    accuracy,
    by_objective,
    described,
    objective_cell,
    objective_column,
    percent,
    ranked,
    ratio,
    states,
)

_SHOWN_VALUES = 4  # searched values beside each trial; `search best` shows all
_LIVE_ROWS = 20
_FAILURE_WIDTH = 120  # characters; MLflow's tag holds all of it


class LiveTable:
    """A table on stderr that follows a running search; it reads the trials' progress from their folders."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder, self._rows, self._budget, self._again = folder, list[TrialRow](), 0, (0, 0)
        self._console = PlainConsole(stderr=True)
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)
        self._said: set[str] = set()

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(OSError):  # the terminal was closed: no fault of the search's machine
            self._live.stop()

    def searching(self, folder: SearchFolder, budget: int, rows: list[TrialRow]) -> None:
        """Take the trials as they are now; where there is no terminal, say in a line what has ended."""
        self._rows, self._budget = rows, budget
        for row in rows:
            if row.state != "running":
                self._say(f"trial {row.number:3d} {row.state:9s} dev accuracy % {accuracy(row)} {row.failure}")

    def contending(self, done: int, total: int) -> None:
        """Take how many runs of contenders are done."""
        self._again = (done, total)
        self._say(f"on fresh seeds {done}/{total}")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal and line not in self._said:
            self._said.add(line)
            with suppress(OSError):
                self._console.print(line.rstrip(), soft_wrap=True)

    def _render(self) -> RenderableType:
        shown = [row for row in self._rows if row.state == "running"]
        ended = sorted((r for r in self._rows if r.state != "running"), key=lambda row: row.number)
        rows = sorted(ended[-(_LIVE_ROWS - len(shown)) :] + shown, key=lambda row: row.number)
        parts: list[RenderableType] = [trial_table(rows, self._folder), summary_line(self._rows, self._budget)]
        done, total = self._again
        if total:
            folders = (self._folder.contenders, self._folder.confirmation)
            parts.append(f"on fresh seeds: {done} of {total} runs{_running(folders)}")
        return Group(*parts)


def trial_table(rows: list[TrialRow], folder: SearchFolder) -> Table:
    """Return the trials as a table; running ones show their stage. Warnings are counted where any trial has one.

    "motion" is how many times as far as real clips the generated ones move.
    """
    table = Table(title=None, box=None, pad_edge=False)
    moving = ["motion"] if any(MOTION in row.diagnostics for row in rows) else []
    counted = ["warnings"] if any(row.warnings for row in rows) else []
    columns = ("trial", "state", "steps", "dev accuracy %", *objective_column(rows), *moving, "seconds", *counted)
    for name in (*columns, "failure"):
        table.add_column(name, justify="left" if name in ("state", "failure") else "right", no_wrap=True)
    table.add_column("settings")
    best = ranked(rows)[:1]
    for row in rows:
        mark = "*" if row in best else ""
        table.add_row(
            f"{row.number}{mark}",
            _state(row, folder),
            str(row.steps),
            accuracy(row),
            *objective_cell(row),
            *(ratio(row, MOTION) for _ in moving),
            f"{row.seconds:.1f}",
            *(str(len(row.warnings) or "") for _ in counted),
            row.failure_kind,
            shorten(row.failure_message, _FAILURE_WIDTH) or described(row, _SHOWN_VALUES),
        )
    return table


def contender_table(table: ContenderTable) -> RenderableType:
    """Return the contenders' table, accuracy in percent, and below it what the best trial has gained."""
    printed = Table(
        title=f"{table.heading} ({table.repetitions} fresh seeds each{table.judge and f', judge {table.judge}'})",
        title_justify="left",
        title_style="bold",
    )
    printed.add_column("contender")
    printed.add_column("dev accuracy %", justify="right", no_wrap=True)
    printed.add_column("standard error", justify="right", no_wrap=True)
    for row in table.rows:
        if row.accuracies:
            note = f" ({len(row.failures)} failed)" if row.failures else ""
            printed.add_row(row.title + note, percent(row.mean), percent(row.se))
        else:
            printed.add_row(row.title, "failed", row.failures[0])
    return Group(printed, table.verdict) if table.verdict else printed


def confirmation_table(confirmation: Confirmation) -> RenderableType:
    """Return a confirmation as a table, in percent and percent points; brackets are 95 % intervals."""
    printed = Table(
        title=f"confirmed on {confirmation.repetitions} fresh seeds x {confirmation.judge_seeds} judge seeds, "
        f"{confirmation.steps} steps, chosen under judge {confirmation.judge}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    printed.add_column("", min_width=20)
    for name in ("dev %", "test %", "winner minus row", "detectable"):
        # Where the terminal is narrow, an interval stands below its value; titles stay words.
        printed.add_column(name, justify="right", no_wrap=name in ("dev %", "detectable"))
    printed.add_column("")
    for judge, rows in confirmation.tables.items():
        if judge != confirmation.judge:
            printed.add_row(f"under judge {judge}", style="bold")
        for row in rows:
            mark = "*" if row.key == confirmation.winner else ""
            note = shorten(row.failures[0], _FAILURE_WIDTH) if row.failures else "noise" if row.noise else ""
            printed.add_row(row.title + mark, f"{percent(row.dev_mean)} +- {percent(row.dev_se)}", *_tested(row), note)
    return Group(printed, *_read_as(confirmation))


def _tested(row: ConfirmedRow) -> tuple[str, str, str]:
    own = _with_interval(row.test_accuracy, row.test_interval)
    if row.difference is None:
        return own, "", ""
    gap = _with_interval(row.difference, row.difference_interval)
    return own, gap, percent(row.smallest_detectable_difference)


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{percent(value)} [{percent(interval[0])}, {percent(interval[1])}]"


def _read_as(confirmation: Confirmation) -> list[str]:
    lines = [f"* the winner, chosen on dev{by_objective(confirmation.objective)}"]
    if not confirmation.tested:
        return [*lines, "the test split has not been scored for these rows yet"]
    looks = "opened once" if confirmation.looks == 1 else f"opened {confirmation.looks} times, which weakens the claim"
    return [
        *lines,
        f"test: {confirmation.test_clips} clips, {looks}",
        "noise: the difference may be none; detectable: a true difference that is found 8 times in 10",
    ]


def summary_line(rows: list[TrialRow], budget: int) -> str:
    """Return how many trials there are of each state, what shared stages have spared them, and their first warning."""
    if not rows:
        return f"0 of {budget} trials"
    reused = sum(row.reused for row in rows)
    spared = f"; shared stages spared {reused:.0f} s" if reused >= 1 else ""
    warned = [row for row in rows if row.warnings]
    first = f"; warnings in {len(warned)}, trial {warned[0].number}: {warned[0].warnings[0]}" if warned else ""
    return f"{len(rows)} of {budget} trials: {states(rows)}{spared}{first}"


def usage_table(kept: Usage, removed: Usage) -> Table:
    """Return what the shared stages take, and what was removed of them, in megabytes."""
    table = Table("stage", box=None, pad_edge=False)
    for name in ("kept", "MB", "removed", "MB"):
        table.add_column(name, justify="right")
    for stage in sorted(kept.files.keys() | removed.files.keys()):
        counted = [(usage.files.get(stage, 0), usage.bytes.get(stage, 0) / 1e6) for usage in (kept, removed)]
        table.add_row(stage, *(text for files, size in counted for text in (str(files), f"{size:.1f}")))
    table.add_row("all", *_total(kept), *_total(removed))
    return table


def _total(usage: Usage) -> tuple[str, str]:
    return str(sum(usage.files.values())), f"{usage.total / 1e6:.1f}"


def _state(row: TrialRow, folder: SearchFolder) -> str:
    if row.state != "running":
        return row.state
    progress = read_progress(folder.trials / f"{row.number:04d}")
    return f"{progress.stage} {progress.done}/{progress.total}" if progress else "running"


def _running(folders: tuple[Path, ...]) -> str:
    """Return what runs on fresh seeds are at, from the progress of those that are not done."""
    at = []
    for workdir in sorted(path for folder in folders for path in folder.glob("*-*")):
        progress = read_progress(workdir)
        if progress and not any(workdir.glob("rung-*/report.json")):
            at.append(f"{workdir.name} {progress.stage} {progress.done}/{progress.total}")
    return f" ({'; '.join(at[:3])})" if at else ""
