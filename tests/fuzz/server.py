"""The command line in forked children of one warmed process: a run takes tens of milliseconds, and may crash or hang.

``Server`` is the side of the tests; the module itself, run, is the process that forks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 2**30  # bytes that a run may take beyond the warmed process
CPU_S, WALL_S = 10, 120  # what a run may take: on a busy machine the second passes without it having computed
# Imported by functions on use, which every child would do anew.
LAZY = (
    *("matplotlib.figure", "PIL.Image", "PIL.GifImagePlugin", "plotly.graph_objects", "plotly.io", "sklearn.ensemble"),
    *("optuna.importance", "optuna.visualization", "open_clip", "optuna.storages._rdb.alembic", "psycopg"),
    *("rich.progress", "scipy.linalg", "scipy.ndimage", "safetensors.torch", "huggingface_hub"),
)


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative: the signal that killed it), what it printed, whether it was stopped."""

    code: int
    out: str
    err: str
    hang: bool
    seconds: float


class Server:
    """The warmed process; ``run`` runs one command line in a child of it."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KINEMIC_")}
        environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONFAULTHANDLER": "", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # warm

    def run(self, arguments: Sequence[str], folder: Path) -> Ended:
        """Run ``kinemic ARGUMENTS`` in ``folder``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"arguments": list(arguments), "folder": str(folder)}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the fork server ended with exit code {self._process.wait()}"
        return line

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


# --- the process that forks ---------------------------------------------------------------------------------------


def serve() -> None:
    """Answer each line of stdin, a command line and its folder, with how a forked child ended."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    warm()
    print("warm", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(vars(run_forked(**json.loads(line)))), file=answers, flush=True)


def warm() -> None:
    """Import all that a command may import, and nothing that starts a thread of its own."""
    import torch

    from tests.fuzz import clip

    torch.set_num_threads(1)
    for package in (importlib.import_module(name) for name in ("kinemic", "search", "cluster")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)
    clip.register()
    gc.collect()
    gc.freeze()  # or each child's first collection would copy every page


def run_forked(arguments: Sequence[str], folder: str) -> Ended:
    """Run a command line in a child of its own process group, within memory and time."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            _run_and_exit(arguments, folder, out.fileno(), err.fileno())
        hang = not _ended(child)
        if hang:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # whatever it has started
        code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
    return Ended(code, *texts, hang or code in (-signal.SIGXCPU, -signal.SIGKILL), seconds)


def _ended(child: int) -> bool:
    handle = os.pidfd_open(child)
    try:
        return bool(select.select([handle], [], [], WALL_S)[0])
    finally:
        os.close(handle)


def _run_and_exit(arguments: Sequence[str], folder: str, out: int, err: int) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from kinemic import cli

        code = cli.run(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
