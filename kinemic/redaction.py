"""Removing passwords and tokens from text that a person, a log, a tag or a file will hold.

What a configuration refers to by ``${NAME}`` or ``${file:PATH}`` is no secret; the value behind it is.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import quote, quote_plus

HIDDEN: Final = "***"
REFERENCE: Final = r"\$\{(?:[A-Za-z_][A-Za-z0-9_]*|file:[^}]+)\}"

# Environment variables that the libraries below us read, and print in some of their errors.
_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN", "RAY_REDIS_PASSWORD")
_LEAST_LETTERS = 6  # of a secret that is looked for as a word: a shorter one would be found inside others
_NAME = (
    r"[\w.-]{0,40}(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|private)[_-]?key|signature|\bsig|"
    "odbc_connect)"
)
_VALUE = r"""'[^']*'|"[^"]*"|\{[^}]*\}|[^\s&;,'"]+"""

_PASSWORD = re.compile(r"(://[^:/@\s]*:)(\S+)@")  # to the last @: a password may hold others, and slashes
_HTTP_USER = re.compile(r"\b(https?://)([^\s/]+)@", re.IGNORECASE)  # unlike a database's, it may be a token
_SETTING = re.compile(rf"({_NAME}\s*=\s*)({REFERENCE}|{_VALUE})", re.IGNORECASE)
_HEADER = re.compile(r"(\bbearer\s+|\bauthorization\W{1,4}basic\s+)[\w+/=.~-]+", re.IGNORECASE)
_ONLY_REFERENCES = re.compile(rf"(?:{REFERENCE})+")

_known: set[str] = set()


def remember(secret: str) -> None:
    """Take a value that this process must never show, neither as it is nor percent-encoded."""
    if len(secret) >= _LEAST_LETTERS:
        _known.update((secret, quote(secret, safe=""), quote_plus(secret)))


def without_secrets(text: str) -> str:
    """Return a text without the passwords and tokens of its URLs, connection strings, headers and known secrets.

    References stay as they are. Cleaning twice changes nothing.
    """
    known = _known | {value for name in _VARIABLES if len(value := os.environ.get(name, "")) >= _LEAST_LETTERS}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _PASSWORD.sub(lambda found: f"{found[1]}{_hidden(found[2])}@", text)
    text = _HTTP_USER.sub(lambda found: f"{found[1]}{_hidden_user(found[2])}@", text)
    text = _SETTING.sub(lambda found: f"{found[1]}{_hidden(found[2])}", text)
    return _HEADER.sub(rf"\1{HIDDEN}", text)


def _hidden(value: str) -> str:
    return value if _ONLY_REFERENCES.fullmatch(value) else HIDDEN


def _hidden_user(value: str) -> str:
    user, _, password = value.partition(":")
    return value if _ONLY_REFERENCES.fullmatch(password or user) else HIDDEN
