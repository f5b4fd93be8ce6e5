"""Trying a case: a copy of its example, its command in a child, and what is wrong with how that ended."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.damage import damaged
from tests.fuzz.kinds import Case
from tests.fuzz.server import Ended, Server
from tests.fuzz.signing import sign

# What a command makes, and what one may leave that is refused: inputs are prepared once and kept.
MADE, KEPT = ("out", "out.html", "runs"), ("runs/cache",)
FOLDER = (0, 0, 0)
Tree = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Tried:
    """How a case ended, and what is wrong with that; ``where`` tells faults apart that come of the same lines."""

    ended: Ended
    fault: str = ""
    where: str = ""


def attempt(case: Case, examples: Path, server: Server) -> Tried:
    """Run a case in a copy of its example."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "room" / "inner" / "work"  # names with ../ in them stay in sight
        _lay(case, examples, folder)
        before = _tree(Path(place))
        ended = server.run(case.command, folder)
        fault = _fault(case, ended) or _written(ended, before, _tree(Path(place)), folder.relative_to(place).as_posix())
        if not fault:
            return Tried(ended)
        where = _where(server.run(("--debug", *case.command), folder)) if "unexpected" in fault else ""
        return Tried(ended, fault, where or fault)


def _lay(case: Case, examples: Path, folder: Path) -> None:
    shutil.copytree(examples / case.example, folder, copy_function=_link)
    for name, damage in case.damage:
        file = folder / name
        data = file.read_bytes() if file.exists() else b"{}"
        file.unlink(missing_ok=True)
        file.write_bytes(damaged(data, [damage]))
    if case.signed:
        sign(folder)


def _link(source: str, target: str) -> None:
    if source.endswith(".db"):  # written in place
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


def _tree(folder: Path) -> Tree:
    """Every file and folder below with what changes where it is written."""
    found: Tree = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        whole = (status.st_ino, status.st_size, status.st_mtime_ns) if not path.is_dir() else FOLDER
        found[path.relative_to(folder).as_posix()] = whole
    return found


def _fault(case: Case, ended: Ended) -> str:
    if ended.hang:
        return f"hang, stopped after {ended.seconds:.0f} s"
    text = ended.out + ended.err
    last = (ended.err.strip().splitlines() or [""])[-1]
    if "Traceback" in text or "(unexpected;" in text:
        return last
    checked = ended.code == 1 and case.command[:2] == ("data", "check") and re.search(r"\berror\b", ended.out)
    if ended.code not in (0, 2) and not checked:
        return f"exit code {ended.code}: {last}"
    if ended.code == 2 and len(last) > 2000:
        return f"a line of {len(last)} characters: {last[:200]}"
    return ""


def _written(ended: Ended, before: Tree, after: Tree, folder: str) -> str:
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    allowed = MADE if ended.code == 0 else KEPT
    other = sorted(name for name in changed if not _below(name, folder, allowed))
    # The folder that all goes into is made first; where nothing does, it is no harm.
    other = [name for name in other if not (_below(name, folder, MADE) and after.get(name) == FOLDER)]
    return f"exit code {ended.code} and {len(other)} files changed, first {other[0]}" if other else ""


def _below(name: str, folder: str, places: tuple[str, ...]) -> bool:
    return any(name == f"{folder}/{place}" or name.startswith(f"{folder}/{place}/") for place in places)


def _where(ended: Ended) -> str:
    """The error's type and the innermost line of ours in a traceback."""
    frames = re.findall(r'File ".*?/((?:kinemic|search|cluster)/\S+\.py)", line \d+, in (\S+)', ended.err)
    kind = re.search(r"^error: (\w+)", ended.err, re.MULTILINE)
    return f"{kind and kind[1]} in {' '.join(frames[-1]) if frames else '?'}"
