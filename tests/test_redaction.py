"""No password or token is in a text that people, logs, tags or files get."""

from __future__ import annotations

import pytest

from kinemic.errors import KinemicError
from kinemic.redaction import remember, without_secrets
from search.failures import Failure

CANARY = "c4nary"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:c4nary@host/db", "postgresql://me:***@host/db"),
        (
            "at postgresql+psycopg://me:c4/n@ry:c4nary@[::1]:5432/db?x=1;",
            "at postgresql+psycopg://me:***@[::1]:5432/db?x=1;",
        ),
        ("postgresql://h/db?user=me&password=c4nary&x=1", "postgresql://h/db?user=me&password=***&x=1"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dc4nary", "mssql+pyodbc:///?odbc_connect=***"),
        ("DRIVER={x};PWD={c4;nary};UID=me", "DRIVER={x};PWD=***;UID=me"),
        ("host=h password = 'c4 nary' dbname=x", "host=h password = *** dbname=x"),
        ("https://c4nary@host/x and https://c4nary:@host", "https://***@host/x and https://***@host"),
        ("https://c4nary:x-oauth-basic@host", "https://***@host"),
        ("http://h/x?api-key=c4nary&private_key=c4nary", "http://h/x?api-key=***&private_key=***"),
        ("Authorization: Bearer c4nary", "Authorization: Bearer ***"),
        ("Authorization: Basic c4nary==", "Authorization: Basic ***"),
        ("MLFLOW_TRACKING_TOKEN=c4nary kinemic", "MLFLOW_TRACKING_TOKEN=*** kinemic"),
    ],
)
def test_secrets_go_and_all_else_stays(text: str, clean: str) -> None:
    assert without_secrets(text) == clean
    assert without_secrets(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////a:b@c http://h:5000/p",
        "postgresql://me@host/db",
        "postgresql://me:${PG}@host/db?password=${file:/a b/c}",
        "https://${TOKEN}@host and https://me:${PW}@host",
        "models:/NAME@champion, version 1, in http://h:5000",
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE; --set mining.top_k=9",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_known_secrets_go_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "c4nary-of-mlflow")
    remember("c4nary of/a file")
    told = "said c4nary-of-mlflow, c4nary of/a file, c4nary%20of%2Fa%20file"
    assert without_secrets(told) == "said ***, ***, ***"


def test_every_error_and_every_failure_of_a_trial_is_clean() -> None:
    text = f"postgresql://me:{CANARY}@host/db"
    assert CANARY not in str(KinemicError(text)) + repr(KinemicError(text)) + Failure("bug", text).message
