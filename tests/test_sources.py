"""Where synthetic clips come from, source by source, what is shared between sources, and that judges can be kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import ClipSource, TrialConfig, TrialSeeds
from kinemic.errors import CheckpointError
from kinemic.inputs import prepare_inputs
from kinemic.judges import check_judge, judge_file, load_judge
from kinemic.material import Material
from kinemic.reading import with_values
from kinemic.report import TrialInputs
from kinemic.sources import synthetic_clips
from kinemic.stages import Clock, Stages
from kinemic.store import StageStore
from kinemic.synthesis import Synthetic
from kinemic.trial import run_trial
from tests.toy import toy_experiment

EXPERIMENT = toy_experiment()
SEEDS = TrialSeeds(adaptation=3, generation=4, judge=(5, 6))
Make = Callable[..., Synthetic]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    return prepare_inputs(EXPERIMENT, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def material(inputs: TrialInputs) -> Material:
    return Material.open(inputs, "cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    return StageStore(tmp_path_factory.mktemp("stages"))


def config(source: ClipSource, **more: object) -> TrialConfig:
    values = {name.replace("__", "."): value for name, value in more.items()}
    return with_values(EXPERIMENT.trial, {"synthesis.source": source, "synthesis.clips_per_class": 3, **values})


@pytest.fixture
def make(material: Material, store: StageStore) -> Make:
    def made(source: ClipSource, seeds: TrialSeeds = SEEDS, **more: object) -> Synthetic:
        stages = Stages(material, config(source, **more), seeds, store, "cpu", Clock())
        if stages.trains:
            stages.adapt(stages.rungs[-1])
        clips = synthetic_clips(stages)
        assert clips is not None
        return clips

    return made


def pools(material: Material, store: StageStore, **more: object) -> list[set[int]]:
    mined = Stages(material, config("mined_clips", **more), SEEDS, store, "cpu", Clock()).pools
    assert mined is not None
    return [set(pool.indices.tolist()) for pool in mined.pools]


def places(material: Material, clip: np.ndarray) -> set[tuple[int, int]]:
    """Return the source clips and frames that a clip starts at; a stretch may be in several clips."""
    features, offsets = np.asarray(material.source.features), material.source.offsets
    rows = np.flatnonzero((features == clip[0]).all(axis=1)).tolist()
    found = [row for row in rows if np.array_equal(features[row : row + len(clip)], clip)]
    clips = [int(np.searchsorted(offsets, row, side="right")) - 1 for row in found]
    return {(index, int(row - offsets[index])) for index, row in zip(clips, found, strict=True)}


def test_mined_clips_are_whole_clips_of_their_class_pool(material: Material, store: StageStore, make: Make) -> None:
    made = make("mined_clips")
    assert made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert made.warnings == ()
    taken: list[tuple[int, int]] = []
    for clip, label in zip(made.features, made.labels.tolist(), strict=True):
        whole = {index for index, start in places(material, clip) if len(clip) == material.source.lengths[index]}
        taken += [(label, index) for index in whole & pools(material, store)[label]]
    assert [label for label, _ in taken] == made.labels.tolist()
    assert len(set(taken)) == 9


def test_mined_windows_are_as_long_as_few_shots_and_found_by_the_trained_module(
    material: Material, store: StageStore, make: Make
) -> None:
    made, other = make("mined_windows"), make("mined_windows", adapt__learning_rate=0.5)
    blind, blind_too = (make("mined_windows", loss__contrastive=0.0, adapt__learning_rate=rate) for rate in (0.1, 0.5))
    shots, held = material.few_shot_lengths, pools(material, store)
    for clip, label in zip(made.features + blind.features, [*made.labels, *blind.labels], strict=True):
        found = {index for index, _ in places(material, clip)} & held[label]
        assert any(len(clip) in {min(n, int(material.source.lengths[index])) for n in shots[label]} for index in found)
    starts = [[places(material, clip) for clip in each.features] for each in (made, other, blind, blind_too)]
    assert starts[0] != starts[1]  # the same clips, another module
    assert starts[2] == starts[3]  # where none is trained, its start and rate are of no effect
    assert starts[2] not in starts[:2]
    for each in starts[1:]:
        assert all({i for i, _ in a} & {i for i, _ in b} for a, b in zip(each, starts[0], strict=True))


def test_a_pool_gives_each_clip_once_and_says_so(make: Make) -> None:
    made = make("mined_clips", mining__top_k=2)
    assert np.bincount(made.labels).tolist() == [2, 2, 2]
    assert "fewer than 3 clips in classes 0 (2), 1 (2), 2 (2)" in made.warnings[0]


@pytest.mark.parametrize("edited_from", ["mined_clips", "mined_windows"])
def test_edits_start_from_the_clips_that_mining_draws_and_are_as_long(make: Make, edited_from: ClipSource) -> None:
    mined = make(edited_from)
    changed, same = (make("edited", synthesis__edited_from=edited_from, synthesis__strength=s) for s in (0.3, 0.0))
    assert [len(clip) for clip in changed.features] == [len(clip) for clip in mined.features]
    for clip, a, b in zip(mined.features, same.features, changed.features, strict=True):
        np.testing.assert_allclose(a, clip, atol=1e-4)
        assert np.abs(b - clip).mean() > 0.01


def test_edits_of_the_few_shots_start_from_the_real_clips(material: Material, make: Make) -> None:
    corpus, train = material.data.corpus, material.data.train
    of_shots = {"synthesis__edited_from": "few_shots"}
    changed, same = (make("edited", synthesis__strength=s, **of_shots) for s in (0.6, 0.0))
    for label in range(3):
        shots = [np.asarray(corpus.clip(int(i))) for i in train if corpus.labels[i] == label]
        for k, place in enumerate(np.flatnonzero(same.labels == label)):
            shot = shots[k % len(shots)][: material.max_frames]
            np.testing.assert_allclose(same.features[place], shot, atol=1e-4)
            assert np.abs(changed.features[place] - shot).mean() > 0.01


def test_a_pool_that_is_too_small_is_edited_again_with_other_noise(make: Make) -> None:
    made = make("edited", mining__top_k=2)
    assert np.bincount(made.labels).tolist() == [3, 3, 3]
    assert len(made.features[0]) == len(made.features[2])
    assert np.abs(made.features[0] - made.features[2]).max() > 0.01


@pytest.mark.parametrize("source", ["generated", "edited", "mined_clips", "mined_windows", "prior"])
def test_a_clip_is_what_its_seed_makes_it_whatever_the_others(make: Make, source: ClipSource) -> None:
    few = make(source, synthesis__clips_per_class=2, synthesis__batch_size=1)
    many = make(source, synthesis__clips_per_class=3)
    assert many.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    kept = [clip for k, clip in enumerate(many.features) if k % 3 < 2]
    for a, b in zip(few.features, kept, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    other = make(source, SEEDS.model_copy(update={"generation": 99}))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(many.features, other.features, strict=True))


@pytest.mark.parametrize("mixed_with", ["generated", "edited", "prior"])
def test_a_mixture_is_its_parts_class_by_class(make: Make, mixed_with: ClipSource) -> None:
    shares = {"synthesis__clips_per_class": 4, "synthesis__mined_share": 0.3, "synthesis__mixed_with": mixed_with}
    made = make("mixed", **shares)
    assert made.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    mined = make("mined_clips", synthesis__clips_per_class=1)
    for label in range(3):
        np.testing.assert_array_equal(made.features[4 * label], mined.features[label])
    rest = [clip for k, clip in enumerate(made.features) if k % 4]
    if mixed_with == "edited":  # of other clips than those that are in it as they are
        assert make("edited", synthesis__strength=0.0).features[0].shape == mined.features[0].shape
        unchanged = make("mixed", **shares, synthesis__strength=0.0).features
        assert not any(clip.shape == unchanged[0].shape and np.allclose(clip, unchanged[0]) for clip in unchanged[1:4])
    else:
        for a, b in zip(rest, make(mixed_with).features, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_prior_generates_with_nothing_mined_or_adapted(inputs: TrialInputs, tmp_path: Path) -> None:
    (report,) = run_trial(inputs, config("prior"), (SEEDS,), tmp_path)
    assert report.seconds.keys() == {"synthesise", "classify"}
    assert (report.losses, report.pool_sizes) == ({}, ())
    assert (report.rung, report.steps, report.total_steps) == (0, 4, 4)
    (again,) = run_trial(inputs, config("prior"), (SEEDS,), tmp_path)
    assert again == report


def test_trials_that_differ_in_their_source_share_what_is_upstream(material: Material, tmp_path: Path) -> None:
    def run(source: ClipSource, **more: object) -> Clock:
        stages = Stages(material, config(source, **more), SEEDS, StageStore(tmp_path), "cpu", Clock())
        for steps in stages.rungs if stages.trains else ():
            stages.adapt(steps)
        stages.judge(synthetic_clips(stages))
        return stages.clock

    assert run("generated").reused.keys() == set()
    for source in ("edited", "mixed", "mined_windows"):
        assert run(source).reused.keys() == {"mine", "adapt"}
    assert len(list((tmp_path / "adapted").iterdir())) == 2
    assert run("mined_clips").reused.keys() == {"mine"}
    assert run("mixed", synthesis__mined_share=1.0).reused.keys() == {"mine", "classify"}  # the same clips


def floor_between(material: Material, store: StageStore) -> tuple[float, int]:
    """Return a floor that one class's most similar clip does not reach, and that class."""
    mined = Stages(material, config("mined_clips"), SEEDS, store, "cpu", Clock()).pools
    assert mined is not None
    best = [float(pool.similarities.max()) for pool in mined.pools]
    lowest, next_one = sorted(best)[:2]
    return (lowest + next_one) / 2, best.index(lowest)


@pytest.mark.parametrize("source", ["generated", "edited", "mined_clips", "mined_windows", "prior", "mixed"])
def test_a_class_without_support_gets_no_clips_from_any_source(
    material: Material, store: StageStore, make: Make, source: ClipSource
) -> None:
    floor, bare = floor_between(material, store)
    made = make(source, mining__floor=floor)
    assert set(made.labels.tolist()) == {0, 1, 2} - {bare}


@pytest.mark.parametrize("source", ["generated", "mined_clips"])
def test_without_support_for_any_class_a_trial_is_of_real_clips_alone(
    inputs: TrialInputs, tmp_path: Path, source: ClipSource
) -> None:
    repeated = (SEEDS, SEEDS.model_copy(update={"adaptation": 8}))
    bare = config(source, mining__floor=0.999)
    reports = list(run_trial(inputs, bare, repeated, tmp_path / "bare"))
    assert [(report.rung, report.steps, report.repetition) for report in reports] == [(0, 4, 0), (0, 4, 1)]
    assert (reports[0].pool_sizes, reports[0].losses) == ((0, 0, 0), {})
    assert list(run_trial(inputs, bare, repeated, tmp_path / "bare")) == reports
    assert not (tmp_path / "bare" / "generator.safetensors").exists()
    nothing = list(run_trial(inputs, config("none"), repeated, tmp_path / "none"))
    assert [report.accuracies for report in nothing] == [report.accuracies for report in reports]
    assert nothing[0].seconds.keys() == {"classify"}


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
