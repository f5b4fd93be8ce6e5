"""Rows that are run again: what their configurations are, and that what lies on disk is used by the same alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinemic.config import TrialConfig, TrialSeeds
from kinemic.reading import leaf_paths, with_values
from search.again import fresh_seeds, plan
from search.baselines import Contender, baselines
from search.contenders import ContenderRow, ContenderTable
from search.space import PUBLISHED_SOURCE_CLIPS, getattr_path, resolve_space
from tests.bench import search

FIRST, LATER = TrialConfig(), with_values(TrialConfig(), {"synthesis.guidance": 3.0})


def folder_of(config: TrialConfig, seeds: TrialSeeds) -> Path:
    (run,) = plan([Contender("best", "best trial", config)], [seeds], Path("x"))["best"]
    return run.workdir


def test_another_best_trial_and_other_seeds_have_another_folder() -> None:
    seeds, others = fresh_seeds(0, "contender", 0, judges=2), fresh_seeds(0, "contender", 0, judges=3)
    folders = [folder_of(FIRST, seeds), folder_of(LATER, seeds), folder_of(FIRST, others)]
    assert len(set(folders)) == 3
    assert folder_of(TrialConfig(), seeds) == folders[0]
    assert all(folder.match("x/best-0-*") for folder in folders)


def test_rows_of_the_same_configuration_share_their_runs() -> None:
    found = [Contender("published", "", FIRST), Contender("other", "", LATER), Contender("best", "", FIRST)]
    seeds = [fresh_seeds(0, "contender", k, judges=1) for k in range(2)]
    runs = plan(found, seeds, Path("x"))
    assert runs["best"] == runs["published"] != runs["other"]
    assert [run.seeds for run in runs["other"]] == [run.seeds for run in runs["best"]] == seeds


def test_every_purpose_and_repetition_has_seeds_of_its_own() -> None:
    drawn = [fresh_seeds(0, purpose, k, judges=2) for purpose in ("contender", "confirm") for k in range(3)]
    numbers = [n for s in drawn for n in (s.adaptation, s.generation, *s.judge)]
    assert len(set(numbers)) == len(numbers)


def differences(one: TrialConfig, other: TrialConfig) -> dict[str, object]:
    """Return the settings of ``one`` that ``other`` has otherwise."""
    both = {path: (getattr_path(one, path), getattr_path(other, path)) for path in leaf_paths(TrialConfig)}
    return {path: mine for path, (mine, theirs) in both.items() if mine != theirs}


def rows(source_clips: int, **trial: object) -> tuple[TrialConfig, dict[str, TrialConfig]]:
    """Return a search's own configuration at its last rung, and those of its baselines."""
    config = search(trial={"adapt": {"rungs": [4, 8]}, "judge": {"augment": True}} | trial)
    space = resolve_space(config.space, source_clips, "temporal")
    return with_values(config.trial, {"adapt.rungs": (8,)}), {
        c.key: c.config for c in baselines(config, space, source_clips)
    }


def test_baselines_differ_from_the_published_configuration_in_what_their_name_says() -> None:
    own, found = rows(4 * PUBLISHED_SOURCE_CLIPS, loss={"rec": 2.0}, synthesis={"guidance": 9.0})
    published = found.pop("published")
    assert differences(published, own) == {"mining.top_k": 4 * 250, "synthesis.guidance": 2.5}  # the searched ones
    nothing = {"synthesis.source": "none"}
    assert differences(found.pop("real"), own) == nothing | {"judge.augment": False}
    assert differences(found.pop("none"), own) == nothing
    for source in ("mined_clips", "mined_windows", "prior", "generated", "edited", "mixed"):
        known = {"mining.top_k": 10, "adapt.learning_rate": 1e-3, "synthesis.guidance": 2.5, "synthesis.source": source}
        wanted = {path: value for path, value in known.items() if value != getattr_path(own, path)}
        assert differences(found.pop(source), own) == wanted
    assert {key: differences(row, published) for key, row in found.items()} == {
        "single_stream": {"loss.contrastive": 0.0, "loss.window_rec": 0.0},
        "published_top_k": {"mining.top_k": 250},
    }


def test_a_row_that_would_repeat_another_appears_once() -> None:
    _, found = rows(100, judge={"augment": False})
    assert "real" not in found  # without augmentation it is the row that all others are compared with
    assert found["none"].synthesis.source == "none"
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("best", "line"),
    [
        ([0.6, 0.61, 0.59], "best trial minus real + augmentation: +10.0 points [7.5, 12.5]"),
        ([0.6, 0.45, 0.6], "+5.0 points [-16.5, 26.5]; nothing is shown to help more than real + augmentation"),
        ([0.4, 0.41, 0.39], "-10.0 points [-12.5, -7.5]; nothing is shown to help more than real + augmentation"),
    ],
)
def test_the_last_line_says_what_the_best_trial_gained_over_augmentation(best: list[float], line: str) -> None:
    none = ContenderRow("none", "real + augmentation", (0.5, 0.5, 0.5))
    table = ContenderTable((none, ContenderRow("best", "best trial 3", tuple(best))), 3, 2, 100)
    assert line in table.verdict
    assert ("nothing is shown" in table.verdict) is ("nothing is shown" in line)
    failed = ContenderRow("best", "best trial 3", (0.9, 0.9), ("bug: x",))
    assert "unknown, as runs failed" in ContenderTable((none, failed), 3, 2, 100).verdict
    assert ContenderTable((none,), 3, 2, 100).verdict == ""


def test_the_published_pool_is_at_most_the_source() -> None:
    _, found = rows(100)
    assert (found["published"].mining.top_k, found["published_top_k"].mining.top_k) == (4, 100)
