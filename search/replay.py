"""What a search's pruner would have done to configurations that ran to the end, by replaying them in random orders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from kinemic.reading import with_values
from kinemic.report import RungReport, mean
from search import study as studies
from search.config import SearchConfig
from search.goal import goal
from search.pruners import make_pruner

ORDERS: Final = 200
SCORING: Final = frozenset({"synthesise", "classify"})  # stages that every scored rung adds to a trial

Instance = Sequence[Sequence[RungReport]]  # on one adaptation and generation seed: every configuration's rungs


@dataclass(frozen=True)
class Replayed:
    """What pruning did to searches of all configurations, one after another, on average over the orders.

    ``stopped`` is the share of trials; ``saved`` the share of the seconds of a search that scores the last rung alone,
    below 0 where scoring the rungs costs more than it saves; ``lost`` how often the best configuration was stopped,
    and ``regret`` how much worse the best one left is.
    """

    stopped: float
    saved: float
    lost: float
    regret: float


def replay(
    instances: Sequence[Sequence[Instance]],
    config: SearchConfig,
    rungs: Sequence[int],
    rng: np.random.Generator,
    orders: int = ORDERS,
) -> Replayed:
    """Let the pruner of a search with these rungs, the last one among them, meet the configurations in random orders.

    ``instances`` has one sequence of instances an adaptation seed. Each replay takes one instance, as all trials of a
    search share their seeds; which configuration is best, the other adaptation seeds say.
    """
    config = config.model_copy(update={"trial": with_values(config.trial, {"adapt.rungs": tuple(rungs)})})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = []
    for number in range(orders):
        adaptation = int(rng.integers(len(instances)))
        trials = instances[adaptation][int(rng.integers(len(instances[adaptation])))]
        others = [one for a, group in enumerate(instances) if a != adaptation for one in group]
        truth = np.array([mean([one[c][-1].dev_accuracy for one in others]) for c in range(len(trials))])
        kept = [[_as_searched(report, config) for report in trial if report.steps in rungs] for trial in trials]
        ran = _ran(rng.permutation(len(trials)), kept, config, f"replay-{number}")
        found.append(_outcome(trials, kept, ran, truth))
    return Replayed(*map(float, np.mean(found, axis=0)))


def _as_searched(report: RungReport, config: SearchConfig) -> RungReport:
    kept = slice(config.judge_seeds)
    return replace(
        report,
        accuracies=report.accuracies[kept],
        log_likelihoods=report.log_likelihoods[kept],
        briers=report.briers[kept],
    )


def _ran(order: NDArray[np.int64], trials: Instance, config: SearchConfig, name: str) -> list[int]:
    """How many rungs the pruner lets each configuration run; Hyperband draws its brackets by the study's name."""
    study = optuna.create_study(study_name=name, direction="maximize", pruner=make_pruner(config, config.objective))
    studies.keep_objective(study, config.objective)
    ran = [0] * len(trials)
    for configuration in map(int, order):
        trial = study.ask()
        for report in trials[configuration]:
            studies.store_report(trial, report)
            ran[configuration] += 1
            if report is not trials[configuration][-1] and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, goal(trials[configuration][-1], config.objective))
    return ran


def _outcome(
    trials: Instance, kept: Instance, ran: Sequence[int], truth: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    whole = np.array([count == len(trial) for count, trial in zip(ran, kept, strict=True)])
    full = sum(_seconds(trial, trial[-1:]) for trial in trials)
    spent = sum(
        _seconds([report for report in trial if report.steps <= some[count - 1].steps], some[:count])
        for trial, some, count in zip(trials, kept, ran, strict=True)
    )
    left = truth[whole].max() if whole.any() else truth.min()
    return 1 - whole.mean(), 1 - spent / full, float(not whole[truth.argmax()]), truth.max() - left


def _seconds(reports: Sequence[RungReport], scored: Sequence[RungReport]) -> float:
    """The seconds of a trial that ran so far and makes every stage itself, scored at some of its rungs alone."""
    own = sum(_of(report, (report.seconds.keys() | report.reused.keys()) - SCORING) for report in reports)
    return own + sum(_of(report, SCORING) for report in scored)


def _of(report: RungReport, stages: Iterable[str]) -> float:
    return sum(report.seconds.get(stage, 0.0) + report.reused.get(stage, 0.0) for stage in stages)
