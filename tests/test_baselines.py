"""What a search must beat: where the clips of each baseline come from, and that its judges can be kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinemic.baselines import baseline_clips
from kinemic.config import ClipSource, TrialConfig, TrialSeeds
from kinemic.errors import CheckpointError, ConfigError
from kinemic.inputs import prepare_inputs
from kinemic.judges import check_judge, judge_file, load_judge
from kinemic.material import Material
from kinemic.reading import with_values
from kinemic.report import TrialInputs
from kinemic.trial import run_trial
from tests.toy import toy_experiment

EXPERIMENT = toy_experiment()
SEEDS = TrialSeeds(adaptation=3, generation=4, judge=(5, 6))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    return prepare_inputs(EXPERIMENT, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def material(inputs: TrialInputs) -> Material:
    return Material.open(inputs, "cpu")


def config(source: ClipSource, **more: float) -> TrialConfig:
    return with_values(EXPERIMENT.trial, {"synthesis.source": source, "synthesis.clips_per_class": 3, **more})


def place_in_source(material: Material, clip: np.ndarray) -> tuple[int, int]:
    """Return the source clip and frame that a clip, a view of the source's own memory, starts at."""
    features = material.source.features
    row = (clip.__array_interface__["data"][0] - features.__array_interface__["data"][0]) // features.strides[0]
    np.testing.assert_array_equal(clip, features[row : row + len(clip)])
    index = int(np.searchsorted(material.source.offsets, row, side="right")) - 1
    return index, int(row - material.source.offsets[index])


def test_mined_clips_are_whole_clips_of_their_class_pool(material: Material) -> None:
    made, mined = baseline_clips(material, config("mined_clips"), SEEDS)
    assert mined is not None
    assert made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert made.warnings == ()
    taken = [place_in_source(material, clip) for clip in made.features]
    assert all(index in mined.pools[label].indices for (index, _), label in zip(taken, made.labels, strict=True))
    assert all(len(clip) == material.source.lengths[i] for clip, (i, _) in zip(made.features, taken, strict=True))
    assert all(len({i for (i, _), c in zip(taken, made.labels, strict=True) if c == label}) == 3 for label in range(3))


def test_mined_windows_are_as_long_as_few_shots_and_found_by_the_trained_module(material: Material) -> None:
    made, mined = baseline_clips(material, config("mined_windows"), SEEDS)
    assert mined is not None
    shots = material.few_shot_lengths
    for clip, label in zip(made.features, made.labels, strict=True):
        index, _ = place_in_source(material, clip)
        assert index in mined.pools[label].indices
        assert len(clip) in {min(n, int(material.source.lengths[index])) for n in shots[label]}
    other, _ = baseline_clips(material, config("mined_windows", **{"adapt.learning_rate": 0.5}), SEEDS)
    starts = [[place_in_source(material, clip)[1] for clip in found.features] for found in (made, other)]
    assert starts[0] != starts[1]  # the same clips, another module


def test_windows_need_a_trained_module(material: Material) -> None:
    with pytest.raises(ConfigError, match=r"loss\.contrastive is 0"):
        baseline_clips(material, config("mined_windows", **{"loss.contrastive": 0.0}), SEEDS)


def test_a_pool_gives_each_clip_once_and_says_so(material: Material) -> None:
    made, _ = baseline_clips(material, config("mined_clips", **{"mining.top_k": 2}), SEEDS)
    assert np.bincount(made.labels).tolist() == [2, 2, 2]
    assert "fewer than 3 clips in classes 0 (2), 1 (2), 2 (2)" in made.warnings[0]


def test_the_prior_generates_with_nothing_mined_or_adapted(inputs: TrialInputs, tmp_path: Path) -> None:
    (report,) = run_trial(inputs, config("prior"), (SEEDS,), tmp_path)
    assert report.seconds.keys() == {"synthesise", "classify"}
    assert (report.losses, report.pool_sizes) == ({}, ())
    assert (report.rung, report.steps, report.total_steps) == (0, 4, 4)
    (again,) = run_trial(inputs, config("prior"), (SEEDS,), tmp_path)
    assert again == report


def test_other_generation_seeds_draw_other_clips(material: Material) -> None:
    other = SEEDS.model_copy(update={"generation": 99})
    for source in ("mined_clips", "prior"):
        one, two, same = (baseline_clips(material, config(source), s)[0] for s in (SEEDS, other, SEEDS))
        assert any(a.shape != b.shape or (a != b).any() for a, b in zip(one.features, two.features, strict=True))
        assert all((a == b).all() for a, b in zip(one.features, same.features, strict=True))


@pytest.mark.parametrize("source", ["generated", "mined_clips"])
def test_kept_judges_score_as_they_did(source: ClipSource, inputs: TrialInputs, tmp_path: Path) -> None:
    data = Material.open(inputs, "cpu").data
    wanted = with_values(config(source), {"judge.keep": True, "adapt.rungs": [1]})
    (report,) = run_trial(inputs, wanted, (SEEDS,), tmp_path)
    dev, truth = [data.corpus.joints(i) for i in data.dev], data.corpus.labels[data.dev]
    for number, seed in enumerate(SEEDS.judge):
        file = judge_file(tmp_path, number)
        check_judge(file, "smoke", data.corpus.classes, seed)
        logits, _ = load_judge(file).score(dev)
        assert (logits.argmax(axis=1) == truth).mean() == report.accuracies[number]
    with pytest.raises(CheckpointError, match="seed is 6, this run needs 5"):
        check_judge(judge_file(tmp_path, 1), "smoke", data.corpus.classes, 5)


def test_judges_are_kept_only_where_asked(inputs: TrialInputs, tmp_path: Path) -> None:
    list(run_trial(inputs, config("mined_clips"), (SEEDS,), tmp_path))
    assert not judge_file(tmp_path, 0).exists()
