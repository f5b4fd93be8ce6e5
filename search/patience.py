"""Waiting out faults of the machine: in pauses that grow, for as long as the search's patience lasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from kinemic.errors import KinemicError
from kinemic.faults import refusal
from kinemic.redaction import without_secrets

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LONGEST_S = 60.0  # of one pause
_FIRST = 60  # pauses like the first one make the patience


class OutOfPatienceError(KinemicError):
    """A fault of the machine that lasted longer than the search waits."""

    exit_code = 1


class Patience:
    """The pauses of one fault: they grow, and make the patience in all."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._waited = seconds, 0.0

    def pause(self, fault: str) -> float:
        """Return how long to wait now, and say so. Raises OutOfPatienceError where all has been waited."""
        left = self._seconds - self._waited
        if left <= 0:
            raise OutOfPatienceError(f"waited {self._seconds:g} s in vain: {without_secrets(fault)}")
        found = min(max(self._waited, self._seconds / _FIRST), _LONGEST_S, left)
        logger.warning("waiting, for another %.0f s at most: %s", left, without_secrets(fault))
        self._waited += found
        return found


def patiently(call: Callable[[], T], seconds: float) -> T:
    """Return what a call returns; it is made again while the machine refuses it. Raises OutOfPatienceError."""
    patience = Patience(seconds)
    while True:
        try:
            return call()
        except OutOfPatienceError:
            raise
        except Exception as error:
            fault = refusal(error)
            if fault is None:
                raise
            pause = patience.pause(fault)
        time.sleep(pause)


class Pauses:
    """Trials or runs that met a fault of the machine: nothing starts while the last of them pauses."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._until = seconds, 0.0
        self._of: dict[Hashable, Patience] = {}

    @property
    def on(self) -> bool:
        """Whether nothing may start yet."""
        return time.monotonic() < self._until

    def begin(self, key: Hashable, fault: str) -> float:
        """Pause for a trial that met a fault; returns by how much that puts off the next start, in seconds.

        Raises OutOfPatienceError for one that has met nothing else for all of the patience.
        """
        pause = self._of.setdefault(key, Patience(self._seconds)).pause(fault)
        now = time.monotonic()
        before, self._until = max(self._until, now), max(self._until, now + pause)
        return self._until - before

    def over(self, key: Hashable) -> None:
        """Take that a trial gets on: the next fault that it meets is a new one."""
        self._of.pop(key, None)
