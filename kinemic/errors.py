"""The errors that a user can cause, each one line: what was expected, what came, what to do."""

from __future__ import annotations

from kinemic.redaction import without_secrets


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return an error's text as one line of at most ``most`` characters; its type if it has no text."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class KinemicError(Exception):
    """Base of every error that the CLI shows as one line; its message holds no secret."""

    exit_code = 2  # the user can mend it

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class ConfigError(KinemicError):
    """A configuration that can't be used: an unknown key, a wrong type, an impossible combination."""


class DataError(KinemicError):
    """Input data that can't be used: missing, corrupt, of the wrong shape, or not finite."""


class EmptyPoolError(DataError):
    """A class for which no source clip was mined, so that there is nothing to adapt it with."""


class FirewallError(DataError):
    """Clips that a trial must never see were given to it (METHOD section 6)."""


class CheckpointError(KinemicError):
    """A checkpoint that is damaged or does not fit; the message shows both values side by side."""


class InfrastructureError(KinemicError):
    """What the machine refuses, a write or a server: no input is at fault, and it may pass."""

    exit_code = 1


class UnwritableError(InfrastructureError):
    """A place that can't be written as things are: another user's, read-only, a file where a folder should be."""

    exit_code = 2


class DivergedError(KinemicError):
    """A loss that became NaN or infinite."""


class DataWarning(UserWarning):
    """Data that can be used, but that a person should look at."""
