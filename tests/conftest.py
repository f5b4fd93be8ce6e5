"""What every test shares: where golden numbers and real recordings lie, and what was not checked without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, or its default, relative to the repository."""
    return (ROOT / os.environ.get(variable, default)).resolve()


GOLDEN = shared_folder("KINEMIC_GOLDEN", "../shared/golden")
RECORDINGS = shared_folder("KINEMIC_DATA", "../shared/data")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings; the test is skipped, with its reason, where there is none."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"no real recordings: {RECORDINGS} is not a folder (set KINEMIC_DATA)")
    return RECORDINGS


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that nothing was compared with the published numbers, when that is so."""
    if not GOLDEN.is_dir():
        terminalreporter.write_line(
            f"!!! parity NOT checked: {GOLDEN} is not a folder (set KINEMIC_GOLDEN) !!!", yellow=True, bold=True
        )
