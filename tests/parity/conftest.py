"""Golden numbers of the published code: how tests read them and how close is close enough."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Written out again because a conftest can't import another one by name.
FOLDER = (Path(__file__).resolve().parents[2] / os.environ.get("KINEMIC_GOLDEN", "../shared/golden")).resolve()


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Return the folder of golden sets; the test is skipped where there is none."""
    if not FOLDER.is_dir():
        pytest.skip(f"parity NOT checked: {FOLDER} is not a folder (set KINEMIC_GOLDEN)")
    return FOLDER


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> Callable[[str], Mapping[str, np.ndarray]]:
    """Return a reader of sets by name: ``golden("e_motion_repr")["mean"]``; a set that is missing fails the test."""
    cache: dict[str, dict[str, np.ndarray]] = {}

    def read(name: str) -> Mapping[str, np.ndarray]:
        if name not in cache:
            with np.load(golden_folder / f"{name}.npz", allow_pickle=False) as arrays:
                cache[name] = {key: arrays[key] for key in arrays.files}
        return cache[name]

    return read


@pytest.fixture(scope="session")
def golden_meta(golden_folder: Path) -> dict[str, Any]:
    """Return ``meta.json``: everything that can't be read off an array's shape."""
    meta: dict[str, Any] = json.loads((golden_folder / "meta.json").read_text())
    return meta


@pytest.fixture(scope="session")
def assert_close(golden_meta: dict[str, Any]) -> Callable[[Any, Any], None]:
    """Return a check of an array or tensor against golden numbers: same shape, within the set's own tolerance."""
    tolerance = golden_meta["tolerance"]

    def check(actual: Any, expected: Any) -> None:
        if hasattr(actual, "detach"):
            actual = actual.detach().cpu().numpy()
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape, f"shape {actual.shape}, golden {expected.shape}"
        np.testing.assert_allclose(actual, expected, atol=tolerance["atol"], rtol=tolerance["rtol"])

    return check
