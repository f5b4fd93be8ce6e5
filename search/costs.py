"""What a search by k-fold dev costs, in a line that is said before it is paid; empty for a dev split of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kinemic.report import REPORTS
from search import study as studies
from search.again import Run
from search.config import SearchConfig
from search.confirm import rows_of
from search.contenders import planned_of
from search.folder import SearchFolder

# The published configuration, the best trial, and what the rows of sources share; the others adapt nothing.
_ADAPTING_CONTENDERS: Final = 3


def cost_of_search(config: SearchConfig, runs: Path) -> str:
    """Return the cost of what is left of a search, which may be new, and of its contenders."""
    split, folder = config.data.split, SearchFolder((runs / config.name).resolve())
    left, again = config.budget.trials, _ADAPTING_CONTENDERS * config.contenders.seeds
    if split.folds is not None and folder.started:
        counts = studies.counts(studies.open_study(folder.config(), folder.path, folder.state().study))
        left = max(0, left + counts.get("running", 0) - sum(counts.values()))
        if not left and counts.get("complete"):
            return cost_of_contenders(config, folder)
    return split.cost(trials=left, repetitions=len(config.seeds), again=again)


def cost_of_contenders(config: SearchConfig, folder: SearchFolder) -> str:
    """Return the cost of the contenders that were not run yet. Raises KinemicError before a trial has finished."""
    if config.data.split.folds is None:
        return ""
    study = studies.open_study(config, folder.path, folder.state().study)
    return config.data.split.cost(again=_left(planned_of(study, config, folder)))


def cost_of_confirmation(config: SearchConfig, folder: SearchFolder) -> str:
    """Return the cost of what is left of a confirmation; empty where none is set up. Raises KinemicError as above."""
    if config.data.split.folds is None or config.confirm is None:
        return ""
    study = studies.open_study(config, folder.path, folder.state().study)
    _, _, runs = rows_of(config, config.confirm, study, folder, folder.state())
    return config.data.split.cost(again=_left(runs))


def _left(rows: Mapping[str, list[Run]]) -> int:
    """How many fine-tunings the runs that are not done need; rows that differ in their source alone share theirs."""
    runs = {run for row in rows.values() for run in row}
    left = [run for run in runs if run.config.trains and not any(run.workdir.glob(REPORTS))]
    return len({(run.config.mining, run.config.adapt, run.config.loss, run.seeds) for run in left})
