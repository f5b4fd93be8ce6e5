"""One sitting at a search at a time: a lock of the operating system on a file in its folder.

It ends with the process that holds it, however that ends. It holds between the processes of one machine; between
machines as far as the folder's file system carries ``flock``: NFS 4 does, Lustre only where it is mounted with it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kinemic.documents import parse_json
from kinemic.errors import KinemicError
from kinemic.faults import writing
from kinemic.files import write_text

LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Hold the folder of a search, made where it is not there, while the block lasts.

    Raises KinemicError where another holds it, whom it names, and where it can't be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout as error:
        raise KinemicError(
            f"search {folder.name!r} is being run by {_holder(folder)}; wait for its end, or stop it"
        ) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(folder / HOLDER, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        data = parse_json((folder / HOLDER).read_bytes())
        return f"process {data['pid']} on {data['host']} since {data['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock, and has not said so yet
        return "another process"
