"""A disk that is full, as the kernel tells it: by the limit on a file's size, which needs no rights and no mount."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_disk(limit: int = 4096, seconds: float | None = None) -> Iterator[None]:
    """Let the kernel refuse what goes beyond so many bytes a file, as a quota does; only so long, where that is given.

    It holds for this process and those that it starts.
    """
    before, (soft, hard) = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    later = threading.Timer(seconds or 0.0, make_room)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    if seconds:
        later.start()
    try:
        yield
    finally:
        later.cancel()
        make_room()
        signal.signal(signal.SIGXFSZ, before)
