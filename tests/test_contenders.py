"""Contenders run again: what lies on disk is used again by the same configuration alone."""

from __future__ import annotations

from pathlib import Path

from kinemic.config import TrialConfig, with_values
from search import contenders


def test_another_best_trial_has_another_folder() -> None:
    first, later = TrialConfig(), with_values(TrialConfig(), {"synthesis.guidance": 3.0})
    folders = [contenders.run_folder(Path("x"), "best", 0, config) for config in (first, later, TrialConfig())]
    assert folders[0] != folders[1]
    assert folders[0] == folders[2]
    assert all(folder.match("x/best-0-*") for folder in folders)
