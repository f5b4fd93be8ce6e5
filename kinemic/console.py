"""How the CLI shows progress and tables; the only place, with the command groups, that writes to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment

from kinemic.progress import Progress, ProgressCallback
from kinemic.quoting import without_control


class PlainConsole(Console):
    """A console for other people's text: captions, class names and paths hold no markup and steer no terminal."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, highlight=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield what is to be written, without control characters of its text; they take no room, so all else fits."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else without_control(text), style, control)


console = PlainConsole(soft_wrap=not sys.stdout.isatty())


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """Yield a callback that shows one bar per stage on stderr, with its current values (losses)."""
    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}", markup=False),
    )
    with RichProgress(*columns, console=PlainConsole(stderr=True)) as bars:
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
