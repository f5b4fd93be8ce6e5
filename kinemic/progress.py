"""How long work tells what it is doing: a callback that the CLI turns into bars and Ray into reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report: ``done`` of ``total`` units (steps, clips, epochs) of ``stage``, with values such as losses."""

    stage: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Drop every report; the default callback of library functions."""
