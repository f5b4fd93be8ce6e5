"""Runs what a recording of the effect lacks: draws of the few shots x adaptation seeds x classifier seeds, by row.

Every row is run by the product's own trial, its stages shared, under the same draws and seeds as the others.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.effect_records import WINNER, Key, Place, Record, Recording, Row, settings_of
from benchmarks.effect_statistics import CHOSEN_ON
from kinemic import checkpoint
from kinemic.config import ExperimentConfig, TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.digests import digest_of
from kinemic.errors import ConfigError, KinemicError
from kinemic.inputs import prepare_inputs
from kinemic.mining_ranges import ranges_of
from kinemic.reading import leaf_paths, with_values
from kinemic.report import TrialInputs, mean
from kinemic.trial import run_trial
from search import baselines
from search import study as studies
from search.choice import choose
from search.config import SearchConfig
from search.folder import SearchFolder
from search.sitting import tidy
from search.space import resolve_space

ConfigOf = Callable[[int, int], SearchConfig]  # by shots and draw


@dataclass(frozen=True)
class Plan:
    """What is wanted: every row under the same draws, adaptation seeds and, in each of these, classifier seeds."""

    target: str
    draws: tuple[int, ...]
    rows: tuple[str, ...]
    adaptations: int
    classifiers: int

    def runs(self, shots: int) -> Iterator[Run]:
        """Yield the runs at so many shots, draw by draw, so that what is there of a stopped recording compares."""
        for draw in self.draws:
            for seed in range(self.adaptations):
                # No adaptation seed shares classifier seeds: rows without adaptation get as many different ones.
                judge = tuple(range(seed * self.classifiers, (seed + 1) * self.classifiers))
                seeds = TrialSeeds(adaptation=seed, generation=seed, judge=judge)
                yield from (Run(Place(self.target, shots, row), draw, seeds) for row in self.rows)

    def missing(self, shots: int, recording: Recording) -> list[Run]:
        """Return the runs that a recording lacks."""
        return [run for run in self.runs(shots) if not run.in_(recording)]


@dataclass(frozen=True)
class Run:
    """One row under one draw and adaptation seed, with its classifiers."""

    place: Place
    draw: int
    seeds: TrialSeeds

    @property
    def name(self) -> str:
        """As it is told, and the name of its folder."""
        return "-".join(map(str, (*self.place, self.draw, self.seeds.adaptation)))

    def in_(self, recording: Recording) -> bool:
        """Return whether a recording holds every classifier of the run."""
        return all(recording.has(Key(*self.place, self.draw, self.seeds.adaptation, seed)) for seed in self.seeds.judge)

    def records(self, accuracies: Sequence[float]) -> list[Record]:
        """Return the record of each classifier."""
        target, shots, row = self.place
        known = {"target": target, "shots": shots, "row": row, "draw": self.draw}
        return [
            Record(**known, adaptation_seed=self.seeds.adaptation, classifier_seed=seed, accuracy=round(value, 6))
            for seed, value in zip(self.seeds.judge, accuracies, strict=True)
        ]


@dataclass(frozen=True)
class Job:
    """A run with all that another process needs to do it."""

    run: Run
    experiment: ExperimentConfig
    trial: TrialConfig
    runs: Path


@dataclass(frozen=True)
class Done:
    """A run's accuracies and the seconds of a core that it took, or why it failed."""

    run: Run
    accuracies: tuple[float, ...] = ()
    seconds: float = 0.0
    failure: str = ""

    @property
    def line(self) -> str:
        """The run in a line."""
        return f"{self.run.name}: " + (self.failure or f"{mean(self.accuracies):.4f}, {self.seconds:.0f} s")


def record(
    plan: Plan, shots: int, config_of: ConfigOf, given: Mapping[str, TrialConfig], recording: Recording, runs: Path,
    workers: int = 1,
) -> Iterator[Done]:  # fmt: skip
    """Do the runs at so many shots that a recording lacks; yields each when it is written.

    ``given`` holds rows that are no baselines of the product. A run that fails is yielded, and stays missing. Raises
    ConfigError for a row that nobody knows, and for one whose records have other settings.
    """
    todo = plan.missing(shots, recording)
    if not todo:
        return
    config = config_of(shots, CHOSEN_ON)  # where the ranges of a search are from
    inputs = prepared(experiment_of(config), runs)
    trials = rows_of(config, inputs) | given
    if unknown := [row for row in plan.rows if row not in trials]:
        raise ConfigError(f"no row {unknown[0]!r}; there are {', '.join(trials)}; --search gives the {WINNER}")
    read = inputs_of(inputs)
    for row in plan.rows:
        recording.check(Row.of(Place(plan.target, shots, row), settings_of(trials[row], read)))
    jobs = [Job(run, experiment_of(config_of(shots, run.draw)), trials[run.place.row], runs) for run in todo]
    for done in _each(jobs, workers):
        if not done.failure:
            settings = settings_of(trials[done.run.place.row], read)
            recording.add(Row.of(done.run.place, settings, done.seconds), done.run.records(done.accuracies))
        tidy(config, inputs)
        yield done


def do(job: Job) -> Done:
    """Do a run in a folder of its own, which is gone afterwards; where an earlier one was stopped it goes on there."""
    start = time.process_time()
    workdir = job.runs / "effect" / job.run.name
    try:
        inputs = prepared(job.experiment, job.runs)
        report = list(run_trial(inputs, job.trial, (job.run.seeds,), workdir))[-1]
    except KinemicError as error:
        return Done(job.run, failure=str(error))
    shutil.rmtree(workdir)
    return Done(job.run, report.accuracies, round(time.process_time() - start, 1))


def _each(jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    if workers == 1:
        yield from map(do, jobs)
        return
    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(do, jobs)


@lru_cache(maxsize=1)
def prepared(experiment: ExperimentConfig, runs: Path) -> TrialInputs:
    """Prepare what the trials of a draw read, below the folder of all searches."""
    return prepare_inputs(experiment, runs / "cache")


def experiment_of(config: SearchConfig) -> ExperimentConfig:
    """Return the part of a search that its trials read."""
    return ExperimentConfig(**{name: getattr(config, name) for name in ExperimentConfig.model_fields})


def rows_of(config: SearchConfig, inputs: TrialInputs) -> dict[str, TrialConfig]:
    """Return the product's baselines by their keys."""
    clips = len(Corpus.open(inputs.source))
    space = resolve_space(config.space, clips, config.trial.judge.profile, ranges_of(inputs))
    return {row.key: row.config for row in baselines.baselines(config, space, clips)}


def inputs_of(inputs: TrialInputs) -> dict[str, Any]:
    """Return what trials read, as it stands beside their settings: no paths, no names."""
    prior = checkpoint.read_meta(inputs.prior)
    made = {name: (prior.get("pretrain") or {}).get(name) for name in ("steps", "batch_size", "learning_rate")}
    return {
        "text": {"encoder": prior["encoder_id"]},
        "source": {"content": Corpus.open(inputs.source).content_hash},
        "prior": {"content": digest_of(inputs.prior.read_bytes()), **prior["model"], **made},
    }


def winner_of(folder: Path) -> TrialConfig:
    """Return the trial that a finished search chose: the confirmed winner, or before that the best on dev.

    Raises KinemicError where there is none.
    """
    found = SearchFolder(folder.resolve())
    config = found.config()
    study = studies.open_study(config, found.path, found.state().study)
    trial = choose(found, study).trial
    return with_values(config.trial, {**studies.trial_values(trial), "adapt.rungs": config.trial.adapt.rungs[-1:]})


def recorded(recording: Recording, place: Place, trial: TrialConfig) -> dict[str, TrialConfig]:
    """Return a row as it was recorded before, for one whose search is gone; empty where it was not."""
    row, known = recording.rows.get(place), leaf_paths(TrialConfig)
    values = {path: value for path, value in row.settings.items() if path in known} if row else {}
    return {place.row: with_values(trial, values)} if row else {}
