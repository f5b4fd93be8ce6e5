"""What a search by k-fold dev costs, in a line that is said before it is paid; empty for a dev split of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from search import study as studies
from search.baselines import baselines
from search.config import SearchConfig
from search.folder import SearchFolder
from search.space import resolve_space

_ADAPTING_CONTENDERS: Final = 2  # the published configuration and the best trial; the other rows are of real clips


def cost_of_search(config: SearchConfig, runs: Path) -> str:
    """Return the cost of what is left of a search and of its contenders."""
    if config.data.split.folds is None:
        return ""
    folder, ended = SearchFolder((runs / config.name).resolve()), 0
    if folder.started:
        counts = studies.counts(studies.open_study(folder.config(), folder.path, folder.state().study))
        ended = sum(counts.values()) - counts.get("running", 0)
    left, again = max(0, config.budget.trials - ended), _contenders(config)
    return config.data.split.cost(trials=left, repetitions=len(config.seeds), again=again)


def cost_of_contenders(config: SearchConfig) -> str:
    """Return the cost of the contenders alone."""
    return config.data.split.cost(again=_contenders(config))


def cost_of_confirmation(config: SearchConfig, folder: SearchFolder) -> str:
    """Return the cost of a confirmation; empty where none is set up."""
    if config.data.split.folds is None or config.confirm is None:
        return ""
    clips = folder.state().source_clips
    space = resolve_space(config.space, clips, config.trial.judge.profile)
    adapting = {row.config for row in baselines(config, space, clips) if row.config.trains}
    return config.data.split.cost(again=(len(adapting) + config.confirm.best) * config.confirm.seeds)


def _contenders(config: SearchConfig) -> int:
    return _ADAPTING_CONTENDERS * config.contenders.seeds
