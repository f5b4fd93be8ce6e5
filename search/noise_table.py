"""The noise of a search as tables and sentences for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from search.noise_report import Noise, Pruning, shown
from search.variance import Component
from search.wording import by_objective, percent

_WORTH = {"yes": " is worth it: ", "no": " is not worth it: ", "unknown": ": can't tell "}


def noise_table(noise: Noise) -> RenderableType:
    """Return all that was found; accuracies in percent, deviations and differences in percent points."""
    parts: list[RenderableType] = [_components(noise), ""]
    if any(component.variance < 0 for component in noise.components):
        parts[1:1] = ["* the estimate is below 0, as it may be where a source adds little beside the next one"]
    parts += [_rungs(noise), *map(_sentence, [noise.pruner] * len(noise.pruning), noise.pruning)]
    if not noise.pruning:
        parts.append(
            "nothing is pruned: the pruner is none" if noise.pruner == "none" else "one rung: nothing to prune"
        )
    parts += ["", _detectable(noise), *(f"left out, {line}" for line in noise.failures)]
    return Group(*parts)


def _components(noise: Noise) -> Table:
    table = _table(
        f"standard deviation by source, percent points ({len(noise.configurations)} configurations at their last rung)"
    )
    for name in ("source", "deviation", "95 % interval", "where seeds are shared"):
        table.add_column(name, justify="left" if name == "source" else "right", no_wrap=True)
    for component in noise.components:
        interval = f"[{percent(component.low)}, {percent(component.high)}]"
        table.add_row(_source(component), percent(component.sd), interval, percent(component.paired_sd))
    return table


def _source(component: Component) -> str:
    name = component.source if component.source == "configuration" else f"{component.source} seed"
    return name + ("*" if component.variance < 0 else "")


def _rungs(noise: Noise) -> Table:
    table = _table(f"rank correlation with the last rung over configurations{by_objective(noise.objective)}")
    for name in ("steps", "dev accuracy %", "same seeds", "other seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for rung in noise.rungs:
        table.add_row(str(rung.steps), percent(rung.mean_accuracy), shown(rung.same_seeds), shown(rung.other_seeds))
    return table


def _sentence(pruner: str, pruning: Pruning) -> str:
    *others, last = map(str, pruning.rungs)
    steps = f"{', '.join(others)} and {last}" if others else last
    return f"{pruner} pruning at {steps} steps{_WORTH[pruning.worth]}{pruning.reason}"


def _detectable(noise: Noise) -> Table:
    table = _table(
        f"smallest difference that is found 8 times in 10, percent points (same seeds, {noise.judge_seeds} judge seeds)"
    )
    most = ", at most" if noise.clips == "bound" else ""
    for name in ("repetitions of each", f"on these {noise.dev_clips} dev clips", f"on clips like them{most}"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in noise.detectable:
        mark = " (this search)" if row.repetitions == noise.repetitions else ""
        table.add_row(f"{row.repetitions}{mark}", percent(row.by_seeds), percent(row.with_clips))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
