"""A search from Python, for notebooks and scripts: ``search.run`` and ``search.result``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kinemic.console import PlainConsole
from kinemic.errors import KinemicError
from search import contenders, runner
from search import study as studies
from search.config import SearchConfig, build, load
from search.contenders import ContenderTable
from search.costs import cost_of_search
from search.folder import SearchFolder, find
from search.known_rows import PUBLISHED
from search.live import LiveTable
from search.report import write_report
from search.status import TrialRow, trial_rows
from search.wording import ranked


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    ``trials`` has a row a trial: number, state, published, variant_of (its leader's number), dev_accuracy and
    dev_accuracy_se (0..1), goal (what ``objective`` maximises), steps, seconds, failure, and a column for each searched
    setting. ``table`` has a row a contender, each run again on fresh seeds: dev_accuracy (its mean) and dev_accuracy_se
    over the repetitions; empty where contenders were not run yet.
    """

    folder: Path
    trials: pd.DataFrame
    best: TrialRow  # number, accuracy, accuracy_se, and values: the searched settings
    table: pd.DataFrame
    report: Path  # one HTML file


def run(
    config: SearchConfig | Path | str | dict[str, Any],
    runs: Path | str = "runs",
    *,
    settings: Sequence[str] = (),
    resume: bool = False,
    live: bool = False,
) -> SearchResult:
    """Run a search to its end, as ``kinemic search run`` does, and write its report.

    ``config`` is a YAML file, the same as a dictionary, or what ``search.config.load`` returned; ``settings`` are
    ``path=value`` strings over it. ``resume`` goes on where this very search was started before; ``live``
    says on stderr what k-fold dev will cost, and what ends. Raises KinemicError.
    """
    checked = _checked(config, settings)
    if live and (cost := cost_of_search(checked, Path(runs))):
        PlainConsole(stderr=True).print(cost)
    opened = (runner.start_or_reopen if resume else runner.start)(checked, Path(runs))
    with LiveTable(opened.folder) if live else nullcontext() as watch:
        outcome = runner.go_on(opened, Path(runs), watch=watch)
    found = result(checked.name, runs)
    if outcome.tracked:
        with suppress(KinemicError):  # the file is there; a server that went away just now costs nothing else
            runner.attach(outcome.folder, Path(runs), found.report)
    return found


def result(name: str, runs: Path | str = "runs") -> SearchResult:
    """Return what a search has found until now and write its report. Raises KinemicError before a trial finished."""
    folder = find(Path(runs), name)
    folder.warn_of_edits()
    study = studies.open_study(folder.config(), folder.path, folder.state().study)
    write_report(folder, study, folder.report_file)
    rows = trial_rows(study)
    return SearchResult(folder.path, _trials(rows), ranked(rows)[0], _table(folder), folder.report_file)


def _checked(config: SearchConfig | Path | str | dict[str, Any], settings: Sequence[str]) -> SearchConfig:
    if isinstance(config, Path | str):
        return load(Path(config), settings)
    return build(config if isinstance(config, dict) else config.model_dump(mode="json"), "configuration", settings)


def _trials(rows: Sequence[TrialRow]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": row.number,
            "state": row.state,
            "published": row.role == PUBLISHED,
            "variant_of": row.leader,
            "dev_accuracy": row.accuracy,
            "dev_accuracy_se": row.accuracy_se,
            "goal": row.goal,
            "steps": row.steps,
            "seconds": row.seconds,
            "seconds_reused": row.reused,
            "failure": row.failure,
            **row.values,
        }
        for row in rows
    )


def _table(folder: SearchFolder) -> pd.DataFrame:
    table: ContenderTable | None = contenders.load(folder.contenders_file)
    columns = ["key", "title", "dev_accuracy", "dev_accuracy_se", "repetitions"]
    rows = [(row.key, row.title, row.mean, row.se, len(row.accuracies)) for row in table.rows] if table else []
    return pd.DataFrame(rows, columns=columns)
