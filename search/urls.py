"""URLs of storage and tracking: a password is written as a reference, which is resolved only where it is used."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from kinemic.errors import ConfigError
from kinemic.quoting import texts
from kinemic.redaction import REFERENCE, remember, without_secrets

SQLITE = "sqlite"

_REFERENCE = re.compile(REFERENCE)
_BLANK_IN_PASSWORD = re.compile(r"://[^:/?#@\s]*:[^/?#@]*\s[^/?#@]*@")  # in other text it may be no password
_LONGEST = 100_000  # characters of a file that holds a password
_ADVICE = (
    "holds a password or token; keep it out of settings: write ${NAME} in its place, an environment variable, or "
    "${file:PATH}"
)


def refuse_secrets(data: Any, where: str, settings: Sequence[str] = ()) -> None:
    """Raise ConfigError for a URL, anywhere in a search's values or ``--set`` texts, that holds a password itself."""
    for setting in settings:
        if _holds_secret(setting):
            raise ConfigError(f"--set {setting.partition('=')[0]}: {_ADVICE}")
    for path, text in texts(data):
        if _holds_secret(text):
            raise ConfigError(f"{where}: {path} {_ADVICE}" if path else f"{where}: {_ADVICE}")


def resolve(url: str) -> str:
    """Return a URL with what its references stand for; what has none is returned as it is.

    In user, password and query a value is percent-encoded, so it may hold any character. One that is the whole URL is
    taken as it is. Raises ConfigError, one line, for a variable that is not set and a file that can't be read.
    """
    if _REFERENCE.fullmatch(url):
        whole = _value(url)
        if secret := re.search(r"://[^:/@]*:(.+)@", whole):
            remember(secret[1])
            remember(unquote(secret[1]))
        return whole
    bare = _REFERENCE.sub(lambda found: "x" * len(found[0]), url)
    user_end = bare.rfind("@", 0, _end_of_authority(bare))
    query = bare.find("?")

    def insert(found: re.Match[str]) -> str:
        value = _value(found[0])
        if found.end() <= user_end or -1 < query < found.start():
            remember(value)
            return quote(value, safe="")
        return value

    return _REFERENCE.sub(insert, url)


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file, whose path may hold any character."""
    plain = str(path.resolve())
    quoted = quote(plain, safe=" /+~,:@")
    # With its driver named, MLflow does not take the quoted path for one of the file system and make that folder.
    return f"{SQLITE if quoted == plain else f'{SQLITE}+pysqlite'}:///{quoted}"


def is_sqlite(url: str) -> bool:
    """Return whether a URL, its references resolved, is one of a SQLite file."""
    return url.startswith((f"{SQLITE}:", f"{SQLITE}+"))


def _holds_secret(text: str) -> bool:
    if "://" not in text:
        return False
    return without_secrets(text) != text or _BLANK_IN_PASSWORD.search(_REFERENCE.sub("", text)) is not None


def _value(reference: str) -> str:
    """Return what a reference stands for, without a line's end."""
    name = reference[2:-1]
    if name.startswith("file:"):
        path = Path(os.path.expanduser(name.removeprefix("file:")))
        try:
            with path.open(encoding="utf-8") as file:
                value = file.read(_LONGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{reference}: {path} can't be read as text; keep the password in it") from error
        if len(value) > _LONGEST:
            raise ConfigError(f"{reference}: {path} is too long for a password; keep the password alone in it")
        return value.rstrip("\r\n")
    if name not in os.environ:
        raise ConfigError(f"{reference}: the environment variable {name} is not set; set it where the search runs")
    return os.environ[name]


def _end_of_authority(url: str) -> int:
    start = url.find("://") + 3
    ends = [place for mark in "/?#" if (place := url.find(mark, start)) >= 0]
    return min(ends, default=len(url))
