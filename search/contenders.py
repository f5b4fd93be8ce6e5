"""After the search: the baselines, the published configuration and the best trial, run again on fresh seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from ray.exceptions import RayError

from kinemic.config import TrialConfig, TrialSeeds, with_values
from kinemic.errors import KinemicError
from kinemic.files import write_text
from kinemic.report import RungReport, mean, standard_error
from kinemic.seeding import derive_seed
from search import study as studies
from search.config import SearchConfig
from search.failures import BUG, Failure, classify
from search.resources import Share
from search.space import Domain, published_values
from search.trainable import PROGRESS_FILE, ProgressFile, Work, assigned_device, limit_threads, release_memory

HEADING = "on dev: chosen on these clips"


@dataclass(frozen=True)
class Contender:
    """One row to be: its key, its title and the trial configuration that is run."""

    key: str
    title: str
    config: TrialConfig


@dataclass(frozen=True)
class ContenderRow:
    """One row of the table: mean dev accuracy (0..1) of every repetition, their mean and standard error."""

    key: str
    title: str
    accuracies: tuple[float, ...]
    failures: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over the repetitions; NaN where all failed."""
        return mean(self.accuracies) if self.accuracies else float("nan")

    @property
    def se(self) -> float | None:
        """Standard error of that mean over the repetitions; None for fewer than two."""
        return standard_error(self.accuracies)


@dataclass(frozen=True)
class ContenderTable:
    """The table, with the number of fresh repetitions and of judge seeds in each."""

    rows: tuple[ContenderRow, ...]
    repetitions: int
    judge_seeds: int
    steps: int
    heading: str = HEADING

    def to_json(self) -> str:
        """Return the table as JSON; mean and standard error are written out."""
        data = asdict(self)
        for row, shown in zip(self.rows, data["rows"], strict=True):
            shown |= {"mean": row.mean if row.accuracies else None, "se": row.se}
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ContenderTable:
        """Read a table that ``to_json`` wrote."""
        data = json.loads(text)
        rows = tuple(
            ContenderRow(row["key"], row["title"], tuple(row["accuracies"]), tuple(row["failures"]))
            for row in data["rows"]
        )
        return cls(rows, data["repetitions"], data["judge_seeds"], data["steps"], data["heading"])

    def metrics(self) -> dict[str, float]:
        """Return the rows as metrics of the search's own run."""
        means = {f"contender_{row.key}_dev_accuracy": row.mean for row in self.rows if row.accuracies}
        errors = {f"contender_{row.key}_dev_accuracy_se": row.se for row in self.rows if row.se is not None}
        return means | errors


def contenders(
    study: optuna.Study, config: SearchConfig, space: Mapping[str, Domain], source_clips: int
) -> list[Contender]:
    """Return what a search's best trial is compared with, and that trial (METHOD section 7). Raises KinemicError.

    Real-only rows generate nothing, so nothing is mined or adapted for them. Only the last rung is scored.
    """
    base = config.trial
    best = studies.best_trial(study)
    published = with_values(base, published_values(space, source_clips))
    chosen = with_values(base, studies.trial_values(best))
    title = f"best trial ({best.number})" + (", the published one" if studies.is_published(best) else "")
    found = [
        Contender("real", "real only", with_values(base, {"synthesis.clips_per_class": 0, "judge.augment": False})),
        Contender(
            "augmented",
            "real + classical augmentation",
            with_values(base, {"synthesis.clips_per_class": 0, "judge.augment": True}),
        ),
        Contender("published", "published configuration", published),
        Contender("best", title, chosen),
    ]
    last = {"adapt.rungs": base.adapt.rungs[-1:]}
    return [Contender(c.key, c.title, with_values(c.config, last)) for c in found]


def fresh_seeds(config: SearchConfig, repetition: int) -> TrialSeeds:
    """Return the seeds of one repetition: the same for every contender, none of them used by a trial."""

    def seed(*names: str | int) -> int:
        return derive_seed(config.sampler.seed, "contender", repetition, *names) % 2**31

    judge = tuple(seed("judge", i) for i in range(len(config.seeds.judge)))
    return TrialSeeds(adaptation=seed("adaptation"), generation=seed("generation"), judge=judge)


def run_contenders(
    found: Sequence[Contender],
    config: SearchConfig,
    work: Work,
    share: Share,
    folder: Path,
    changed: Callable[[int, int], None] = lambda done, total: None,
) -> ContenderTable:
    """Run every contender on every repetition's fresh seeds as parallel Ray tasks; what is on disk is not run again.

    ``folder`` gets one folder a run, ``KEY-REPETITION-HASH``: a search that goes on may find another best trial. A run
    that fails leaves its row with fewer repetitions.
    """
    repetitions = config.contenders.seeds
    configs = {c.key: c.config for c in found}
    unique = [key for key in configs if key != "best" or configs["best"] != configs.get("published")]
    jobs = [(key, k) for k in range(repetitions) for key in unique]
    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=2)(_run_one)
    shared = ray.put(work)
    done: dict[tuple[str, int], RungReport | Failure] = {}
    running: dict[Any, tuple[str, int]] = {}
    changed(0, len(jobs))
    while len(done) < len(jobs):
        for key, k in jobs[len(done) + len(running) :][: share.max_concurrent - len(running)]:
            run = task.remote(shared, configs[key], fresh_seeds(config, k), run_folder(folder, key, k, configs[key]))
            running[run] = (key, k)
        for ref in ray.wait(list(running), num_returns=1, timeout=1.0)[0]:
            done[running.pop(ref)] = _result(ref)
        changed(len(done), len(jobs))
    if "best" in configs and "best" not in unique:
        done |= {("best", k): done["published", k] for k in range(repetitions)}
    rows = tuple(_row(c, [done[c.key, k] for k in range(repetitions)]) for c in found)
    return ContenderTable(rows, repetitions, len(config.seeds.judge), config.steps)


def store(table: ContenderTable, path: Path) -> None:
    """Write a table to the search's folder."""
    write_text(path, table.to_json())


def load(path: Path) -> ContenderTable | None:
    """Read a search's table, None where there is none yet."""
    return ContenderTable.from_json(path.read_text(encoding="utf-8")) if path.exists() else None


def run_folder(folder: Path, key: str, repetition: int, config: TrialConfig) -> Path:
    """Return the folder of one run of a contender, of which another configuration has another."""
    digest = hashlib.blake2b(config.model_dump_json().encode(), digest_size=4).hexdigest()
    return folder / f"{key}-{repetition}-{digest}"


def _run_one(work: Work, config: TrialConfig, seeds: TrialSeeds, workdir: Path) -> RungReport | Failure:
    device, run_trial = assigned_device(), work.function()
    limit_threads()
    workdir.mkdir(parents=True, exist_ok=True)
    progress = ProgressFile(workdir / PROGRESS_FILE)
    try:
        reports = list(run_trial(work.inputs, config, seeds, workdir, device, progress))
    except (KinemicError, MemoryError, RuntimeError) as error:
        return classify(error)
    release_memory()
    return reports[-1] if reports else Failure(BUG, "the trial yielded no report")


def _result(ref: Any) -> RungReport | Failure:
    try:
        result: RungReport | Failure = ray.get(ref)
    except RayError as error:
        return Failure(BUG, str(error).strip().splitlines()[-1])
    return result


def _row(contender: Contender, results: Sequence[RungReport | Failure]) -> ContenderRow:
    return ContenderRow(
        contender.key,
        contender.title,
        tuple(r.dev_accuracy for r in results if isinstance(r, RungReport)),
        tuple(f"{r.kind}: {r.message}" for r in results if isinstance(r, Failure)),
    )
