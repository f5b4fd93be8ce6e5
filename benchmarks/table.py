"""Records a table of configurations: all rungs, several seed pairs, stage seconds; benchmarks/replay.py searches in it.

The configurations are random draws of the dear values of the demo's space, each with several draws of the cheap ones;
the published configuration is the first. One file holds everything; what it holds is not run again, so an interrupted
recording goes on. Run: OMP_NUM_THREADS=1 python -m benchmarks.table --workers 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna

from kinemic.config import Frozen, TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.errors import ConfigError, KinemicError
from kinemic.files import write_text
from kinemic.inputs import prepare_inputs
from kinemic.reading import with_values
from kinemic.report import RungReport, TrialInputs, mean
from kinemic.trial import run_trial
from search.config import SearchConfig, load
from search.space import Domain, Scalar, dear_paths, published_values, resolve_space, suggest

ROOT = Path(__file__).parent.parent
SEARCH = ROOT / "examples" / "demo.yaml"
SETTINGS = ("trial.adapt.rungs=[25, 50, 100]",)
FILE = ROOT / "benchmarks" / "table.json"
SHARED = ("mine", "adapt")  # stages that configurations with the same dear values share


class Rung(Frozen):
    """A rung as it was measured: dev accuracy (0..1) per judge seed, seconds by stage with nothing shared."""

    steps: int
    accuracies: tuple[float, ...]
    seconds: dict[str, float]


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
    """A search as in its YAML file, its space resolved; configurations of its space; their runs."""

    search: dict[str, Any]
    configurations: tuple[Configuration, ...]
    runs: tuple[Run, ...] = ()


def record(
    config: SearchConfig, file: Path, cache: Path, groups: int, variants: int, seeds: int, workers: int
) -> Iterator[Table]:
    """Run what a file lacks of a table, writing and yielding the table whenever a group under a seed is done.

    Raises ConfigError for a file of other configurations.
    """
    inputs = prepare_inputs(config, cache)
    source_clips = len(Corpus.open(inputs.source))
    space = resolve_space(config.space, source_clips, config.trial.judge.profile)
    config = config.model_copy(update={"space": space})
    planned = plan(space, published_values(space, source_clips), groups, variants, config.sampler.seed)
    table = Table(search=config.model_dump(mode="json", exclude={"confirm"}), configurations=planned)
    if file.exists():
        found = Table.model_validate_json(file.read_bytes())
        if (found.search, found.configurations) != (table.search, table.configurations):
            raise ConfigError(f"{file} holds a table of other configurations; give another --file, or delete it")
        table = found
    done = {(run.configuration, run.seed) for run in table.runs}
    jobs = []
    for first in range(0, len(planned), variants):
        members = range(first, first + variants)
        missing = [seed for seed in range(seeds) if not done >= {(n, seed) for n in members}]
        trials = {n: with_values(config.trial, planned[n].values) for n in members}
        jobs += [Job(inputs, trials, seed, config.judge_seeds) for seed in missing]
    with get_context("spawn").Pool(workers) as pool:
        for runs in pool.imap_unordered(run_group, jobs):
            table = table.model_copy(update={"runs": (*table.runs, *runs)})
            write_text(file, table.model_dump_json())
            yield table


def plan(
    space: Mapping[str, Domain], published: dict[str, Scalar], groups: int, variants: int, seed: int
) -> tuple[Configuration, ...]:
    """Draw configurations, group by group; the published one is the first."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    dear, made = dear_paths(space), list[Configuration]()
    for group in range(groups):
        first = suggest(study.ask(), space, {}) if group else published
        kept = {path: value for path, value in first.items() if path in dear}
        drawn = [first, *(suggest(study.ask(), space, kept) for _ in range(variants - 1))]
        made += [Configuration(group=group, values=values) for values in drawn]
    return tuple(made)


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
                for report, share in reports(inputs, config, seeds):
                    seconds = unshared(report, share, made.get(report.steps, {}))
                    made.setdefault(report.steps, seconds)
                    rungs.append(Rung(steps=report.steps, accuracies=report.accuracies, seconds=seconds))
            except KinemicError as error:
                failure = f"{type(error).__name__}: {error}"
            runs.append(Run(configuration=number, seed=job.seed, rungs=tuple(rungs), failure=failure))
    return runs


def reports(inputs: TrialInputs, config: TrialConfig, seeds: TrialSeeds) -> Iterator[tuple[RungReport, float]]:
    """Yield each rung of a trial and the share of a core that it got: the machine may have other work."""
    with TemporaryDirectory() as workdir:
        wall, core = time.perf_counter(), time.process_time()
        for report in run_trial(inputs, config, (seeds,), Path(workdir)):
            share = (time.process_time() - core) / (time.perf_counter() - wall)
            yield report, min(share, 1.0)
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
    parser.add_argument("--groups", type=int, default=16, help="draws of the dear values")
    parser.add_argument("--variants", type=int, default=3, help="draws of the cheap values for each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    start, whole = time.monotonic(), options.groups * options.variants * options.seeds
    config = load(SEARCH, SETTINGS)
    for table in record(
        config, options.file, options.cache, options.groups, options.variants, options.seeds, options.workers
    ):
        failed = sum(bool(run.failure) for run in table.runs)
        print(f"{len(table.runs)} of {whole} runs, {failed} failed, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
