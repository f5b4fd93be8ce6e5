"""Early stopping by any Optuna pruner. It is asked once a rung, and what it answered is kept in the study."""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import study as studies
from search.config import HalvingPruner, HyperbandPruner, MedianPruner, SearchConfig, WilcoxonPruner


def make_pruner(config: SearchConfig) -> optuna.pruners.BasePruner:
    """Return the Optuna pruner; its resource is the step count of the rungs."""
    pruner, rungs = config.pruner, config.trial.adapt.rungs
    if isinstance(pruner, MedianPruner):
        return optuna.pruners.MedianPruner(n_startup_trials=pruner.startup_trials)
    if isinstance(pruner, HalvingPruner):
        return optuna.pruners.SuccessiveHalvingPruner(rungs[0], pruner.reduction_factor)
    if isinstance(pruner, HyperbandPruner):
        return optuna.pruners.HyperbandPruner(rungs[0], rungs[-1], pruner.reduction_factor)
    if isinstance(pruner, WilcoxonPruner):
        return PairedPruner(pruner.p_threshold)
    return optuna.pruners.NopPruner()


_MOST_INSTANCES = 1000  # of a rung


class PairedPruner(optuna.pruners.BasePruner):
    """Optuna's Wilcoxon pruner, where a pair is two trials' accuracies at one rung under one judge seed.

    Optuna takes each reported step for an instance that every trial meets. A rung's mean is one value, too few for a
    test; but all trials are judged under the same seeds, so every (rung, seed) is such an instance.
    """

    def __init__(self, p_threshold: float) -> None:
        with warnings.catch_warnings():  # Optuna calls its interface experimental, which tells a user nothing
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._pruner = optuna.pruners.WilcoxonPruner(p_threshold=p_threshold)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Say whether a trial is worse than the best finished one over the pairs that both have."""
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return False
        paired = optuna.create_study(direction=study.direction)
        paired.add_trial(_by_instance(study.best_trial))
        return self._pruner.prune(paired, _by_instance(trial))


def decide(trial: optuna.Trial, steps: int) -> bool:
    """Return whether the pruner stops a trial at a rung; asked again after a crash, it answers the same.

    Some pruners leave notes in the study that change what they say next. So the question is put to a copy, the answer
    is kept, and only then the notes are made, which may be repeated.
    """
    study = trial.study
    trials = study.get_trials(deepcopy=False)
    if max(trials[trial.number].intermediate_values) > steps:  # it has gone on
        return False
    decision = studies.decision(trial)
    if decision is None or decision.steps < steps:
        copy = optuna.create_study(study_name=study.study_name, direction=study.direction)
        copy.add_trials(trials)
        stop = study.pruner.prune(copy, copy.get_trials(deepcopy=False)[trial.number])
        decision = studies.Decision(steps, bool(stop))
        studies.keep_decision(trial, decision)
    trial.should_prune()
    return decision.stop


def _by_instance(trial: FrozenTrial) -> FrozenTrial:
    latest = {report.steps: report.accuracies for report in studies.reports(trial)}  # of a rung; it holds the earlier
    values = {
        steps * _MOST_INSTANCES + instance: accuracy
        for steps, accuracies in latest.items()
        for instance, accuracy in enumerate(accuracies)
    }
    return optuna.trial.create_trial(state=trial.state, value=trial.value, intermediate_values=values)
