"""Records a table of configurations: all rungs, several seed pairs, stage seconds; benchmarks/replay.py searches in it.

First come the rows that a search of the demo enqueues, then random draws of the dear values of its space, each with
several draws of the cheap ones, until there are so many different configurations. One file holds everything; what it
holds is not run again, so an interrupted recording goes on. Run: OMP_NUM_THREADS=1 python -m benchmarks.table
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna

from kinemic.config import Frozen, TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.errors import ConfigError, KinemicError
from kinemic.files import write_text
from kinemic.inputs import prepare_inputs
from kinemic.mining_ranges import ranges_of
from kinemic.predictions import Predictions
from kinemic.reading import with_values
from kinemic.report import RungReport, TrialInputs, mean
from kinemic.trial import PREDICTIONS, run_trial
from search.config import SearchConfig, load
from search.known_rows import first_rows
from search.space import Domain, Scalar, dear_paths, resolve_space, suggest

ROOT = Path(__file__).parent.parent
SEARCH = ROOT / "examples" / "demo.yaml"
FILE = ROOT / "benchmarks" / "table.json"
TEMPERATURE = 2.0  # fits judges of one shot best (1.5 to 3 on two generated corpora)
SHARED = ("mine", "adapt")  # stages that configurations with the same dear values share


class Rung(Frozen):
    """A rung as it was measured: what ``RungReport`` says of dev, and seconds by stage with nothing shared.

    ``cooled`` is the mean log-likelihood of the same judges if their logits are divided by ``TEMPERATURE``.
    """

    steps: int
    accuracies: tuple[float, ...]
    log_likelihoods: tuple[float, ...] = ()
    briers: tuple[float, ...] = ()
    log_likelihood_ensemble: float | None = None
    brier_ensemble: float | None = None
    cooled: float | None = None
    seconds: dict[str, float]

    def report(self, total_steps: int) -> RungReport:
        """Return it as a trial's report."""
        said = self.model_dump(exclude={"steps", "seconds", "cooled"})
        return RungReport(
            rung=0, steps=self.steps, total_steps=total_steps, losses={}, seconds=self.seconds, pool_sizes=(),
            pool_fallbacks=0, device="cpu", peak_memory_mb=0.0, **said,
        )  # fmt: skip


class Run(Frozen):
    """One configuration under one seed pair; ``failure`` says why a run has not all rungs."""

    configuration: int
    seed: int
    rungs: tuple[Rung, ...]
    failure: str = ""

    @property
    def accuracy(self) -> float:
        """Dev accuracy at the last rung (0..1); a failed run has no generator, so it is worth nothing."""
        return 0.0 if self.failure else mean(self.rungs[-1].accuracies)


class Configuration(Frozen):
    """Searched values; configurations of one group have the dear ones in common."""

    group: int
    values: dict[str, Scalar]


class Table(Frozen):
    """A search as in its YAML file, its space resolved; configurations of its space, the enqueued first; their runs."""

    search: dict[str, Any]
    configurations: tuple[Configuration, ...]
    enqueued: int
    runs: tuple[Run, ...] = ()


def record(
    config: SearchConfig, file: Path, cache: Path, count: int, variants: int, seeds: int, workers: int
) -> Iterator[Table]:
    """Run what a file lacks of a table, writing and yielding the table whenever a group under a seed is done.

    Raises ConfigError for a file of other configurations.
    """
    inputs = prepare_inputs(config, cache)
    source_clips = len(Corpus.open(inputs.source))
    space = resolve_space(config.space, source_clips, config.trial.judge.profile, ranges_of(inputs))
    config = config.model_copy(update={"space": space})
    known = [values for _, values in first_rows(space, source_clips, config.trial)]
    planned = plan(space, known, count, variants, config.sampler.seed)
    search = config.model_dump(mode="json", exclude={"confirm"})
    table = Table(search=search, configurations=planned, enqueued=len(known))
    if file.exists():
        found = Table.model_validate_json(file.read_bytes())
        if found.model_copy(update={"runs": ()}) != table:
            raise ConfigError(f"{file} holds a table of other configurations; give another --file, or delete it")
        table = found
    done = {(run.configuration, run.seed) for run in table.runs}
    jobs = []
    for seed in range(seeds):  # every seed pair whole, so that a table that is not finished is of use
        for _, members in groupby(range(len(planned)), key=lambda n: planned[n].group):
            trials = {n: with_values(config.trial, planned[n].values) for n in members}
            if not done >= {(n, seed) for n in trials}:
                jobs.append(Job(inputs, trials, seed, config.judge_seeds))
    with get_context("spawn").Pool(workers) as pool:
        for runs in pool.imap_unordered(run_group, jobs):
            table = table.model_copy(update={"runs": (*table.runs, *runs)})
            write_text(file, table.model_dump_json())
            yield table


def plan(
    space: Mapping[str, Domain], known: Sequence[dict[str, Scalar]], count: int, variants: int, seed: int
) -> tuple[Configuration, ...]:
    """Return different configurations, those ``known`` first, then draws of the space, group by group.

    Up to ``variants`` of a group have dear values in common; where these leave less to draw, it is smaller.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    dear, group = dear_paths(space), len(known)
    made = {_key(values): Configuration(group=n, values=values) for n, values in enumerate(known)}
    while len(made) < count:
        first = suggest(study.ask(), space, {})
        kept = {path: value for path, value in first.items() if path in dear}
        for values in (first, *(suggest(study.ask(), space, kept) for _ in range(variants - 1))):
            made.setdefault(_key(values), Configuration(group=group, values=values))
        group += 1
    return tuple(made.values())[:count]


def _key(values: Mapping[str, Scalar]) -> frozenset[tuple[str, Scalar]]:
    return frozenset(values.items())


@dataclass(frozen=True)
class Job:
    """A group's configurations, by number, to be run under one pair of seeds: one process, for they share stages."""

    inputs: TrialInputs
    trials: Mapping[int, TrialConfig]
    seed: int
    judges: int


def run_group(job: Job) -> list[Run]:
    """Run the configurations of a group one after another; each pair of seeds has judges of its own.

    They share stages with each other alone, so that what a reused stage took is known.
    """
    judges = tuple(range(job.judges * job.seed, job.judges * (job.seed + 1)))
    seeds = TrialSeeds(adaptation=job.seed, generation=job.seed, judge=judges)
    runs, made = list[Run](), dict[int, dict[str, float]]()
    with TemporaryDirectory() as stages:
        inputs = replace(job.inputs, stages=Path(stages))
        for number, config in job.trials.items():
            rungs, failure = list[Rung](), ""
            try:
                for report, share, cooled in reports(inputs, config, seeds):
                    seconds = unshared(report, share, made.get(report.steps, {}))
                    made.setdefault(report.steps, seconds)
                    said = {name: getattr(report, name) for name in Rung.model_fields.keys() - {"seconds", "cooled"}}
                    rungs.append(Rung(seconds=seconds, cooled=cooled, **said))
            except KinemicError as error:
                failure = f"{type(error).__name__}: {error}"
            runs.append(Run(configuration=number, seed=job.seed, rungs=tuple(rungs), failure=failure))
    return runs


def reports(inputs: TrialInputs, config: TrialConfig, seeds: TrialSeeds) -> Iterator[tuple[RungReport, float, float]]:
    """Yield each rung of a trial, the share of a core that it got (the machine may have other work), and ``cooled``."""
    with TemporaryDirectory() as workdir:
        wall, core = time.perf_counter(), time.process_time()
        for report in run_trial(inputs, config, (seeds,), Path(workdir)):
            share = (time.process_time() - core) / (time.perf_counter() - wall)
            said = Predictions.load(Path(workdir) / f"rung-{report.steps}" / PREDICTIONS)
            cooled = mean(Predictions(said.logits / np.float32(TEMPERATURE), said.labels).log_likelihoods)
            yield report, min(share, 1.0), cooled
            wall, core = time.perf_counter(), time.process_time()


def unshared(report: RungReport, share: float, made: Mapping[str, float]) -> dict[str, float]:
    """Return a rung's seconds of a core by stage as if nothing had been shared.

    A reused stage costs what it did where it was ``made``; where that run failed, what the store says of it.
    """
    seconds = {stage: value * share for stage, value in report.seconds.items()}
    seconds |= {stage: made.get(stage, value) for stage, value in report.reused.items() if stage in SHARED}
    return {stage: round(value, 4) for stage, value in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--configurations", type=int, default=48)
    parser.add_argument("--variants", type=int, default=3, help="draws of the cheap values for each of the dear ones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    start, whole = time.monotonic(), options.configurations * options.seeds
    config = load(SEARCH)
    count, variants, seeds = options.configurations, options.variants, options.seeds
    for table in record(config, options.file, options.cache, count, variants, seeds, options.workers):
        failed = sum(bool(run.failure) for run in table.runs)
        print(f"{len(table.runs)} of {whole} runs, {failed} failed, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
