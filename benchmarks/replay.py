"""Replays searches in a recorded table: what does each way of searching reach for its stage seconds?

The search is the real one, its ledger, samplers and pruners; only the trials are looked up. A proposal becomes the
nearest configuration that was not run yet. A search sees one seed pair of the table; what it reached is the accuracy
of its best finished trial under the other pairs, so that luck of the seeds is not counted as reached.
Run: python -m benchmarks.replay
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
from kinemic.report import RungReport, mean
from search import study as studies
from search.config import PrunerConfig, SearchConfig, validate
from search.failures import DIVERGED, Failure
from search.ledger import Assignment, Ledger
from search.shares import Share
from search.space import CategoricalDomain, Domain, Scalar, suggest

BUDGETS = (2, 4, 8, 16)  # seconds of so many full trials
NEAR_BEST = 0.95  # of the table's best
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

    def __init__(self, table: Table) -> None:
        self.seeds = sorted({run.seed for run in table.runs})
        self._runs = {(run.configuration, run.seed): run for run in table.runs}
        whole = [n for n in range(len(table.configurations)) if all((n, seed) in self._runs for seed in self.seeds)]
        self.configurations = {n: table.configurations[n] for n in whole}
        self.search = table.search | {"budget": {"trials": len(whole)}}
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
    def trial_seconds(self) -> float:
        """Mean seconds of a full trial."""
        whole = [run for run in self._runs.values() if not run.failure]
        return mean([sum(sum(rung.seconds.values()) for rung in run.rungs) for run in whole])

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
        fixed = trial.system_attrs.get("fixed_params", {})
        held = {self._recorded.number(t.params) for t in study.get_trials(deepcopy=False) if t.number < trial.number}
        return self._nearest(proposal | fixed, fixed, held).values

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
    """From these seconds on, the best finished trial had this accuracy (0..1) under seeds that were not seen."""

    seconds: float
    accuracy: float


def replay(recorded: Recorded, method: Method, searches: int, limit: float) -> list[list[Reached]]:
    """Search in the table for so many seconds, again and again: seeds differ, and the seed pair that is seen."""
    pruner, sampler = {"kind": method.pruner}, {"kind": method.sampler, "variants": method.variants}
    config = validate(recorded.search | {"pruner": pruner, "sampler": sampler}, method.name)
    found = []
    for seed in range(searches):
        seeded = config.model_copy(update={"sampler": config.sampler.model_copy(update={"seed": seed})})
        found.append(search_in(recorded, seeded, recorded.seeds[seed % len(recorded.seeds)], limit))
    return found


def search_in(recorded: Recorded, config: SearchConfig, seen: int, limit: float) -> list[Reached]:
    """Search in the table under one seed pair until so many seconds are spent or all configurations were run."""
    study = optuna.create_study(study_name=f"replay-{config.sampler.seed}", direction="maximize")
    study.enqueue_trial(recorded.configurations[0].values)
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
    while spent < limit and (assignment := ledger.next()) is not None:
        run = recorded.run(recorded.number(assignment.values), seen)
        spent += run_recorded(ledger, assignment.number, run, config.trial.adapt.rungs, is_variant(study, assignment))
        if study.get_trials(deepcopy=False)[assignment.number].state == TrialState.COMPLETE:
            best = recorded.number(studies.best_trial(study).params)
            reached.append(Reached(spent, recorded.score(best, seen)))
    return reached


def run_recorded(ledger: Ledger, trial: int, run: Run, rungs: Sequence[int], variant: bool) -> float:
    """Report a recorded run's rungs until the ledger stops it; returns what that cost."""
    spent = 0.0
    for index, rung in enumerate(run.rungs):
        spent += cost(rung, variant)
        report = RungReport(index, rung.steps, rungs[-1], rung.accuracies, {}, rung.seconds, (), 0, "cpu", 0.0)
        if ledger.report(trial, report):
            return spent
    ledger.fail(trial, Failure(DIVERGED, run.failure))
    return spent


def is_variant(study: optuna.Study, assignment: Assignment) -> bool:
    return studies.leader(study.get_trials(deepcopy=False)[assignment.number]) is not None


def cost(rung: Rung, variant: bool) -> float:
    """Return the seconds of a rung; a variant's adaptation was paid by its leader."""
    return sum(s for stage, s in rung.seconds.items() if not (variant and stage in SHARED))


def at(reached: Sequence[Reached], seconds: float) -> float:
    """Return the accuracy (0..1) that a search had reached by then; not a number before its first finished trial."""
    return next((r.accuracy for r in reversed(reached) if r.seconds <= seconds), math.nan)


def seconds_to(reached: Sequence[Reached], accuracy: float) -> float:
    """Return after how many seconds a search first had an accuracy, infinite where it never did."""
    return next((r.seconds for r in reached if r.accuracy >= accuracy), math.inf)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median and quartiles: recorded values, so that infinite ones do no harm."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), method="lower")
    return float(middle), float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--searches", type=int, default=200, help="of each way")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recorded = Recorded(Table.model_validate_json(options.file.read_bytes()))
    trial = recorded.trial_seconds
    print(
        f"{len(recorded.configurations)} configurations, {len(recorded.seeds)} seed pairs, {trial:.1f} s a full trial; "
        f"dev accuracy % under unseen seeds, median [quartiles] of {options.searches} searches,\n"
        f"best {', '.join(f'{100 * recorded.best(seen):.1f}' for seen in recorded.seeds)} by seed pair that is seen"
    )
    print(
        "".join(
            [f"{'':<28}", *(f"{f'{n * trial:.0f} s':>20}" for n in BUDGETS), f"{f's to {NEAR_BEST:.0%} of best':>22}"]
        )
    )
    for method in methods():
        searches = replay(recorded, method, options.searches, BUDGETS[-1] * trial)
        print(f"{method.name:<28}" + "".join(told(recorded, searches)), flush=True)


def told(recorded: Recorded, searches: Sequence[Sequence[Reached]]) -> list[str]:
    """Return the cells of a row: what was reached at each budget, and the seconds to nearly the best."""
    cells = []
    for budget in BUDGETS:
        middle, low, high = quartiles([100 * at(reached, budget * recorded.trial_seconds) for reached in searches])
        cells.append(f"{f'{middle:.1f} [{low:.1f}, {high:.1f}]':>20}")
    goals = [NEAR_BEST * recorded.best(recorded.seeds[i % len(recorded.seeds)]) for i in range(len(searches))]
    times = [seconds_to(reached, goal) for reached, goal in zip(searches, goals, strict=True)]
    middle, low, high = quartiles(times)
    return [*cells, f"{f'{middle:.0f} [{low:.0f}, {high:.0f}]':>22}"]


if __name__ == "__main__":
    main()
