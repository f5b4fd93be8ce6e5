"""What stages of trials have made, kept by what it depends on: another trial that needs the same takes it from here.

One file a result, ``STAGE/KEY.safetensors``, written whole or not at all. So workers may write at once: of two that
make the same, the later file replaces an equal one. Caption embeddings lie beside them, one database an encoder. Which
results stay is decided by when they were last used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kinemic.errors import KinemicError

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")

GIGABYTE: Final = 10**9
DEFAULT_LIMIT_GB: Final = 20.0
STAGES: Final = "stages"  # the folder's name, in the folder of all that is prepared once
CAPTIONS: Final = f"{STAGES}/captions"  # of the same
DATABASE: Final = ".sqlite"  # how the names of caption embeddings end
VERSION: Final = 1  # of the code whose results are kept; raised where the same settings come to give other numbers
_MARK: Final = "result"
# What comes of reading a file of other content or other shapes.
_FOREIGN: Final = (KinemicError, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError)
_ABANDONED = 24 * 3600.0  # seconds after which what is half written has no writer any more


@dataclass(frozen=True)
class StageStore:
    """A folder of stage results; ``damaged`` holds a line for each that was found damaged and has to be made again."""

    folder: Path
    damaged: list[str] = field(default_factory=list, compare=False)

    def file(self, stage: str, key: str) -> Path:
        """Return where a result is, or would be."""
        return self.folder / stage / f"{key}.safetensors"

    def read(self, stage: str, key: str, back: Callable[[dict[str, Tensor], dict[str, Any]], Result]) -> Result | None:
        """Return what ``back`` makes of a result's tensors and metadata; None where there is none that is whole."""
        from kinemic import checkpoint

        def load(file: Path) -> Result:
            tensors, meta = checkpoint.load(file)
            checkpoint.require_if_there(meta, mark(stage, key), file)
            return back(tensors, meta)

        return self.use(stage, key, load)

    def use(self, stage: str, key: str, load: Callable[[Path], Result]) -> Result | None:
        """Return what ``load`` makes of a result's file; None where there is none, or it is damaged or another's."""
        from torch import OutOfMemoryError

        if not self.has(stage, key):
            return None
        file = self.file(stage, key)
        try:
            return load(file)
        except OutOfMemoryError:  # a RuntimeError too
            raise
        except _FOREIGN as error:
            if file.exists():  # else removed just now
                why = " ".join(str(error).split()).removeprefix(f"{file}: ")
                self.damaged.append(f"{stage} was damaged and is made again: {file} ({why[:120]})")
            return None

    def write(self, stage: str, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep a result. Raises InfrastructureError where the machine refuses."""
        from kinemic import checkpoint

        checkpoint.save(self.file(stage, key), tensors, {**meta, **mark(stage, key)})

    def has(self, stage: str, key: str) -> bool:
        """Say whether there is a result, and note that it is in use."""
        try:
            os.utime(self.file(stage, key))
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Usage:
    """What a store holds, or what was removed from it: files and bytes by stage."""

    files: dict[str, int]
    bytes: dict[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())


def mark(stage: str, key: str) -> dict[str, str]:
    """Return the metadata by which a result is known as what its file's name says."""
    return {_MARK: f"{stage}/{key}"}


def digest(*parts: Any) -> str:
    """Return a hash of JSON-able values, and of bytes, that names a result by what it depends on."""
    found = hashlib.blake2b(digest_size=16)
    for part in (VERSION, *parts):
        plain = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        found.update(len(plain).to_bytes(8, "little"))
        found.update(plain)
    return found.hexdigest()


def usage(folder: Path) -> Usage:
    """Return what a store's folder holds."""
    return _sum(_results(folder))


def collect(folder: Path, limit: int) -> Usage:
    """Remove what was not used for longest until at most ``limit`` bytes are left; returns what was removed.

    A trial that loses a result makes it again. What killed writers have left half written goes too, after a day.
    """
    found = _results(folder)
    excess, removed = sum(size for _, size, _ in found) - limit, []
    for path, size, used in sorted(found, key=lambda result: result[2]):
        if excess <= 0:
            break
        if _remove(path):
            excess -= size
            removed.append((path, size, used))
    _remove_abandoned(folder)
    return _sum(removed)


def _remove(path: Path) -> bool:
    if path.suffix == DATABASE:
        from kinemic.text_cache import forget  # NumPy

        return forget(path)
    path.unlink(missing_ok=True)
    return True


def _results(folder: Path) -> list[tuple[Path, int, float]]:
    """Every result with its size and when it was last used."""
    found = []
    for path in (*folder.glob("*/*.safetensors"), *folder.glob(f"*/*{DATABASE}")):
        try:
            state = path.stat()
        except FileNotFoundError:  # another process has just removed it
            continue
        found.append((path, state.st_size, state.st_mtime))
    return found


def _sum(results: list[tuple[Path, int, float]]) -> Usage:
    files: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for path, size, _ in results:
        stage = path.parent.name
        files[stage], sizes[stage] = files.get(stage, 0) + 1, sizes.get(stage, 0) + size
    return Usage(files, sizes)


def _remove_abandoned(folder: Path) -> None:
    for room in folder.glob("*/.*"):
        with suppress(OSError):  # its writer, or another process that tidies up, has just removed it
            if room.stat().st_mtime < time.time() - _ABANDONED and room.is_dir():
                shutil.rmtree(room, ignore_errors=True)
