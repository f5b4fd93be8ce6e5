"""How the CLI shows progress and tables; the only place, with the command groups, that writes to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from kinemic.progress import Progress, ProgressCallback

# No markup: captions, class names and paths may hold brackets.
console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """Yield a callback that shows one bar per stage on stderr, with its current values (losses)."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(report: Progress) -> None:
            if report.stage not in tasks:
                tasks[report.stage] = bars.add_task(report.stage, total=report.total, values="")
            values = "  ".join(f"{name} {value:.4g}" for name, value in report.values.items())
            bars.update(tasks[report.stage], completed=report.done, total=report.total, values=values)

        yield show


def show_warnings(warnings: Iterable[str]) -> None:
    """Print each distinct warning on a line of its own."""
    for warning in dict.fromkeys(warnings):
        console.print(warning, style="yellow")
