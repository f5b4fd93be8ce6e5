"""Ray: one quiet local cluster, or one that runs already."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from kinemic.errors import KinemicError
from search.config import ResourcesConfig
from search.messages import first_line
from search.shares import Resources, Share, asked, divide

RESERVED = "KINEMIC_RESERVED"  # environment variable: CPUS,GPUS that the cluster keeps for this very process


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
        raise KinemicError(f"no Ray cluster at {address}: {first_line(error)}") from error
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
    """Return each trial's share of the connected cluster, less what is reserved for the search itself (``RESERVED``).

    Raises KinemicError where no node could hold even one trial.
    """
    there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    nodes = {key: Resources(has.get("CPU", 0.0), has.get("GPU", 0.0)) for key, has in there.items()}
    trial = asked(list(nodes.values()), config)
    here = ray.get_runtime_context().get_node_id()
    nodes[here] = nodes[here].less(_reserved())
    return divide(list(nodes.values()), trial, config.max_concurrent)


def _reserved() -> Resources:
    cpus, _, gpus = os.environ.get(RESERVED, "").partition(",")
    return Resources(float(cpus or 0), float(gpus or 0))


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
