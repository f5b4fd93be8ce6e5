"""Searches that are killed: what still runs at the end of a test is ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.config import SearchConfig
from tests.faults.killing import Search


@pytest.fixture
def searches(tmp_path: Path, empty_store: Path) -> Iterator[Callable[[SearchConfig, Path], Search]]:
    """Return a starter of searches; what still runs at the end is ended."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    started: list[Search] = []

    def begin(config: SearchConfig, runs: Path) -> Search:
        started.append(Search(config, runs))
        return started[-1]

    yield begin
    for each in started:
        each.driver.kill()
        each.driver.wait()
