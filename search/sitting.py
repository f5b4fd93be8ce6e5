"""A sitting at a search: its inputs, its study and its runs on the tracking server, opened and closed together."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import optuna

from kinemic.quoting import command_line
from kinemic.report import TrialInputs
from kinemic.store import GIGABYTE, collect
from search.config import SearchConfig
from search.folder import SearchFolder, State
from search.lock import sole
from search.patience import OutOfPatienceError, patiently
from search.resources import kills_as_ctrl_c
from search.space import Domain
from search.status import TrialRow
from search.tracking import Tracker, open_tracker
from search.trainable import RunTrial, Work
from search.urls import is_sqlite, resolve, sqlite_url

Made = TypeVar("Made")

_PATIENCE, _IMPATIENCE = 60.0, 5.0  # seconds to wait for the tracking server at the end, and after Ctrl-C


class Watch(Protocol):
    """What wants to know how a search goes on; the terminal's live table is one."""

    def searching(self, folder: SearchFolder, budget: int, rows: list[TrialRow]) -> None:
        """Called when a trial starts, reports or ends."""
        ...

    def contending(self, done: int, total: int) -> None:
        """Called when runs of contenders end."""
        ...


class Unwatched:
    """Watches nothing."""

    def searching(self, folder: SearchFolder, budget: int, rows: list[TrialRow]) -> None:
        """Do nothing."""

    def contending(self, done: int, total: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Opened:
    """A search that is ready to go on: checked, prepared, its study open."""

    config: SearchConfig
    folder: SearchFolder
    study: optuna.Study
    space: Mapping[str, Domain]
    state: State


@dataclass(frozen=True)
class Sitting:
    """What one sitting at a search works with."""

    opened: Opened
    work: Work
    tracker: Tracker
    watch: Watch


@dataclass(frozen=True)
class Sat(Generic[Made]):
    """What a sitting made, and what became of its tracking."""

    made: Made
    tracked: bool  # whether everything reached the tracking server
    refused: list[str]  # tracking calls that the server refused


def sit(
    opened: Opened,
    runs: Path,
    body: Callable[[Sitting], Made],
    kept: Callable[[], str],
    command: str,
    *,
    run_trial: RunTrial | None = None,
    watch: Watch | None = None,
    refused: str = "FAILED",
) -> Sat[Made]:
    """Do something with a search, its runs on the tracking server open and closed again whatever happens.

    Interrupted, it raises KeyboardInterrupt with a line that says what is ``kept`` and the ``command`` that goes on.
    ``refused`` is the state that the search's own run is left in by an error. Where the machine refuses what the body
    does, it is done again, as after a kill. Raises OutOfPatienceError where that lasts too long, and KinemicError where
    another process sits at the search.
    """
    with sole(opened.folder.path), kills_as_ctrl_c():
        return _sit(opened, runs, body, kept, command, run_trial, watch or Unwatched(), refused)


def _sit(
    opened: Opened,
    runs: Path,
    body: Callable[[Sitting], Made],
    kept: Callable[[], str],
    command: str,
    run_trial: RunTrial | None,
    watch: Watch,
    refused: str,
) -> Sat[Made]:
    config, state = opened.config, opened.state
    work = Work(state.inputs, config.trial, config.seeds, opened.folder.trials, run_trial)
    uri, artifacts = tracking_uri(config, runs), artifacts_folder(config, runs)
    names = config.tracking.experiment, state.identity, config.name
    tracker = patiently(lambda: open_tracker(uri, *names, artifacts), config.patience)
    made, status, patience = list[Made](), refused, _PATIENCE
    try:
        sitting = Sitting(opened, work, tracker, watch)
        made.append(patiently(lambda: body(sitting), config.patience))
        status = "FINISHED"
    except OutOfPatienceError as stop:
        status = "KILLED"
        raise OutOfPatienceError(f"{stop}; nothing is lost, go on with `{command}`") from stop
    except KeyboardInterrupt:
        status, patience = "KILLED", _IMPATIENCE
    finally:
        delivered = tracker.close(status, patience)
        tidy(config, state.inputs)
    if not made:
        # Raised out here, where the interruption's frames are gone: they would keep Tune's actors alive.
        gc.collect()
        raise KeyboardInterrupt(f"{kept()}; go on with `{command}`")
    return Sat(made[0], delivered, tracker.refused)


def tidy(config: SearchConfig, inputs: TrialInputs) -> None:
    """Keep the shared stages within the search's limit, as far as that is possible: no search ends over it.

    A trial that misses one makes it again.
    """
    if inputs.stages is None:
        return
    with suppress(OSError):  # files of another user, say; `kinemic search gc` shows what it can't remove
        collect(inputs.stages, int(config.stages.limit_gb * GIGABYTE))


def tracking_uri(config: SearchConfig, runs: Path) -> str:
    """Return the tracking store's address, references as they are."""
    return config.tracking.uri or sqlite_url(runs / "mlflow.db")


def artifacts_folder(config: SearchConfig, runs: Path) -> Path | None:
    """Return where a local tracking store keeps artifacts; None where the server decides."""
    return runs / "mlflow-artifacts" if is_sqlite(resolve(tracking_uri(config, runs))) else None


def search_command(command: str, runs: Path, *words: object) -> str:
    """Return the line that runs a command of ``kinemic search`` on the searches in ``runs``."""
    known = runs == Path("runs") or os.environ.get("KINEMIC_RUNS") == str(runs)
    return command_line("kinemic", "search", command, *words, *(() if known else ("--runs", runs)))
