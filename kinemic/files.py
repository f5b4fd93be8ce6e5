"""Atomic writes: a file or folder is either the old one or the whole new one, whatever happens in between.

Who may read what is written is decided by the umask, for every file alike.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinemic.errors import ConfigError
from kinemic.faults import writing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises InfrastructureError where the machine refuses the write.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}{path.suffix}")
        mode = create(temporary)
        try:
            yield temporary
            temporary.chmod(mode)  # a writer may have put a file of its own there
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def create(path: Path) -> int:
    """Create an empty file and return its mode, as the umask and the folder's default rules would have it."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises InfrastructureError where the machine refuses."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def need_writable(folder: Path) -> None:
    """Make a folder and write to it, before hours of work go into it. Raises InfrastructureError where it can't be."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends without an error.

    Raises ConfigError where something is there already, InfrastructureError where the machine refuses the write.
    """
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: is there already and not empty; give a new folder")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as room:
            fresh = Path(room) / path.name
            fresh.mkdir()
            yield fresh
            fresh.replace(path)
