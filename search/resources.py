"""Ray: one quiet local cluster, or one that runs already, and each trial's share of it."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from kinemic.errors import KinemicError
from search.config import ResourcesConfig

GPU_SHARE = 0.25  # of a GPU a trial: the method's models are small, and four side by side keep one busy


@dataclass(frozen=True)
class Share:
    """What one trial takes, and how many run at a time."""

    cpus: float
    gpus: float
    max_concurrent: int

    def larger(self) -> Share | None:
        """Return the share for a trial that ran out of memory, None where it had all that a trial can get.

        Twice the GPU, at most a whole one. Without GPUs a share bounds no memory: then all CPUs of the search, alone.
        """
        if not self.gpus:
            return Share(self.cpus * self.max_concurrent, 0.0, 1) if self.max_concurrent > 1 else None
        if self.gpus >= 1:
            return None
        gpus = min(1.0, 2 * self.gpus)
        return Share(self.cpus, gpus, max(1, math.floor(self.max_concurrent * self.gpus / gpus + 1e-9)))


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join a Ray cluster, or start one on this machine; one that was started here is stopped at the end.

    Raises KinemicError where no cluster answers at the address.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    # A Ray job is handed its own cluster's address in the environment.
    address = address or ("auto" if os.environ.get("RAY_ADDRESS") else "local")
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **local)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise KinemicError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let a polite kill (batch systems and shells send SIGTERM) end a search as Ctrl-C does; main thread only.

    Entered after Ray was connected, whose own handler would abort the process with a stack trace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def share(config: ResourcesConfig) -> Share:
    """Return each trial's share of the connected cluster. Raises KinemicError where not even one trial fits."""
    have = ray.cluster_resources()
    cpus_there, gpus_there = have.get("CPU", 0.0), have.get("GPU", 0.0)
    cpus = config.cpus if config.cpus is not None else 1.0
    gpus = config.gpus if config.gpus is not None else (GPU_SHARE if gpus_there else 0.0)
    if cpus > cpus_there or gpus > gpus_there:
        raise KinemicError(
            f"resources: a trial takes {cpus:g} CPUs and {gpus:g} GPUs, but Ray has {cpus_there:g} and {gpus_there:g}; "
            "lower resources.cpus or resources.gpus"
        )
    fit = math.floor(cpus_there / cpus + 1e-9)
    if gpus:
        fit = min(fit, math.floor(gpus_there / gpus + 1e-9))
    return Share(cpus, gpus, min(fit, config.max_concurrent or fit))


_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU must not see one
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a configuration stay what they were
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer output prints a banner even when it is told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the runner's: Tune's own would look like a normal end
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # a rung's report must be decided on before the next one runs
}
