"""Caption embeddings on disk: one SQLite file per encoder, shared by processes, each caption embedded once."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.digests import SIZE, digest_bytes
from kinemic.errors import DataError, DataWarning
from kinemic.faults import writing
from kinemic.store import DATABASE

if TYPE_CHECKING:
    from kinemic.text import TextEncoder

WAIT_S = 120.0  # for another process that is writing
_CHUNK = 500  # captions a query; SQLite allows 999 variables in old versions
_BLOCK = 4096  # captions embedded between two writes, so that an interruption loses little


@dataclass(frozen=True)
class CachedEncoder:
    """An encoder that embeds only captions which its cache folder does not hold, and repeated ones once."""

    encoder: TextEncoder
    folder: Path

    @property
    def id(self) -> str:
        """The inner encoder's id."""
        return self.encoder.id

    @property
    def dim(self) -> int:
        """The inner encoder's width E."""
        return self.encoder.dim

    @property
    def file(self) -> Path:
        """The cache file; the hash keeps ids apart that differ only in characters no file name has."""
        safe = re.sub("[^A-Za-z0-9._-]", "_", self.id)
        return self.folder / f"{safe}-{hashlib.blake2b(self.id.encode(), digest_size=4).hexdigest()}{DATABASE}"

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per caption, (n, E). Raises DataError for a damaged cache, InfrastructureError."""
        distinct = list(dict.fromkeys(captions))
        with self._database() as database:
            known = dict(self._read(database, distinct))
            missing = [caption for caption in distinct if caption not in known]
            for start in range(0, len(missing), _BLOCK):
                block = missing[start : start + _BLOCK]
                rows = self.encoder.encode(block)
                known |= zip(block, rows, strict=True)
                with database:
                    values = [(c, _packed(c, np.ascontiguousarray(r, "<f4"))) for c, r in zip(block, rows, strict=True)]
                    database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", values)
        if not captions:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([known[caption] for caption in captions])

    def limited(self, tokens: int | None, whole: TextEncoder | None = None) -> TextEncoder:
        """Return the encoder that cuts captions, with a cache file of its own; the others come from this one's."""
        inner = self.encoder.limited(tokens, whole or self)
        return self if inner is self.encoder else CachedEncoder(inner, self.folder)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            with writing(self.file):
                self.folder.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(self.file, timeout=WAIT_S)) as database:
                    database.execute(
                        "CREATE TABLE IF NOT EXISTS embeddings (caption TEXT PRIMARY KEY, vector BLOB NOT NULL)"
                    )
                    with suppress(OSError):  # of another user: it may be read all the same
                        os.utime(self.file)  # what is in use is forgotten last
                    yield database
        except sqlite3.Error as error:
            raise DataError(
                f"{self.file}: caption cache can't be used ({error}); delete it or give another place"
            ) from error

    def _read(self, database: sqlite3.Connection, captions: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        damaged = 0
        for start in range(0, len(captions), _CHUNK):
            chunk = captions[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            for caption, packed in database.execute(f"SELECT * FROM embeddings WHERE caption IN ({marks})", chunk):
                row = np.frombuffer(packed[:-SIZE] if isinstance(packed, bytes) else b"", dtype=np.uint8)
                if packed != _packed(caption, row):
                    damaged += 1
                    continue
                if row.nbytes != 4 * self.dim:
                    raise DataError(
                        f"{self.file}: holds rows of {row.nbytes // 4} numbers, {self.id} has {self.dim}; delete it"
                    )
                yield caption, row.view("<f4")
        if damaged:
            warnings.warn(
                f"{self.file}: {damaged} embeddings are damaged or of an earlier version; they are made again",
                DataWarning,
                stacklevel=2,
            )


def _packed(caption: str, row: NDArray[Any]) -> bytes:
    """A row as it is stored: its bytes, and the digest of caption and bytes."""
    return row.tobytes() + digest_bytes(caption, row)


def forget(file: Path) -> bool:
    """Empty a cache's database; returns whether it held anything and was emptied: one in use or damaged stays.

    The file itself stays too: processes may have it open, and would share a journal with a new one of its name.
    """
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=0)) as database:
            with database:
                held = database.execute("DELETE FROM embeddings").rowcount > 0
            if held:
                database.execute("VACUUM")
    except sqlite3.Error:
        return False
    return held
