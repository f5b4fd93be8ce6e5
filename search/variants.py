"""Cheap variants of dear work: trials that take a finished trial's dear values, so that they share its generators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import study as studies
from search.config import SearchConfig
from search.known_rows import SOURCE
from search.space import Domain, Scalar, dear_paths

Dear = frozenset[tuple[str, Scalar]]  # paths and values that a group of trials has in common


def enqueue_variants(study: optuna.Study, config: SearchConfig, space: Mapping[str, Domain]) -> None:
    """Enqueue what finished trials lack of variants, as far as the budget goes; the sampler draws their cheap values.

    It looks at the study alone and adds one trial at a time, so a search that died in between goes on right there.
    """
    trials = study.get_trials(deepcopy=False)
    dear = dear_paths(space) | ({SOURCE} - space.keys())  # the published one has its own source, whatever is searched
    room = config.budget.trials - len(trials)
    for leader in _leaders_in_need(trials, dear, config.sampler.variants - 1):
        if room <= 0:
            return
        studies.enqueue_variant(study, leader, dear)
        room -= 1


def _leaders_in_need(trials: list[FrozenTrial], dear: set[str], most: int) -> Iterator[FrozenTrial]:
    """Yield the first finished trial of each group as often as the group lacks variants; a variant's own lacks none."""
    led = Counter(_group(trials[n], dear) for t in trials if (n := studies.leader(t)) is not None)
    for trial in trials:
        values = studies.trial_values(trial)
        # Where all its cheap paths hang on others that are off, a variant would be the same trial again.
        if trial.state != TrialState.COMPLETE or values.keys() <= dear:
            continue
        group = _group(trial, dear)
        while led[group] < most:
            led[group] += 1
            yield trial


def _group(trial: FrozenTrial, dear: set[str]) -> Dear:
    return frozenset((path, value) for path, value in studies.trial_values(trial).items() if path in dear)
