"""The MLflow server: whether one answers, how to open the page of a local store, and serving it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from kinemic.errors import KinemicError
from kinemic.quoting import command_line
from kinemic.redaction import without_secrets
from search.config import SearchConfig
from search.messages import first_line
from search.sitting import search_command
from search.tracking import opened
from search.urls import is_sqlite, resolve, sqlite_url
from search.view import runs_link

_SEARCH = "/api/2.0/mlflow/experiments/search"


def check_reachable(uri: str) -> None:
    """Ask a tracking store for an experiment, within seconds, before anything is prepared; writes nothing.

    Raises KinemicError for a server that doesn't answer or that answers as no MLflow does, for a database that can't be
    read, and for a kind of URI that can't be a tracking store.
    """
    shown, uri = without_secrets(uri), resolve(uri)
    if not uri.startswith(("http://", "https://")):
        if "://" not in uri or uri.startswith("file:"):
            raise KinemicError(f"tracking.uri {shown}: expected http(s)://HOST:PORT or sqlite:///PATH, not a folder")
        database = Path(sqlalchemy.make_url(uri).database or "") if is_sqlite(uri) else None
        if database is None or database.exists():  # else it is made when the search starts
            with opened(uri) as client:
                client.search_experiments(max_results=1)
        return
    try:
        # Asked as MLflow's client asks, with its certificates and its credentials, but once and for seconds only.
        creds = get_default_host_creds(uri)
        settings = {"max_retries": 0, "timeout": 5, "retry_codes": (), "raise_on_status": False}
        answer = http_request(creds, _SEARCH, "POST", json={"max_results": 1}, **settings)
    except (MlflowException, ImportError, ValueError) as error:
        raise KinemicError(
            f"MLflow at {shown} cannot be reached ({first_line(_cause(error))}); start it, or leave tracking.uri out "
            "for a local file"
        ) from error
    if answer.status_code >= 500:
        raise KinemicError(f"MLflow at {shown} answers with error {answer.status_code}; is it still starting?")
    if answer.status_code in (401, 403):
        raise KinemicError(
            f"MLflow at {shown} refuses with status {answer.status_code}; give a user that may write there: "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status_code != 200 or not _is_mlflows(answer):
        raise KinemicError(
            f"MLflow at {shown}: what answers there with status {answer.status_code} is no MLflow server; is it a "
            "proxy or a login page? Check tracking.uri"
        )


def _is_mlflows(answer: requests.Response) -> bool:
    try:
        return isinstance(answer.json(), dict)
    except ValueError:
        return False


def page_of(config: SearchConfig, runs: Path) -> str:
    """Return how the MLflow page of a search is opened: the server's address, or the command that serves the store."""
    uri = config.tracking.uri
    if uri is None:
        return search_command("ui", runs)
    if resolve(uri).startswith("http"):
        return without_secrets(resolve(uri))
    return command_line("kinemic", "search", "ui", "--store", uri)


def server_words(artifacts: Path | None, port: int) -> list[str]:
    """Return the command, word by word, that serves the store which ``MLFLOW_BACKEND_STORE_URI`` names."""
    place = ["--default-artifact-root", artifacts.resolve().as_uri()] if artifacts else []
    return [_mlflow(), "server", *place, "--port", str(port)]


def server_environment(uri: str) -> dict[str, str]:
    """Return the environment of that command; everybody can read a command's words, so a password is none of them."""
    # Job execution is for MLflow's GenAI features; without it the server takes 0.5 GB instead of 2.3.
    changed = {"MLFLOW_BACKEND_STORE_URI": resolve(uri), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {**os.environ, **changed}


def serve(runs: Path, port: int, announce: Callable[[str], None], store: str | None = None) -> None:
    """Run the MLflow server of a store, by default the one in ``runs``, until it is interrupted.

    Before, ``announce`` is given the address of each experiment's runs. Raises KinemicError for a port that is taken, a
    folder without searches, and a server that ends by itself.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise KinemicError(f"port {port} can't be used ({error.strerror}); choose another with --port") from error
    database = runs / "mlflow.db"
    if store is None and not database.exists():
        raise KinemicError(f"{database}: no tracking store; run a search first, or give its folder with --runs")
    uri, artifacts = (store, None) if store else (sqlite_url(database), runs / "mlflow-artifacts")
    # By id: from its list of experiments MLflow's page leads to its other half, which shows no runs.
    with opened(uri) as client:
        for experiment in client.search_experiments(filter_string="name != 'Default'"):
            announce(f"{experiment.name}: http://127.0.0.1:{port}/{runs_link(experiment.experiment_id)}")
    code = subprocess.run(server_words(artifacts, port), env=server_environment(uri), check=False).returncode
    if code:
        raise KinemicError(f"the MLflow server ended with exit code {code}; its own lines above say why")


def _cause(error: BaseException) -> BaseException:
    """Return what an error began with: the connection's own, that three libraries have wrapped."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _mlflow() -> str:
    """Return how to call mlflow: the one beside this Python, for a user who has not activated the environment."""
    beside = Path(sys.executable).with_name("mlflow")
    return str(beside) if beside.exists() else "mlflow"
