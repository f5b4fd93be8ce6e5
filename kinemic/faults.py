"""What the machine refuses, told apart from what is wrong with the input: a full disk, a server that is away."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinemic.errors import InfrastructureError, UnwritableError, one_line

_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "EHOSTDOWN", "ENOTCONN", "ENOLCK"),
        *("EMFILE", "ENFILE"),
    )
    if hasattr(errno, name)
)
_PASSING_IN_SQLITE = frozenset(
    (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PROTOCOL)
)
_UNWRITABLE_IN_SQLITE = frozenset((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM))


def refusal(error: BaseException) -> str | None:
    """Return in one line what the machine refused, if an error began with that; None for any other error."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, InfrastructureError) or _code(link) in _PASSING or _sqlite_code(link) in _PASSING_IN_SQLITE:
            return " ".join(str(link).split()) or type(link).__name__
        link = link.__cause__ or link.__context__
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Give what the machine refuses in the block its one line.

    Raises InfrastructureError for what may pass, and UnwritableError where ``path`` can't be written as things are.
    """
    try:
        yield
    except InfrastructureError:
        raise
    except Exception as error:
        if _is_elsewhere(error, path):
            raise
        if refusal(error) is not None:
            raise InfrastructureError(f"{path}: cannot be written ({_reason(error)}); make room, or mend it") from error
        if _code(error) is not None or _sqlite_code(error) in _UNWRITABLE_IN_SQLITE:
            raise UnwritableError(f"{path}: cannot be written ({_reason(error)}); choose another place") from error
        raise


def _is_elsewhere(error: Exception, path: Path) -> bool:
    """Return whether an error names a file that is neither beside ``path`` nor on the way to it: one that is read."""
    name = error.filename if isinstance(error, OSError) else None
    return name is not None and not (Path(name).is_relative_to(path.parent) or path.is_relative_to(name))


def _code(error: BaseException) -> int | None:
    """Return the operating system's number of an error; safetensors has it in its text alone."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(told[1]) if told else None


def _sqlite_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _reason(error: BaseException) -> str:
    code = _code(error)
    return os.strerror(code) if code else one_line(error)
