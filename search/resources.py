"""Ray: one quiet local cluster, or one that runs already."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from kinemic.errors import InfrastructureError, KinemicError, one_line
from kinemic.redaction import without_secrets
from search.config import ResourcesConfig
from search.shares import Resources, Share, asked, divide

_ANSWERS_S = 5.0  # seconds for a cluster to answer
RESERVED = "KINEMIC_RESERVED"  # environment variable: CPUS,GPUS that the cluster keeps for this very process


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join a Ray cluster, or start one on this machine; one that was started here is stopped at the end.

    Raises KinemicError where no cluster answers at the address, InfrastructureError where none starts here.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    _join(address)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own handler would abort the process with a stack trace
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    # A Ray job is handed its own cluster's address in the environment.
    found = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(found, "" if address else "RAY_ADDRESS")
    local = {"include_dashboard": False} if found == "local" else {}
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.CRITICAL, **local)
    except Exception as error:  # of Ray's many kinds; a start that takes too long is a plain Exception
        if found == "local":
            raise InfrastructureError(f"Ray does not start on this machine: {_one_line(error)}") from error
        raise _unusable(found, "" if address else "RAY_ADDRESS", _one_line(error)) from error


def _check_answers(address: str, variable: str) -> None:
    """Raise KinemicError where nothing answers at HOST:PORT: Ray itself would end this very process after a minute."""
    there = re.fullmatch(r"\[?([^/\[\]]+)\]?:(\d{1,5})", address)
    if there is None:
        return
    try:
        socket.create_connection((there[1], int(there[2])), timeout=_ANSWERS_S).close()
    except (OSError, OverflowError) as error:
        raise _unusable(address, variable, _one_line(error)) from error


def _unusable(address: str, variable: str, reason: str) -> KinemicError:
    shown = f"{variable}={without_secrets(address)}" if variable else without_secrets(address)
    mend = f"unset {variable} to use this machine alone, or set it" if variable else "leave it out, or set it"
    return KinemicError(f"no Ray cluster at {shown}: {reason}; {mend} to the HOST:PORT of a cluster's head node (6379)")


def _one_line(error: BaseException) -> str:
    return without_secrets(one_line(error))[:300]


@contextmanager
def kills_as_ctrl_c() -> Iterator[None]:
    """Let a polite kill end a search as Ctrl-C does: SIGTERM of batch systems, SIGHUP of a terminal that is closed.

    A signal that is ignored, as SIGHUP is under nohup, stays so. Main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
