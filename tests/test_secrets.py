"""Secrets are planted in storage, tracking, token and environment, a real search runs, and nothing it leaves holds any.

The same search, in a folder whose name a shell would run, shows that its files all have the mode that the umask says.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

from kinemic import checkpoint
from kinemic.files import new_folder, write_text
from tests.bundles import random_bundle
from tests.conftest import PG_PASSWORD
from tests.test_tracking import server
from tests.toy import TOY

NASTY = 'it\'s "a" $(touch PWNED) #1 50%41 ?x={y}'
CANARY = "c4nary"
PLANTED = {"TRACKING": f"{CANARY}/of the@tracking", "MLFLOW_TRACKING_TOKEN": f"{CANARY}-of-the-token"}
SPACE = {"synthesis.guidance": {"type": "float", "low": 1.0, "high": 5.0}}
RUN_ALL = "import json, sys; from kinemic.cli import run; print([run(words) for words in json.loads(sys.argv[1])])"


@dataclass(frozen=True)
class Left:
    """Everything that a search has left where somebody may look."""

    place: Path  # of runs, bundle, and whatever nobody should have written
    runs: Path
    bundle: Path
    logs: Path  # of Ray
    store: Path  # of MLflow
    said: str
    commands: bytes  # of every process that ran meanwhile
    tracked: str  # params, tags and metrics of every run


@pytest.fixture(scope="module")
def left(postgres: str, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    place, store = tmp_path_factory.mktemp("secrets"), tmp_path_factory.mktemp("store")
    shutil.copyfile(empty_store, store / "mlflow.db")
    (store / "pass word").write_text(f"{CANARY}-of-the-storage\n")
    runs, bundle = place / NASTY, place / f"bundle {NASTY}"
    storage = postgres.replace("${PG_PASSWORD}", f"${{file:{store / 'pass word'}}}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not pytest's folder: Ray's sockets lie below it, and their paths may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="kin-", ignore_cleanup_errors=True) as logs, server(store, port) as uri:
        tracking = {"uri": uri.replace("://", "://me:${TRACKING}@")}
        trial = TOY["trial"] | {"adapt": TOY["trial"]["adapt"] | {"rungs": [1]}}
        small = {"trial": trial, "space": SPACE, "seeds": {"judge": [0]}, "contenders": {"seeds": 2, "rows": []}}
        config = TOY | small | {"name": "mine", "storage": storage, "tracking": tracking, "budget": {"trials": 1}}
        files = {"mine.yaml": config, "away.yaml": config | {"name": "away", "storage": _away("TRACKING")}}
        for name, values in files.items():
            (store / name).write_text(yaml.safe_dump(values))
        where = ["--runs", str(runs)]
        commands = [
            ["search", "run", str(store / "mine.yaml"), *where],
            *([["search", name, "mine", *where] for name in ("status", "best", "report")]),
            ["search", "export", "mine", str(bundle), *where],
            ["--debug", "search", "run", str(store / "away.yaml"), *where],
        ]
        said, seen = _watched(commands, place, {**PLANTED, "RAY_TMPDIR": logs})
        yield Left(place, runs, bundle, Path(logs), store, said, seen, _tracked(uri))


def _away(variable: str) -> str:
    return f"postgresql+psycopg://me:${{{variable}}}@127.0.0.1:1/db"


def _watched(commands: list[list[str]], place: Path, planted: dict[str, str]) -> tuple[str, bytes]:
    """Run commands in one new process; returns what it said, and the words of all processes that ran meanwhile."""
    seen = set[bytes]()
    with (place.parent / f"{place.name}.said").open("w+b") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_ALL, json.dumps(commands)],
            cwd=place,
            env={**os.environ, **planted, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=said,
            stderr=said,
            umask=0o027,
        )
        while process.poll() is None:
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(file.read_bytes())
                except OSError:  # it has just ended
                    continue
            time.sleep(0.2)
        said.seek(0)
        return said.read().decode(), b"\n".join(seen)


def _tracked(uri: str) -> str:
    client = MlflowClient(tracking_uri=uri)
    found: list[Any] = [experiment.to_proto() for experiment in client.search_experiments()]
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    found += [run.to_dictionary() for run in runs]
    found += [dict(model.tags) for model in client.search_model_versions()]
    return repr(found)


def _holding(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_the_search_ran_and_was_tracked(left: Left) -> None:
    assert left.said.splitlines()[-1] == "[0, 0, 0, 0, 0, 2]", left.said
    assert "registered models:/mine@champion" in left.said
    assert "best_dev_accuracy" in left.tracked
    assert "Traceback" in left.said  # of the search whose database is away
    assert "127.0.0.1:1" in left.said


def test_nothing_that_a_search_leaves_or_says_holds_a_secret(left: Left) -> None:
    assert _holding(left.place) == []
    assert _holding(left.logs) == []
    assert {Path(path).name for path in _holding(left.store)} == {"pass word"}
    for text in (left.said, left.tracked, left.commands.decode(errors="replace")):
        for secret in (CANARY, PG_PASSWORD):
            assert secret not in text
    assert b"mlflow" in left.commands
    kept = yaml.safe_load((left.runs / "mine" / "search.yaml").read_text())
    assert kept["storage"].count("${file:") == kept["tracking"]["uri"].count("${TRACKING}") == 1


def test_the_check_would_see_a_leak(left: Left) -> None:
    leak = left.runs / "mine" / "leak.txt"
    leak.write_text(f"x{PLANTED['TRACKING']}x")
    try:
        assert _holding(left.place) == [str(leak)]
    finally:
        leak.unlink()


def test_a_folder_of_any_name_works_and_no_shell_has_run_it(left: Left) -> None:
    assert {path.name for path in left.place.iterdir()} == {left.runs.name, left.bundle.name}
    assert (left.bundle / "generator.safetensors").exists()


def modes(*folders: Path) -> dict[int, list[str]]:
    """Return the paths of files and folders by their mode, that of a folder less the right to enter it."""
    found: dict[int, list[str]] = {}
    for path in (path for folder in folders for path in (folder, *folder.rglob("*"))):
        mode = stat.S_IMODE(path.stat().st_mode)
        found.setdefault(mode & 0o666, []).append(str(path))
    return found


def test_every_file_of_a_search_and_of_a_bundle_has_the_mode_that_the_umask_says(left: Left) -> None:
    assert modes(left.runs, left.bundle).keys() == {0o640}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_whatever_writes_a_file_the_umask_decides(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "new") as folder:
            write_text(folder / "a.txt", "text")
            checkpoint.save(folder / "a.safetensors", {"a": torch.zeros(1)}, {})
            random_bundle().save(folder / "sub" / "generator.safetensors")
    finally:
        os.umask(before)
    assert modes(tmp_path / "new").keys() == {0o666 & ~umask}
