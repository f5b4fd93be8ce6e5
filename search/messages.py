"""What a person is told of an error: one line, and no password."""

from __future__ import annotations

from kinemic.redaction import without_secrets


def first_line(error: BaseException) -> str:
    """Return the first line of an error, without passwords; of one that says nothing its type."""
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])
