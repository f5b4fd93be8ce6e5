"""Early stopping: any Optuna pruner at the rungs, racing between repetitions; what was decided is kept in the study."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from kinemic.report import RungReport
from search import study as studies
from search.config import HalvingPruner, HyperbandPruner, MedianPruner, RacingConfig, SearchConfig, WilcoxonPruner
from search.goal import Objective, goals
from search.racing import is_hopeless


def make_pruner(config: SearchConfig, objective: Objective) -> optuna.pruners.BasePruner:
    """Return the Optuna pruner of a study; its resource is the step count of the rungs."""
    pruner, rungs = config.pruner, config.trial.adapt.rungs
    if isinstance(pruner, MedianPruner):
        # Counted at each rung: sources that adapt nothing finish without having been at any but the last.
        return optuna.pruners.MedianPruner(pruner.startup_trials, n_min_trials=max(1, pruner.startup_trials))
    if isinstance(pruner, HalvingPruner):
        return optuna.pruners.SuccessiveHalvingPruner(rungs[0], pruner.reduction_factor)
    if isinstance(pruner, HyperbandPruner):
        return optuna.pruners.HyperbandPruner(rungs[0], rungs[-1], pruner.reduction_factor)
    if isinstance(pruner, WilcoxonPruner):
        return PairedPruner(pruner.p_threshold, objective)
    return optuna.pruners.NopPruner()


class PairedPruner(optuna.pruners.BasePruner):
    """Optuna's Wilcoxon pruner, where a pair is two trials' goals at one rung under one judge seed.

    Optuna takes each reported step for an instance that every trial meets. A rung's mean is one value, too few for a
    test; but all trials are judged under the same seeds, so every (rung, seed) is such an instance.
    """

    def __init__(self, p_threshold: float, objective: Objective) -> None:
        self._objective = objective
        with warnings.catch_warnings():  # Optuna calls its interface experimental, which tells a user nothing
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._pruner = optuna.pruners.WilcoxonPruner(p_threshold=p_threshold)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a trial is worse, over the pairs that both have, than the best that was scored at its rung."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        rivals = [other for other in done if trial.last_step in other.intermediate_values]
        if not rivals:
            return False
        paired = optuna.create_study(direction=study.direction)
        paired.add_trial(_by_instance(max(rivals, key=lambda other: other.values), self._objective))
        return self._pruner.prune(paired, _by_instance(trial, self._objective))


def decide(trial: optuna.Trial, report: RungReport, racing: RacingConfig | None) -> bool:
    """Return whether a trial stops after a report; asked again after a crash, it answers the same.

    At a rung before the last the pruner says so, from then on racing: a pruner knows of no repetitions. Some pruners
    leave notes in the study that change what they say next. So the question is put to a copy, the answer is kept, and
    only then the notes are made, which may be repeated.
    """
    trials = trial.study.get_trials(deepcopy=False)
    if max(trials[trial.number].intermediate_values) > report.step:  # it has gone on
        return False
    at_rung = report.steps < report.total_steps
    decision = studies.decision(trial)
    if decision is None or decision.step < report.step:
        stop = _pruned(trial, trials) if at_rung else racing is not None and _outraced(trial, report, trials, racing)
        decision = studies.Decision(report.step, stop)
        studies.keep_decision(trial, decision)
    if at_rung:
        trial.should_prune()
    return decision.stop


def _pruned(trial: optuna.Trial, trials: list[FrozenTrial]) -> bool:
    study = trial.study
    copy = optuna.create_study(study_name=study.study_name, direction=study.direction)
    copy.add_trials(trials)
    return bool(study.pruner.prune(copy, copy.get_trials(deepcopy=False)[trial.number]))


def _outraced(trial: optuna.Trial, report: RungReport, trials: list[FrozenTrial], racing: RacingConfig) -> bool:
    objective = studies.objective(trial.study)
    ended = [studies.reports(other)[-1] for other in trials if other.state == TrialState.COMPLETE]
    finished = [_means(other, objective) for other in ended if other.repetitions == report.repetitions]
    return bool(finished) and is_hopeless(_means(report, objective), np.array(finished), racing.p_threshold)


def _means(report: RungReport, objective: Objective) -> NDArray[np.float64]:
    """The mean over judge seeds of each repetition so far."""
    means: NDArray[np.float64] = np.array(report.by_repetition(goals(report, objective))).mean(axis=1)
    return means


def _by_instance(trial: FrozenTrial, objective: Objective) -> FrozenTrial:
    """Steps are (rung, judge seed) of the first repetition, the only one that is scored at the rungs."""
    values = {
        report.steps * len(report.accuracies) + seed: value
        for report in studies.reports(trial)
        if report.repetition == 0
        for seed, value in enumerate(goals(report, objective))
    }
    return optuna.trial.create_trial(state=trial.state, value=trial.value, intermediate_values=values)
