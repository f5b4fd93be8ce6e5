"""Replays searches in a recorded table: how far from its best is what each way of searching finds?

The search is the real one, its ledger, samplers and pruners; only the trials are looked up. Every search begins with
the table's enqueued rows; a proposal becomes the nearest configuration that was not run yet. A search sees one seed
pair of the table; what it found is scored by the accuracy of its best finished trial under the other pairs, so that
luck of the seeds is not counted as found. Run: python -m benchmarks.replay [--objective brier]
"""

from __future__ import annotations

import argparse
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from benchmarks.table import FILE, SHARED, Configuration, Run, Rung, Table
from kinemic.report import mean
from search import study as studies
from search.config import PrunerConfig, SearchConfig, validate
from search.failures import DIVERGED, Failure
from search.goal import Objective
from search.ledger import Assignment, Ledger
from search.shares import Share
from search.space import CategoricalDomain, Domain, Scalar, active, ordered, suggest

BUDGETS = (8, 16, 24)  # trials
VARIANTS = 3


@dataclass(frozen=True)
class Method:
    """A way of searching, by the settings that differ."""

    sampler: str
    pruner: str = "none"
    variants: int = 1

    @property
    def name(self) -> str:
        return ", ".join(
            [self.sampler]
            + [self.pruner] * (self.pruner != "none")
            + [f"{self.variants} variants"] * (self.variants > 1)
        )


def methods() -> list[Method]:
    """Random search, TPE, TPE with each pruner, and sharing."""
    members = typing.get_args(typing.get_args(PrunerConfig)[0])
    kinds = [member.model_fields["kind"].default for member in members]
    pruned = [Method("tpe", kind) for kind in kinds if kind != "none"]
    shared = [Method("random", variants=VARIANTS), Method("tpe", variants=VARIANTS), Method("tpe", "median", VARIANTS)]
    return [Method("random"), Method("tpe"), *pruned, *shared]


class Recorded:
    """A table that is looked up: only configurations that have a run under every seed pair."""

    def __init__(self, table: Table, objective: Objective = "accuracy") -> None:
        self.seeds = sorted({run.seed for run in table.runs})
        self._runs = {(run.configuration, run.seed): run for run in table.runs}
        whole = [n for n in range(len(table.configurations)) if all((n, seed) in self._runs for seed in self.seeds)]
        self.configurations = {n: table.configurations[n] for n in whole}
        self.enqueued = [table.configurations[n] for n in whole if n < table.enqueued]
        self.search = table.search | {"budget": {"trials": len(whole)}, "objective": objective}
        self.space = validate(self.search, "the table's search").space
        self._numbers = {frozenset(c.values.items()): n for n, c in self.configurations.items()}

    def number(self, values: Mapping[str, Scalar]) -> int:
        """Return which configuration has these values."""
        return self._numbers[frozenset(values.items())]

    def run(self, number: int, seed: int) -> Run:
        return self._runs[number, seed]

    def score(self, number: int, seen: int) -> float:
        """Return a configuration's accuracy (0..1) under the seed pairs that a search has not seen."""
        return mean([self.run(number, seed).accuracy for seed in self.seeds if seed != seen])

    def best(self, seen: int) -> float:
        return max(self.score(number, seen) for number in self.configurations)

    @cached_property
    def points(self) -> dict[int, np.ndarray]:
        return {n: point(self.space, c.values) for n, c in self.configurations.items()}

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every path."""
        study = optuna.create_study()
        for configuration in self.configurations.values():
            study.enqueue_trial(configuration.values)
            suggest(study.ask(), self.space, {})
        return {path: d for trial in study.trials for path, d in trial.distributions.items()}


def point(space: Mapping[str, Domain], values: Mapping[str, Scalar]) -> np.ndarray:
    """Return values as a point: numbers in 0..1, choices as corners that lie 1 apart, what is not set far away."""
    coordinates: list[float] = []
    for path, domain in space.items():
        if isinstance(domain, CategoricalDomain):
            coordinates += [math.sqrt(0.5) * (values.get(path) == choice) for choice in domain.choices]
        elif path not in values:
            coordinates.append(-1.0)
        else:
            low, high, value = (float(x) for x in (domain.low, domain.high, values[path]))
            scale = math.log if domain.log else float
            coordinates.append((scale(value) - scale(low)) / ((scale(high) - scale(low)) or 1.0))
    return np.array(coordinates)


def asked_for(space: Mapping[str, Domain], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return of values for every path those whose conditions they meet."""
    found: dict[str, Scalar] = {}
    for path, domain in ordered(space):
        if path in values and active(domain, found):
            found[path] = values[path]
    return found


class TableSampler(optuna.samplers.BaseSampler):
    """Another sampler whose proposals become the nearest configurations of a table that the study does not hold yet."""

    def __init__(self, proposes: optuna.samplers.BaseSampler, recorded: Recorded) -> None:
        self._proposes, self._recorded = proposes, recorded

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._recorded.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        space = self._proposes.infer_relative_search_space(study, trial)
        proposal = self._proposes.sample_relative(study, trial, space)
        for path, distribution in search_space.items():
            if path not in proposal:
                proposal[path] = self._proposes.sample_independent(study, trial, path, distribution)
        fixed = trial.system_attrs.get("fixed_params", {}) | studies.fixed_values(trial)
        earlier = (t for t in study.get_trials(deepcopy=False) if t.number < trial.number)
        held = {self._recorded.number(studies.trial_values(t)) for t in earlier}
        return self._nearest(asked_for(self._recorded.space, proposal | fixed), fixed, held).values

    def _nearest(self, proposal: dict[str, Any], fixed: dict[str, Any], held: set[int]) -> Configuration:
        known = self._recorded.configurations
        fitting = [n for n, c in known.items() if fixed.items() <= c.values.items()]
        # A group's configurations may be used up, where one was pruned before another led; then one is run again.
        free = [n for n in fitting if n not in held] or fitting
        at = point(self._recorded.space, proposal)
        return known[min(free, key=lambda n: float(((self._recorded.points[n] - at) ** 2).sum()))]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is part of every configuration")


class Untracked:
    """A tracker of nothing."""

    def start_trial(self, *_: object) -> None: ...

    def log_rung(self, *_: object) -> None: ...

    def end_trial(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Reached:
    """After so many trials and seconds, the best finished one had this accuracy (0..1) under seeds not seen.

    ``regret`` is by how much the table's best has more.
    """

    trials: int
    seconds: float
    accuracy: float
    regret: float


def replay(recorded: Recorded, method: Method, searches: int, trials: int) -> list[list[Reached]]:
    """Search in the table by so many trials, again and again: seeds differ, and the seed pair that is seen."""
    pruner, sampler = {"kind": method.pruner}, {"kind": method.sampler, "variants": method.variants}
    config = validate(recorded.search | {"pruner": pruner, "sampler": sampler}, method.name)
    found = []
    for seed in range(searches):
        seeded = config.model_copy(update={"sampler": config.sampler.model_copy(update={"seed": seed})})
        found.append(search_in(recorded, seeded, recorded.seeds[seed % len(recorded.seeds)], trials))
    return found


def search_in(recorded: Recorded, config: SearchConfig, seen: int, trials: int) -> list[Reached]:
    """Search in the table under one seed pair until so many trials, or all configurations, were run."""
    study = optuna.create_study(study_name=f"replay-{config.sampler.seed}", direction="maximize")
    studies.keep_objective(study, config.objective)
    for known in recorded.enqueued:
        studies.enqueue(study, recorded.space, known.values)
    ledger = Ledger(
        study,
        config,
        recorded.space,
        Untracked(),  # type: ignore[arg-type]
        Path(),
        Share(1.0, 0.0, 1),
        make_sampler=lambda settings, number: TableSampler(studies.make_sampler(settings, number), recorded),
    )
    spent, reached = 0.0, list[Reached]()
    for _ in range(trials):
        if (assignment := ledger.next()) is None:
            break
        run = recorded.run(recorded.number(assignment.values), seen)
        spent += run_recorded(ledger, assignment.number, run, config.trial.adapt.rungs, is_variant(study, assignment))
        if study.get_trials(deepcopy=False)[assignment.number].state == TrialState.COMPLETE:
            best = recorded.number(studies.trial_values(studies.best_trial(study)))
            found = recorded.score(best, seen)
            reached.append(Reached(assignment.number + 1, spent, found, recorded.best(seen) - found))
    return reached


def run_recorded(ledger: Ledger, trial: int, run: Run, rungs: Sequence[int], variant: bool) -> float:
    """Report a recorded run's rungs until the ledger stops it; returns what that cost."""
    spent = 0.0
    for rung in run.rungs:
        spent += cost(rung, variant)
        if ledger.report(trial, rung.report(rungs[-1])):
            return spent
    ledger.fail(trial, Failure(DIVERGED, run.failure))
    return spent


def is_variant(study: optuna.Study, assignment: Assignment) -> bool:
    return studies.leader(study.get_trials(deepcopy=False)[assignment.number]) is not None


def cost(rung: Rung, variant: bool) -> float:
    """Return the seconds of a rung; a variant's adaptation was paid by its leader."""
    return sum(s for stage, s in rung.seconds.items() if not (variant and stage in SHARED))


def at(reached: Sequence[Reached], trials: int) -> Reached | None:
    """Return what a search had reached by so many trials; None before its first finished one."""
    return next((each for each in reversed(reached) if each.trials <= trials), None)


def quartiles(values: Sequence[float]) -> str:
    """Return median and quartiles of shares, in percent points."""
    low, middle, high = (100 * each for each in np.quantile(values, (0.25, 0.5, 0.75)))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--searches", type=int, default=200, help="of each way")
    parser.add_argument("--objective", choices=typing.get_args(Objective), default="accuracy")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recorded = Recorded(Table.model_validate_json(options.file.read_bytes()), options.objective)
    print(
        f"{len(recorded.configurations)} configurations, {len(recorded.seeds)} seed pairs, objective "
        f"{options.objective}; regret to the table's best in points of dev accuracy under unseen seeds, median\n"
        f"[quartiles] of {options.searches} searches after so many trials, {len(recorded.enqueued)} of them enqueued; "
        f"best {', '.join(f'{100 * recorded.best(seen):.1f} %' for seen in recorded.seeds)} by seed pair that is seen"
    )
    print(f"{'':<28}" + "".join(f"{trials:>20}" for trials in BUDGETS) + f"{f's of {BUDGETS[-1]}':>10}")
    for method in methods():
        searches = replay(recorded, method, options.searches, BUDGETS[-1])
        print(f"{method.name:<28}" + "".join(told(searches)), flush=True)


def told(searches: Sequence[Sequence[Reached]]) -> list[str]:
    """Return the cells of a row: the regret after so many trials, and the mean seconds of all."""
    found = [[reached for search in searches if (reached := at(search, trials))] for trials in BUDGETS]
    cells = [f"{quartiles([each.regret for each in some]):>20}" for some in found]
    return [*cells, f"{mean([each.seconds for each in found[-1]]):>10.0f}"]


if __name__ == "__main__":
    main()
