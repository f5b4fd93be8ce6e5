"""The content firewall: copies under other names, moved, turned, mirrored or encoded again, are found by digests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import SplitConfig
from kinemic.data.check import check_split
from kinemic.data.copies import CELL_M, find_copies, moved_digests
from kinemic.data.corpus import Clip, Corpus
from kinemic.data.procedural import generate_source, generate_target
from kinemic.data.splits import choose_test, load_trial_data, make_trial_data, moved_copies
from kinemic.errors import DataWarning, FirewallError
from kinemic.inputs import warn_of_moved
from kinemic.motion import features_to_joints, joints_to_features, mirror_features, mirror_joints
from kinemic.rotations import turn_about_y
from kinemic.skeleton import POSITIONS, ROOT_VELOCITY

CLASSES = ("wave", "kick")


def shifted(joints: np.ndarray) -> np.ndarray:
    return joints + np.array([37.25, 0.4, -81.5])


def turned(joints: np.ndarray) -> np.ndarray:
    return turn_about_y(np.full(joints.shape[:-1], 2.0), joints.astype(np.float64))


def turned_features(features: np.ndarray) -> np.ndarray:
    """As an encoder would give them that does not begin by turning a clip to +z."""
    found = features.copy()
    found[:, POSITIONS] = turned(features[:, POSITIONS].reshape(len(features), -1, 3)).reshape(len(features), -1)
    steps = np.zeros((len(features), 3))
    steps[:, [0, 2]] = features[:, ROOT_VELOCITY]
    found[:, ROOT_VELOCITY] = turned(steps)[:, [0, 2]]
    return found


def trembling(joints: np.ndarray) -> np.ndarray:
    return joints + np.random.default_rng(len(joints)).uniform(-5e-5, 5e-5, joints.shape)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shifted": lambda x: joints_to_features(shifted(features_to_joints(x))),
    "turned": lambda x: joints_to_features(turned(features_to_joints(x))),
    "mirrored": mirror_features,
    "mirrored as joints": lambda x: joints_to_features(mirror_joints(features_to_joints(x))),
    "all of it": lambda x: joints_to_features(turned(shifted(mirror_joints(features_to_joints(x))))),
    "turned as features": turned_features,
    "off by 50 micrometres": lambda x: joints_to_features(trembling(features_to_joints(x))),
    "cut off behind": lambda x: x[: len(x) - 7],
    "noise of float32": lambda x: x * (1 + np.random.default_rng(0).choice([-1e-7, 1e-7], x.shape)).astype(np.float32),
}


def some_motion(count: int) -> list[np.ndarray]:
    clips = [*generate_source(count, seed=3), *generate_target(2, seed=4)]
    return [joints_to_features(clip.joints_TJ3) for clip in clips][:count]


def digests_of(clips: list[np.ndarray]) -> np.ndarray:
    return moved_digests(np.concatenate(clips), np.cumsum([0, *map(len, clips)]))


@pytest.fixture(scope="module")
def motions() -> list[np.ndarray]:
    return some_motion(60)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_shares_a_digest_with_its_original_alone(change: str, motions: list[np.ndarray]) -> None:
    before, after = digests_of(motions), digests_of([CHANGES[change](x).astype(np.float32) for x in motions])
    same = before[:, None] == after[None]
    assert same.any(axis=2).diagonal().all()
    assert same.any(axis=2).sum() == len(motions)
    # One grid alone would miss copies now and then; that it is rare is what lets three suffice.
    assert same.all(axis=2).diagonal().mean() > 0.8


def test_another_motion_is_no_copy(motions: list[np.ndarray]) -> None:
    joints = [features_to_joints(x).astype(np.float64) for x in motions]
    for other in joints:
        other[:, 20, 1] += 3 * CELL_M  # a wrist that is held higher
    before, after = digests_of(motions), digests_of([joints_to_features(other) for other in joints])
    assert not (before[:, None] == after[None]).any()


def test_clips_shorter_than_what_is_looked_at_and_all_zeros_have_digests_too() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((frames, 263)).astype(np.float32) for frames in (1, 9, 15)]
    assert len({tuple(row) for row in digests_of([*clips, np.zeros((20, 263), np.float32)])}) == 4


# --- splits -------------------------------------------------------------------------------------------------------


def write(path: Path, motions: list[np.ndarray], copies: dict[str, np.ndarray]) -> Corpus:
    """A target corpus of two classes and four subjects, two takes each; ``copies`` are further takes of subject s3."""
    clips = [
        Clip(f"{action}-{subject}-{take}", motions[(label * 4 + place) * 2 + take], (action,), label, subject)
        for label, action in enumerate(CLASSES)
        for place, subject in enumerate(("s1", "s2", "s3", "s4"))
        for take in range(2)
    ]
    clips += [Clip(name, features, ("wave",), 0, name.split("-")[1]) for name, features in copies.items()]
    return Corpus.write(path, clips, CLASSES, [(name,) for name in CLASSES], "target")


SPLIT = SplitConfig(shots=2, train_subjects=("s1",), dev_subjects=("s2", "s3"))


def test_a_split_without_copies_is_silent(tmp_path: Path, motions: list[np.ndarray]) -> None:
    target = write(tmp_path / "t", motions, {})
    make_trial_data(target, SPLIT, tmp_path / "trial")
    trial = load_trial_data(tmp_path / "trial")
    assert moved_copies(trial) == ()
    assert len(choose_test(target, trial, ("s4",))) == 4


def test_an_exact_copy_among_dev_is_refused_and_nothing_is_written(tmp_path: Path, motions: list[np.ndarray]) -> None:
    target = write(tmp_path / "t", motions, {"again-s3-0": motions[0]})
    with pytest.raises(FirewallError, match="dev clip again-s3-0 is the same motion as train clip wave-s1-0, frame by"):
        make_trial_data(target, SPLIT, tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


def test_an_exact_copy_in_another_fold_is_refused(tmp_path: Path, motions: list[np.ndarray]) -> None:
    target = write(tmp_path / "t", motions, {f"again-{subject}-0": motions[0] for subject in ("s7", "s8", "s9")})
    with pytest.raises(FirewallError, match=r"dev clip (again|wave)-s\d-0 is the same motion as train clip"):
        make_trial_data(target, SplitConfig(folds=5), tmp_path / "trial")


@pytest.mark.parametrize("change", ["shifted", "mirrored"])
def test_a_changed_copy_among_dev_is_shown_with_both_names(
    change: str, tmp_path: Path, motions: list[np.ndarray]
) -> None:
    target = write(tmp_path / "t", motions, {"again-s3-0": CHANGES[change](motions[0])})
    make_trial_data(target, SPLIT, tmp_path / "trial")
    found = moved_copies(load_trial_data(tmp_path / "trial"))
    assert found == (("wave-s1-0", "again-s3-0"),)
    shown = [finding for finding in check_split(load_trial_data(tmp_path / "trial")) if "copies?" in finding.what]
    assert [(each.level, each.count, each.example) for each in shown] == [("warning", 1, "wave-s1-0 and again-s3-0")]
    with pytest.warns(DataWarning, match="1 dev clips begin as train clips do.*: again-s3-0 of wave-s1-0"):
        warn_of_moved(found, ("train", "dev"))


@pytest.mark.parametrize("seen", ["wave-s1-0", "kick-s2-1"])
def test_an_exact_copy_among_the_test_clips_is_refused(seen: str, tmp_path: Path, motions: list[np.ndarray]) -> None:
    whole = write(tmp_path / "whole", motions, {})
    target = write(tmp_path / "t", motions, {"again-s4-0": np.array(whole.clip(whole.index_of(seen)))})
    make_trial_data(target, SPLIT, tmp_path / "trial")
    trial = load_trial_data(tmp_path / "trial")
    with pytest.raises(FirewallError, match=f"test clip again-s4-0 is the same motion as train or dev clip {seen}"):
        choose_test(target, trial, ("s4",))


@pytest.mark.parametrize("change", ["shifted", "mirrored", "turned"])
def test_a_changed_copy_among_the_test_clips_is_a_warning(
    change: str, tmp_path: Path, motions: list[np.ndarray]
) -> None:
    target = write(tmp_path / "t", motions, {"again-s4-0": CHANGES[change](motions[4])})
    make_trial_data(target, SPLIT, tmp_path / "trial")
    trial = load_trial_data(tmp_path / "trial")
    with pytest.warns(DataWarning, match="1 test clips begin as train or dev clips do.*again-s4-0 of wave-s3-0"):
        assert len(choose_test(target, trial, ("s4",))) == 5


def test_no_motion_is_read_to_compare(tmp_path: Path, motions: list[np.ndarray]) -> None:
    target = write(tmp_path / "t", motions, {"again-s4-0": motions[0]})
    blind = replace(Corpus.open(target.path), features=np.zeros((0, 263), np.float32))
    found = find_copies(blind, np.arange(len(target)), blind, np.arange(len(target)))
    assert found.exact == (("wave-s1-0", "again-s4-0"),)
    assert found.moved == ()


def test_many_equal_clips_give_a_pair_each(tmp_path: Path, motions: list[np.ndarray]) -> None:
    still = np.zeros((20, 263), np.float32)
    target = write(tmp_path / "t", motions, {f"still-s3-{n}": still for n in range(50)})
    everything = np.arange(len(target))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_copies(target, everything, target, everything).exact) == 49
