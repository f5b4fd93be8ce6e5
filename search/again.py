"""Running configurations again on fresh seeds, as parallel Ray tasks; what is on disk is not run again."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from kinemic.config import TrialConfig, TrialSeeds
from kinemic.errors import KinemicError
from kinemic.report import RungReport
from kinemic.seeding import derive_seed
from search.baselines import Contender
from search.failures import BUG, INFRASTRUCTURE, MOST_LOSSES, OUT_OF_MEMORY, WORKER_LOST, Failure, classify
from search.messages import first_line
from search.patience import Pauses
from search.shares import Share
from search.trainable import PROGRESS_FILE, ProgressFile, Work, assigned_device, limit_threads, release_memory

Result = RungReport | Failure
_LOOK_AGAIN_S = 0.1  # while all pause


@dataclass(frozen=True)
class Run:
    """One configuration on one repetition's seeds, in a folder of its own."""

    config: TrialConfig
    seeds: TrialSeeds
    workdir: Path


def fresh_seeds(seed: int, purpose: str, repetition: int, judges: int) -> TrialSeeds:
    """Return the seeds of one repetition: the same for every row of a table, none of them used by a trial."""

    def fresh(*names: str | int) -> int:
        return derive_seed(seed, purpose, repetition, *names) % 2**31

    judge = tuple(fresh("judge", i) for i in range(judges))
    return TrialSeeds(adaptation=fresh("adaptation"), generation=fresh("generation"), judge=judge)


def plan(found: Sequence[Contender], seeds: Sequence[TrialSeeds], folder: Path) -> dict[str, list[Run]]:
    """Return the runs of every row: one a repetition, in folders ``KEY-REPETITION-HASH`` named by what is run.

    A search that goes on may find another best trial. Rows of the same configuration share their runs.
    """
    names: dict[TrialConfig, str] = {}
    for contender in found:
        names.setdefault(contender.config, contender.key)
    return {c.key: [_run(c.config, s, folder, f"{names[c.config]}-{k}") for k, s in enumerate(seeds)] for c in found}


def run_all(
    rows: Mapping[str, list[Run]],
    work: Work,
    share: Share,
    changed: Callable[[int, int], None] = lambda done, total: None,
    *,
    patience: float = 0.0,
) -> dict[str, list[Result]]:
    """Run every row's runs, repetition by repetition; a run that fails is a Failure in its place.

    Those that ran out of memory are tried once more with the larger share, if any. Interrupted, it ends the tasks that
    still run: a later call goes on in their folders. Raises OutOfPatienceError for a fault of the machine that lasts
    longer than ``patience`` seconds.
    """
    pauses = Pauses(patience)
    jobs = list(dict.fromkeys(run for repetition in zip(*rows.values(), strict=True) for run in repetition))
    shared = ray.put(work)
    done = _run_side_by_side(jobs, shared, share, pauses, lambda count: changed(count, len(jobs)))
    short = [run for run in jobs if _is(OUT_OF_MEMORY, done[run])]
    if share.larger and short:
        ended = len(jobs) - len(short)
        larger = share.larger
        done |= _run_side_by_side(short, shared, larger, pauses, lambda count: changed(ended + count, len(jobs)))
    return {key: [done[run] for run in runs] for key, runs in rows.items()}


def failure_lines(results: Sequence[Result]) -> tuple[str, ...]:
    """Return what went wrong in runs that failed, one line each."""
    return tuple(f"{r.kind}: {r.message}" for r in results if isinstance(r, Failure))


def _run(config: TrialConfig, seeds: TrialSeeds, folder: Path, name: str) -> Run:
    text = config.model_dump_json() + seeds.model_dump_json()
    return Run(config, seeds, folder / f"{name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}")


def _run_side_by_side(
    jobs: Sequence[Run], shared: Any, share: Share, pauses: Pauses, changed: Callable[[int], None]
) -> dict[Run, Result]:
    # Ray's own retries would start a run that Ray kills for memory again and again: it does not count those.
    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(_run_one)
    waiting, losses = deque(jobs), Counter[Run]()
    done: dict[Run, Result] = {}
    running: dict[Any, Run] = {}
    changed(0)
    try:
        while len(done) < len(jobs):
            while waiting and len(running) < share.max_concurrent and not pauses.on:
                run = waiting.popleft()
                running[task.remote(shared, run)] = run
            if not running:
                time.sleep(_LOOK_AGAIN_S)
                continue
            for ref in ray.wait(list(running), num_returns=1, timeout=1.0)[0]:
                run, result = running.pop(ref), _result(ref)
                if isinstance(result, Failure) and result.kind == INFRASTRUCTURE:
                    waiting.append(run)
                    pauses.begin(run, f"{run.workdir.name}: {result.message}")
                elif _is(WORKER_LOST, result) and losses[run] < MOST_LOSSES:
                    losses[run] += 1
                    waiting.appendleft(run)
                else:
                    done[run] = result
            changed(len(done))
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
    return done


def _run_one(work: Work, run: Run) -> Result:
    device, run_trial = assigned_device(), work.function()
    limit_threads()
    progress = ProgressFile(run.workdir / PROGRESS_FILE)
    try:
        run.workdir.mkdir(parents=True, exist_ok=True)
        reports = list(run_trial(work.inputs, run.config, (run.seeds,), run.workdir, device, progress))
    except (KinemicError, MemoryError, RuntimeError, OSError) as error:
        return classify(error)
    release_memory()
    return reports[-1] if reports else Failure(BUG, "the trial yielded no report")


def _is(kind: str, result: Result) -> bool:
    return isinstance(result, Failure) and result.kind == kind


def _result(ref: Any) -> Result:
    try:
        result: Result = ray.get(ref)
    except (WorkerCrashedError, NodeDiedError) as error:
        return Failure(WORKER_LOST, first_line(error))
    except OutOfMemoryError as error:  # Ray has killed it
        return Failure(OUT_OF_MEMORY, first_line(error))
    except RayError as error:  # Ray's text ends with the error itself
        return Failure(BUG, str(error).strip().splitlines()[-1])
    return result
