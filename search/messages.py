"""What a person is told of an error or an address: one line, and no password."""

from __future__ import annotations

import re


def without_passwords(text: str) -> str:
    """Return a text whose addresses ``scheme://user:password@host`` have lost their password."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error, without passwords; of one that says nothing its type."""
    return without_passwords((str(error).strip() or type(error).__name__).splitlines()[0])
