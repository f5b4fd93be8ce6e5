"""Reaching a Ray cluster that somebody runs: its address, its token, and failures within seconds in one line each."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from urllib.parse import urlsplit

# Ray reads its authentication mode from the environment once, at import. A token that the user names means that it is
# to be used; Ray alone would keep silent about it and be refused. Only a named one: the token that Ray may have left in
# the home directory belongs to this machine and is nothing to send to another.
if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from ray.util.state.exception import RayStateApiException

from cluster.errors import ClusterError

REACH_S = 5.0  # seconds until an address that doesn't answer is given up; Ray itself would wait for minutes
TOKEN_HINT = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE with the cluster's token"


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job API at ``address``, the cluster's dashboard (``http://HEAD:8265``).

    Raises ClusterError, within seconds, where it can't be reached, is no Ray dashboard, or refuses the token.
    """
    url = _normalised(address)
    _check_reachable(url)
    # Ray lets these override an address that was given explicitly; ours has already taken them into account.
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(variable, None)
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # its notes about uploads are for Ray's developers
    with translated(url):
        return JobSubmissionClient(url)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what Ray's clients raise into a ClusterError of one line."""
    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(f"{url}: {_first_sentence(error)}; {TOKEN_HINT}") from error
    except (OSError, RayStateApiException) as error:
        raise ClusterError(f"{url}: the connection failed: {_last_line(error)}; is the cluster still up?") from error
    except RuntimeError as error:
        raise ClusterError(f"{url}: {_last_line(error)}") from error


def _normalised(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or a port that is no number
        known = False
    if not known:
        raise ClusterError(
            f"--address {address}: expected the HTTP address of the cluster's dashboard, for example http://HEAD:8265"
        )
    return url.rstrip("/")


def _check_reachable(url: str) -> None:
    """Ask for Ray's version with a timeout of our own: its client has none."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=REACH_S) as answer:
            body = answer.read(4096)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return  # it is there and wants a token; Ray's client says which is missing or wrong
        raise ClusterError(f"{url}: no Ray dashboard answers there (HTTP {error.code}); check the address") from error
    except (OSError, ValueError, HTTPException) as error:  # a name that is none, something that speaks no HTTP
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"{url}: can't be reached ({_last_line(reason)}); is the cluster up and its dashboard's port open to you?"
        ) from error
    if b"ray_version" not in body:
        raise ClusterError(f"{url}: something answers there that is no Ray dashboard; its port is 8265 by default")


def _first_sentence(error: BaseException) -> str:
    """Ray's authentication errors start with what happened and go on for a page."""
    return str(error).partition("\n")[0].partition(". Ensure")[0].rstrip(". ")


def _last_line(error: object) -> str:
    """Ray's HTTP errors carry the server's whole traceback; its last line says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].rstrip(". ") if lines else type(error).__name__
