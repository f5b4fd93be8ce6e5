"""Optuna's figures of a study as pieces of one HTML page, drawn by one copy of plotly.js that the page holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from search import study as studies
from search.board import LEAST_FOR_IMPORTANCES
from search.goal import TITLES

MOST_SETTINGS = 8  # axes that a figure over several settings can hold
_INK, _GRID, _CLEAR = "#7d838c", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"  # legible on white and on black


@dataclass(frozen=True)
class FigureHtml:
    """A figure: a title, a line on how to read it, and its HTML, which needs ``plotly_js`` on the page."""

    title: str
    note: str
    html: str


def plotly_js() -> str:
    """Return the whole of plotly.js."""
    return str(get_plotlyjs())


def figures(study: optuna.Study, important: Sequence[str]) -> list[FigureHtml]:
    """Return the figures that a study's trials are enough for; ``important`` are its settings, the first ones drawn."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    settings = list(important or dict.fromkeys(path for trial in done for path in trial.params))
    some = settings[:MOST_SETTINGS]
    left_out = f" The first {len(some)} of {len(settings)} settings." if len(some) < len(settings) else ""
    target = TITLES[studies.objective(study)]
    history = visualization.plot_optimization_history(study, target_name=target)
    rungs = visualization.plot_intermediate_values(study)
    rungs.update_layout(xaxis_title="adaptation steps", yaxis_title=target)
    note = f"{target.capitalize()} by adaptation steps; a line that ends early is a trial that was stopped."
    found = [
        _figure("history", "History", history, "Every finished trial, in order."),
        _figure("rungs", "Rungs", rungs, note),
    ]
    if important:
        note = f"Share of what {target} depends on, over {len(done)} finished trials."
        bars = visualization.plot_param_importances(study, target_name=target)
        found.append(_figure("importances", "Importances", bars, note))
    if some:
        # Optuna draws trials that have every axis, and sources have settings of their own.
        of_best = [path for path in settings if path in studies.best_trial(study).params][:MOST_SETTINGS]
        parallel = visualization.plot_parallel_coordinate(study, params=of_best or some, target_name=target)
        note = "A line a finished trial that has these settings, which are of the best one; dark where it is good."
        found.append(_figure("parallel", "Parallel coordinates", parallel, note))
        slices = visualization.plot_slice(study, params=some, target_name=target)
        note = f"{target.capitalize()} over each setting alone; dark points are late trials." + left_out
        found.append(_figure("slices", "Slices", slices, note))
    return found


def importances_note(finished: int) -> str:
    """Return why there are no importances; empty where there may be."""
    if finished >= LEAST_FOR_IMPORTANCES:
        return ""
    return f"Importances are drawn from {LEAST_FOR_IMPORTANCES} finished trials on; there are {finished}."


def _figure(key: str, title: str, figure: Any, note: str) -> FigureHtml:
    figure.update_layout(
        title=None,
        template="none",
        font={"family": "system-ui, sans-serif", "size": 12, "color": _INK},
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        modebar={"bgcolor": _CLEAR, "color": _GRID, "activecolor": _INK},
        margin={"l": 60, "r": 30, "t": 20, "b": 60},
        height=420,
    )
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID, linecolor=_GRID, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID, linecolor=_GRID, automargin=True)
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{key}",
        config={"displaylogo": False, "responsive": True},
    )
    return FigureHtml(title, note, html)
