"""An analytic trial with the signature of the method's own: fast, torch-free, its accuracy known from its settings."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from kinemic.config import TrialConfig, TrialSeeds
from kinemic.errors import DivergedError, EmptyPoolError
from kinemic.files import write_text
from kinemic.progress import Progress, ProgressCallback
from kinemic.reading import with_values
from kinemic.report import RungReport, TrialInputs

SOURCE_CLIPS = 600
TRACE = "calls.txt"  # one line a rung that was really computed, in the trial's folder

SHARED = "shared"  # a folder beside the inputs, to which a trial of WRITES writes at its second rung

# Bank sizes that make a trial fail in one way or another, the last three at its second rung.
DIVERGES, HAS_A_BUG, DIES, FINDS_NOTHING, RUNS_OUT, NEEDS_MORE, WRITES = range(13, 20)


def inputs(folder: Path) -> TrialInputs:
    """Return inputs that are never opened."""
    return TrialInputs(folder / "source", folder / "trial", folder / "prior", folder / "encoder", folder / "captions")


def accuracy(config: TrialConfig, steps: int, seed: int) -> float:
    """Return an accuracy that rises with the steps and is best at guidance 3 and a learning rate of 1e-3."""
    quality = 0.8 - 0.1 * abs(config.synthesis.guidance - 3.0) - 0.1 * abs(math.log10(config.adapt.learning_rate) + 3.0)
    if not config.synthesis.parts:
        quality = 0.45 + 0.1 * config.judge.augment
    if config.judge.profile == "stgcn":  # a judge that sees other differences than the others do
        quality *= 0.9
    return quality * (1 - 0.3 * math.exp(-steps / 10)) + 0.01 * math.sin(seed)


def log_likelihood(accuracy: float) -> float:
    """Return a log-likelihood that ranks trials the other way round than their accuracy does."""
    return -1.0 - accuracy


def brier(accuracy: float) -> float:
    """Return a Brier score that ranks trials the other way round than their accuracy does."""
    return accuracy


def run_trial(
    trial_inputs: TrialInputs,
    config: TrialConfig,
    seeds: tuple[TrialSeeds, ...],
    workdir: Path,
    device: str,
    progress: ProgressCallback,
) -> Iterator[RungReport]:
    """Yield a report a rung, stored ones first; leaves the files that the method's trial leaves."""
    total = config.adapt.rungs[-1]
    first_only = [(rung, steps, 0) for rung, steps in enumerate(config.scored_rungs)]
    for rung, steps, repetition in [*first_only, *((len(first_only) - 1, total, k) for k in range(1, len(seeds)))]:
        file = workdir / f"rung-{steps + repetition}" / "report.json"
        if file.exists():
            yield RungReport.from_json(file.read_text(encoding="utf-8"))
            continue
        progress(Progress("adapt", steps, total))
        fail(config.loss.bank_size, rung, workdir)
        if config.loss.bank_size == WRITES and rung == 1:
            write_text(trial_inputs.source.parent / SHARED / workdir.name, "a stage")
        accuracies = tuple(
            accuracy(config, steps, seed + each.adaptation) for each in seeds[: repetition + 1] for seed in each.judge
        )
        report = RungReport(
            rung=rung,
            steps=steps,
            total_steps=total,
            accuracies=accuracies,
            losses={"rec": 1.0 / steps},
            seconds={"adapt": 0.25, "classify": 0.5},
            pool_sizes=(4, 6),
            pool_fallbacks=0,
            device=device,
            peak_memory_mb=12.0,
            repetition=repetition,
            repetitions=len(seeds),
            diagnostics={"motion_range_generated_over_real": 0.25} if steps == total and not repetition else {},
            log_likelihoods=tuple(map(log_likelihood, accuracies)),
            briers=tuple(map(brier, accuracies)),
        )
        if steps == total:
            write_text(workdir / "generator.safetensors", "weights")
            rows = '[{"class": "wave", "clip": "a", "similarity": 0.9}, {"class": "kick", "clip": "b"}]'
            write_text(workdir / "artifacts" / "pools.json", rows)
            write_text(workdir / "artifacts" / "confusion.json", '{"classes": ["wave", "kick"]}')
        with (workdir / TRACE).open("a", encoding="utf-8") as trace:
            trace.write(f"{report.step} {report.dev_accuracy!r} {os.getpid()} {json.dumps(share())}\n")
        write_text(file, report.to_json())
        yield report


def run_unprepared(*_: object) -> Iterator[RungReport]:
    """Fail before the first rung is asked for: already as the worker is set up."""
    raise KeyError("nothing is prepared")


def run_killed(
    _inputs: TrialInputs, _config: TrialConfig, _seeds: Any, workdir: Path, *_: object
) -> Iterator[RungReport]:
    """Count the start, and kill this very worker."""
    with (workdir / "starts").open("a") as starts:
        starts.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


def run_elsewhere(*given: Any) -> Iterator[RungReport]:
    """Run the trial on another device than the one that was assigned."""
    for report in run_trial(*given):
        yield replace(report, device="cuda:0")


def run_mended(trial_inputs: TrialInputs, config: TrialConfig, *rest: Any) -> Iterator[RungReport]:
    """Run the trial without what makes it fail."""
    yield from run_trial(trial_inputs, with_values(config, {"loss.bank_size": 60}), *rest)


def fail(bank_size: int, rung: int, workdir: Path) -> None:
    """Fail in the way that a bank size stands for, if any."""
    if bank_size == DIVERGES:
        raise DivergedError("loss is nan")
    if bank_size == HAS_A_BUG:
        raise KeyError("a bug of the trial")
    if bank_size == FINDS_NOTHING:
        raise EmptyPoolError("the pool of class 1 is empty")
    if bank_size == RUNS_OUT and rung == 1:
        raise MemoryError("no memory for the bank")
    if bank_size == NEEDS_MORE and rung == 1:
        first = workdir / "first-share.json"
        if not first.exists():
            first.write_text(json.dumps(share()))
        if json.loads(first.read_text()) == share():
            raise MemoryError("no memory for the bank")
    if bank_size == DIES and rung == 1 and not (workdir / "died").exists():
        (workdir / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def recorded(workdir: Path) -> list[tuple[int, float]]:
    """Return a trial's own record: the steps and the accuracy of every rung that was really computed, in order."""
    lines = [line.split() for line in (workdir / TRACE).read_text().splitlines()]
    return [(int(steps), float(value)) for steps, value, *_ in lines]


def shares(workdir: Path) -> list[dict[str, float]]:
    """Return the share of the machine that each rung of a trial was computed with, in order."""
    lines = (workdir / TRACE).read_text().splitlines()
    return [json.loads(line.split(maxsplit=3)[3]) for line in lines]


def share() -> dict[str, float]:
    """Return the resources that Ray has given this process; empty where it is no worker."""
    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return {}
    return dict(ray.get_runtime_context().get_assigned_resources())
