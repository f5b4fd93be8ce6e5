"""A queue of tracking calls that one thread delivers in order, so that a server that is away delays no trial."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable

import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException

from kinemic.faults import refusal
from search.messages import first_line

logger = logging.getLogger(__name__)

# What a tracking call may end in: the server's answer, the connection, a database's lock, a file's.
DELIVERY_ERRORS = (MlflowException, requests.exceptions.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError)
_RETRY_AFTER = 2.0  # seconds before a failed delivery is tried again
_SET_ASIDE_AFTER = 60.0  # seconds that a call may hold up the others while the server is well
_LATER = (408, 425, 429)  # below 500, and all the same no refusal: too slow, too early, too many


class Outbox:
    """Delivers calls in order; a call that fails because the server is away is tried until it succeeds.

    A call that can't succeed, refused by the server or failed on this side, is dropped and counted in ``refused``. One
    that fails for so long, ``set_aside_after`` seconds, while the server takes another, ``proof``, lets those behind it
    pass; it is tried once more at the end.
    """

    def __init__(
        self,
        retry_after: float = _RETRY_AFTER,
        proof: Callable[[], None] | None = None,
        set_aside_after: float = _SET_ASIDE_AFTER,
    ) -> None:
        self._retry_after, self._proof, self._set_aside_after = retry_after, proof, set_aside_after
        self._aside: list[Callable[[], None]] = []
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._stop = threading.Event()
        self.refused: list[str] = []
        self.late = 0  # deliveries that had to be tried again
        self.reason = ""  # why the last of them did not arrive
        self._thread = threading.Thread(target=self._deliver_all, name="tracking", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], None]) -> None:
        """Queue a call."""
        self._calls.put(call)

    def close(self, patience: float) -> bool:
        """Wait at most ``patience`` seconds until everything is delivered; returns whether it is."""
        self._calls.put(None)
        self._thread.join(patience)
        self._stop.set()
        return not self._thread.is_alive() and self._calls.empty()

    def _deliver_all(self) -> None:
        while (call := self._calls.get()) is not None:
            began = time.monotonic()
            while not self._delivered(call) and not self._stop.is_set():
                self.late += 1
                if time.monotonic() - began >= self._set_aside_after and self._server_is_well():
                    self._aside.append(call)
                    break
                time.sleep(self._retry_after)
        for call in self._aside:
            if not self._delivered(call):
                self.refused.append(f"{self.reason} (tried for {self._set_aside_after:g} s and at the end)")

    def _server_is_well(self) -> bool:
        if self._proof is None:
            return False
        try:
            self._proof()
        except Exception:  # of whatever kind: the server does not take what it took before
            return False
        return True

    def _delivered(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # whatever a store's plug-in raises: this thread has the other calls to deliver
            if is_away(error):
                self.reason = first_line(error)
                return False
            logger.warning("tracking refused a call: %s", first_line(error))
            self.refused.append(first_line(error))
        return True


def is_away(error: Exception) -> bool:
    """Return whether an error means that the tracking server can't be reached now, not that the call is wrong."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _LATER
    if isinstance(error, OSError) and refusal(error) is not None:  # the disk of a local store is full
        return True
    away = (requests.exceptions.RequestException, sqlalchemy.exc.OperationalError, ConnectionError, TimeoutError)
    return isinstance(error, away)


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an error stands for; None where there was no answer."""
    if isinstance(error, MlflowException):
        # An answer that is no JSON, the page of a proxy, is an internal error to MLflow unless it knows the status;
        # which it was, the text alone says. Of a proxy's own JSON it keeps nothing.
        told = re.search(r"failed with error code (\d{3}) !=", error.message)
        return int(told[1]) if told else int(error.get_http_status_code())
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)
