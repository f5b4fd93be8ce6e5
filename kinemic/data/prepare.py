"""Packing a data set once: the packed folder is found again by its reader's settings and its files' sizes and times."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kinemic import motion, rotations, skeleton
from kinemic.config import CorpusReader, Reader
from kinemic.data.corpus import VERSION, Corpus, Role
from kinemic.data.packing import pack
from kinemic.data.raw import Raw
from kinemic.data.readers import open_raw
from kinemic.errors import DataError, FirewallError
from kinemic.progress import ProgressCallback, silent


def prepare(reader: Reader, root: Path, progress: ProgressCallback = silent, role: Role | None = None) -> Corpus:
    """Return the packed corpus of a reader, below ``root``; packed now where it isn't there yet.

    ``role`` (source or target) says what the clips are for: joint files may be either and differ in the least length,
    and a packed corpus of another role is refused. Safe with several processes at once. Raises DataError, ConfigError.
    """
    if isinstance(reader, CorpusReader):
        return open_packed(reader.path, role)
    raw = open_raw(reader, role)
    path = root / f"{reader.format}-{identity(reader, raw)}"
    if not path.exists():
        pack(
            path,
            raw.clips(progress),
            raw.classes,
            raw.class_captions,
            raw.role,
            raw.statistics(),
            raw.notes,
            keep_existing=True,
        )
    return Corpus.open(path)


def open_packed(path: Path, role: Role | None = None) -> Corpus:
    """Open a packed corpus as source or target. Raises FirewallError for test clips, DataError for another role."""
    corpus = Corpus.open(path)
    if corpus.role == "test":
        raise FirewallError(f"{path}: holds test clips, which only the confirmation step may open")
    if corpus.role != (role or corpus.role) or corpus.role == "trial":
        raise DataError(f"{path}: holds {corpus.role} clips, expected {role or 'source or target'} clips")
    return corpus


def identity(reader: Reader, raw: Raw) -> str:
    """Return the hash of a reader's settings, its input files (path, size, time) and the code that makes features."""
    stamps = [_stamp(file) for file in (*raw.files, *_code())]
    key = [VERSION, reader.model_dump(mode="json", exclude={"path"}), raw.role, stamps]
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()


def _code() -> list[Path]:
    readers = [Path(__file__).with_name(f"{name}.py") for name in ("raw", "convert", "joints", "ntu", "humanml3d")]
    return [*readers, *(Path(module.__file__ or "") for module in (motion, rotations, skeleton))]


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return str(file.absolute()), -1, 0  # missing: reading it will say so by name
    return str(file.absolute()), stat.st_size, stat.st_mtime_ns
