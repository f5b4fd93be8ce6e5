"""A trial on a Ray actor: one Tune iteration is one rung. The actor is reused, so that torch is imported once."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from kinemic.config import TrialConfig, TrialSeeds
from kinemic.documents import read_result
from kinemic.errors import InfrastructureError, KinemicError
from kinemic.files import write_text
from kinemic.progress import Progress, ProgressCallback
from kinemic.reading import with_values
from kinemic.report import REPORTS, RungReport, TrialInputs
from search.failures import BUG, classify

RunTrial = Callable[
    [TrialInputs, TrialConfig, tuple[TrialSeeds, ...], Path, str, ProgressCallback], Iterator[RungReport]
]

PROGRESS_FILE = "progress.json"
_WRITE_EVERY = 0.5  # seconds between two writes of a trial's progress


@dataclass(frozen=True)
class Work:
    """All that a worker is given beside a trial's values. The test split has no field here (METHOD section 6)."""

    inputs: TrialInputs
    base: TrialConfig
    seeds: tuple[TrialSeeds, ...]
    trials_folder: Path
    run_trial: RunTrial | None = None  # None is the method's own, imported on the worker

    def function(self) -> RunTrial:
        """Return the trial function."""
        if self.run_trial is not None:
            return self.run_trial
        from kinemic.trial import run_trial

        return run_trial


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Runs trials one after another on one actor; ``work`` comes once, number, values and share with each trial."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return a trial's own share of the machine; actors are reused by trials of the same share."""
        share = config["share"]
        return tune.PlacementGroupFactory([{"CPU": share["cpus"], "GPU": share["gpus"]}])

    def setup(self, config: dict[str, Any], work: Work) -> None:
        """Take the worker's share of the machine, then the first trial."""
        self._work = work
        self._rungs: Iterator[RungReport] = iter(())
        self._device = assigned_device()
        self._run_trial = work.function()
        limit_threads()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial on this actor."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run to the next rung; a failure that is foreseen is a result, anything else is a bug that Ray reports."""
        try:
            report = next(self._rungs)
        except (KinemicError, MemoryError, RuntimeError, OSError) as error:
            failure = classify(error)
            if failure.kind == BUG:
                raise
            # Not "done": Tune would end the trial without asking the scheduler, and the study would not hear of it.
            return {"failure_kind": failure.kind, "failure_message": failure.message}
        if self._replayed:  # made in an earlier sitting, maybe on another device
            self._replayed -= 1
        else:
            assert same_device(report.device, self._device), f"ran on {report.device}, not on {self._device}"
        return {"report": report.to_json(), "dev_accuracy": report.dev_accuracy}

    def cleanup(self) -> None:
        """Let go of the trial."""
        self._rungs = iter(())

    def _begin(self, config: dict[str, Any]) -> None:
        self._rungs = iter(())
        release_memory()
        workdir = self._work.trials_folder / f"{config['number']:04d}"  # made by its first write, which may be refused
        self._replayed = len(list(workdir.glob(REPORTS)))
        trial = with_values(self._work.base, config["values"])
        progress = ProgressFile(workdir / PROGRESS_FILE)
        self._rungs = self._run_trial(self._work.inputs, trial, self._work.seeds, workdir, self._device, progress)


class ProgressFile:
    """A progress callback that keeps the last report in a file, from which the terminal's table reads it."""

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._stage = path, 0.0, ""

    def __call__(self, progress: Progress) -> None:
        """Write a report, at most twice a second, and always the first and last of a stage."""
        now = time.monotonic()
        same = progress.stage == self._stage and progress.done < progress.total
        if same and now - self._last < _WRITE_EVERY:
            return
        self._last, self._stage = now, progress.stage
        # A worker whose driver was killed may for a moment write beside the one that goes on with its trial.
        with suppress(InfrastructureError):  # a trial does not stop for what is only shown
            write_text(
                self._path, json.dumps({"stage": progress.stage, "done": progress.done, "total": progress.total})
            )


def read_progress(workdir: Path) -> Progress | None:
    """Return the last progress of a trial, None where there is none."""
    try:
        return read_result((workdir / PROGRESS_FILE).read_bytes(), Progress)
    except (OSError, ValueError):
        return None


def assigned_device() -> str:
    """Return the device that Ray gave this worker, ``cpu`` or ``cuda:0`` (Ray hides the other GPUs)."""
    gpus = ray.get_gpu_ids()
    if not gpus:
        return "cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    assert visible == ",".join(map(str, gpus)), f"Ray assigned GPU {gpus}, but this worker sees {visible!r}"
    return "cuda:0"


def same_device(one: str, other: str) -> bool:
    """Return whether two names are one device; ``cuda`` is ``cuda:0``."""
    return one.removesuffix(":0") == other.removesuffix(":0")


def limit_threads() -> None:
    """Keep this worker to the CPU cores that it was given, so that trials side by side don't slow each other down."""
    cores = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    os.environ["OMP_NUM_THREADS"] = str(cores)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(cores)


def release_memory() -> None:
    """Give the last trial's memory back before the next one starts on this actor."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
