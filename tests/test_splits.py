"""Few-shot draws and the firewall between train, dev and test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import IdList, SplitConfig
from kinemic.data.corpus import Clip, Corpus, digest_of_meta
from kinemic.data.splits import TrialData, choose, load_trial_data, make_test_data, make_trial_data
from kinemic.errors import DataError, FirewallError
from kinemic.motion import compute_statistics
from kinemic.skeleton import NUM_FEATURES

CLASSES = ("wave", "kick", "bow")
SUBJECTS = ("s1", "s2", "s3", "s4")


def clip_of(action: str, subject: str | None, take: int) -> Clip:
    name = f"{action}-{subject}-{take}"
    rng = np.random.default_rng(list(name.encode()))
    features = rng.standard_normal((16, NUM_FEATURES)).astype(np.float32)
    return Clip(name, features, (f"someone does {action}",), CLASSES.index(action), subject)


def all_clips(subjects: Sequence[str | None] = SUBJECTS) -> list[Clip]:
    return [clip_of(action, subject, take) for action in CLASSES for subject in subjects for take in range(4)]


def write(path: Path, clips: Iterable[Clip]) -> Corpus:
    return Corpus.write(path, clips, CLASSES, [(f"a person does {name}",) for name in CLASSES], "target")


@pytest.fixture
def target(tmp_path: Path) -> Corpus:
    """Three classes of four subjects, four takes each."""
    return write(tmp_path / "target", all_clips())


def drawn(**settings: object) -> SplitConfig:
    return SplitConfig(**({"shots": 3, "train_subjects": ("s1", "s2"), "dev_subjects": ("s3",)} | settings))  # type: ignore[arg-type]


def id_list(path: Path, names: Sequence[str]) -> IdList:
    path.write_text("\n".join(names))
    return IdList(file=path)


# --- drawing ------------------------------------------------------------------------------------------------------


def test_shots_of_each_class_come_from_train_subjects_and_dev_is_all_of_its_own(target, tmp_path):
    make_trial_data(target, drawn(), tmp_path / "trial")
    data = load_trial_data(tmp_path / "trial")
    corpus = data.corpus
    assert Counter(corpus.labels[data.train].tolist()) == {0: 3, 1: 3, 2: 3}
    assert Counter(corpus.labels[data.dev].tolist()) == {0: 4, 1: 4, 2: 4}
    assert {corpus.subjects[i] for i in data.train} <= {"s1", "s2"}
    assert {corpus.subjects[i] for i in data.dev} == {"s3"}
    assert data.shared_subjects == ()


def test_a_trial_folder_physically_holds_train_and_dev_alone(target, tmp_path):
    corpus = make_trial_data(target, drawn(), tmp_path / "trial")
    assert len(corpus) == 9 + 12
    assert len(corpus.features) == int(corpus.lengths.sum())
    for i, name in enumerate(corpus.names):
        np.testing.assert_array_equal(corpus.clip(i), target.clip(target.index_of(name)))
    written = "".join(file.read_text() for file in (tmp_path / "trial").glob("*.json"))
    assert "-s3-" in written
    assert "-s4-" not in written  # the subject left for the test, whose clips are named after it


def test_the_draw_does_not_depend_on_the_order_of_clips(target, tmp_path):
    turned = write(tmp_path / "turned", reversed(all_clips()))
    for seed in range(3):
        one, other = (choose(corpus, drawn(seed=seed)) for corpus in (target, turned))
        assert {target.names[i] for i in one.train} == {turned.names[i] for i in other.train}


def test_seeds_draw_differently_and_more_shots_hold_the_fewer(target):
    few, more, other = (set(choose(target, drawn(**s)).train) for s in ({}, {"shots": 5}, {"seed": 1}))
    assert few < more
    assert few != other


def test_chosen_classes_get_new_labels_and_keep_their_captions(target, tmp_path):
    corpus = make_trial_data(target, drawn(classes=("bow", "wave")), tmp_path / "trial")
    assert corpus.classes == ("bow", "wave")
    assert corpus.class_captions == (("a person does bow",), ("a person does wave",))
    assert {(name.split("-")[0], int(label)) for name, label in zip(corpus.names, corpus.labels, strict=True)} == {
        ("bow", 0),
        ("wave", 1),
    }


def test_class_captions_that_only_other_clips_carry_stay_out_of_a_trial(tmp_path):
    clips = [replace(clip, captions=(f"{clip.subject} does {clip.name.split('-')[0]}",)) for clip in all_clips()]
    told = [tuple(f"{subject} does {name}" for subject in SUBJECTS) for name in CLASSES]
    target = Corpus.write(tmp_path / "target", clips, CLASSES, told, "target")
    corpus = make_trial_data(target, drawn(train_subjects=("s2",)), tmp_path / "trial")
    assert corpus.class_captions == tuple((f"s2 does {name}",) for name in CLASSES)


def test_statistics_are_those_of_train_alone(target, tmp_path):
    corpus = make_trial_data(target, drawn(), tmp_path / "trial")
    data = load_trial_data(tmp_path / "trial")
    expected = compute_statistics(corpus.clip(int(i)) for i in data.train)
    np.testing.assert_allclose(corpus.statistics.mean_F, expected.mean_F, atol=1e-6)


def test_without_train_subjects_no_clip_of_a_dev_or_unknown_subject_is_drawn(tmp_path):
    target = write(tmp_path / "t", all_clips(("s1", "s2", None)))
    split = choose(target, SplitConfig(shots=4, dev_subjects=("s2",)))
    assert {target.subjects[i] for i in split.train} == {"s1"}


def test_ten_shots_are_the_default(target):
    split = choose(target, SplitConfig(train_subjects=("s1", "s2", "s4"), dev_subjects=("s3",)))
    assert len(split.train) == 30


# --- recorded lists -----------------------------------------------------------------------------------------------


def test_a_train_list_is_taken_whole_or_drawn_from(target, tmp_path):
    names = [f"{action}-s1-{take}" for action in CLASSES for take in (0, 2, 3)]
    train = id_list(tmp_path / "train.txt", names)
    dev = id_list(tmp_path / "dev.txt", [f"{action}-s2-0" for action in CLASSES])
    whole = choose(target, SplitConfig(train=train, dev=dev))
    assert {target.names[i] for i in whole.train} == set(names)
    two = choose(target, SplitConfig(train=train, dev=dev, shots=2))
    assert {target.names[i] for i in two.train} < set(names)
    assert len(two.train) == 6


def test_draws_from_a_list_go_by_seed_alone_and_need_enough_clips_of_every_class(target, tmp_path):
    names = [f"{action}-{subject}-{take}" for action in CLASSES for subject in ("s1", "s2") for take in range(4)]
    dev = id_list(tmp_path / "dev.txt", [f"{action}-s4-0" for action in CLASSES])

    def listed(name: str, ids: list[str], **settings: int) -> set[str]:
        split = SplitConfig(train=id_list(tmp_path / name, ids), dev=dev, **settings)
        return {target.names[i] for i in choose(target, split).train}

    one, three = (listed("pool.txt", names, shots=shots, seed=4) for shots in (1, 3))
    assert one < three
    assert Counter(name.split("-")[0] for name in three) == dict.fromkeys(CLASSES, 3)
    assert listed("turned.txt", names[::-1], shots=3, seed=4) == three
    assert len({frozenset(listed("pool.txt", names, shots=3, seed=seed)) for seed in range(5)}) == 5
    with pytest.raises(DataError, match="class 'wave': 2 clips to draw from, 3 shots needed"):
        listed("few.txt", [name for name in names if not name.startswith("wave") or name.endswith("0")], shots=3)


def test_lists_may_hold_clips_of_classes_left_out(target, tmp_path):
    train = id_list(tmp_path / "train.txt", [f"{action}-s1-0" for action in CLASSES])
    split = choose(target, SplitConfig(classes=("kick",), train=train, dev_subjects=("s2",)))
    assert [target.names[i] for i in split.train] == ["kick-s1-0"]
    assert len(split.dev) == 4


def test_recorded_lists_may_share_subjects_and_say_so(target, tmp_path):
    train = id_list(tmp_path / "train.txt", [f"{action}-s1-0" for action in CLASSES])
    dev = id_list(tmp_path / "dev.txt", [f"{action}-s1-1" for action in CLASSES])
    make_trial_data(target, SplitConfig(train=train, dev=dev), tmp_path / "trial")
    assert load_trial_data(tmp_path / "trial").shared_subjects == ("s1",)


def test_a_drawn_side_may_not_share_a_subject_with_a_list(target, tmp_path):
    one_of_s1 = {"shots": 1, "train_subjects": ("s1",)}
    taken = {target.names[i] for i in choose(target, drawn(**one_of_s1)).train}
    left = [name for name in target.names if "-s1-" in name and name not in taken]
    dev = id_list(tmp_path / "dev.txt", left)
    with pytest.raises(DataError, match="subjects s1 are in train and in dev"):
        choose(target, drawn(**one_of_s1, dev_subjects=None, dev=dev))


# --- what can't be drawn ------------------------------------------------------------------------------------------


def test_fewer_clips_than_shots_names_class_have_and_need(target):
    with pytest.raises(DataError, match="class 'wave': 8 clips to draw from, 9 shots needed"):
        choose(target, drawn(shots=9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("fly",)}, "class 'fly' is not in the target corpus; it has wave, kick, bow"),
        ({"classes": ("wave", "wave")}, "names a class twice"),
        ({"dev_subjects": ("s9",)}, "subject 's9' has no clip in the target corpus; it has s1, s2"),
        ({"dev_subjects": None}, "no dev clips"),
    ],
)
def test_unknown_names_are_refused(target, settings, message):
    with pytest.raises(DataError, match=message):
        choose(target, drawn(**settings))


def test_a_class_without_clips_on_a_side_is_refused(target, tmp_path):
    dev = id_list(tmp_path / "dev.txt", ["wave-s3-0", "kick-s3-0"])
    with pytest.raises(DataError, match="class 'bow' has no dev clip"):
        choose(target, drawn(dev_subjects=None, dev=dev))


def test_a_class_that_is_empty_in_the_corpus_is_refused(tmp_path):
    target = write(tmp_path / "t", [clip for clip in all_clips() if not clip.name.startswith("bow")])
    with pytest.raises(DataError, match="class 'bow': 0 clips"):
        choose(target, drawn())


def test_a_listed_clip_that_is_not_there_is_named(target, tmp_path):
    train = id_list(tmp_path / "train.txt", ["wave-s1-0", "ghost"])
    with pytest.raises(DataError, match=r"train\.txt: 1 of 2 clips are not in the target corpus, first ghost"):
        choose(target, drawn(train_subjects=None, train=train))


def test_a_clip_on_both_sides_is_refused(target, tmp_path):
    both = id_list(tmp_path / "both.txt", [f"{action}-s1-0" for action in CLASSES])
    with pytest.raises(DataError, match="3 clips are in train and in dev"):
        choose(target, SplitConfig(train=both, dev=both))


def test_the_configuration_refuses_a_subject_on_both_sides():
    with pytest.raises(ValueError, match="in train and in dev"):
        drawn(dev_subjects=("s2",))


# --- the firewall -------------------------------------------------------------------------------------------------


@pytest.fixture
def trial(target: Corpus, tmp_path: Path) -> TrialData:
    make_trial_data(target, drawn(), tmp_path / "trial")
    return load_trial_data(tmp_path / "trial")


def test_a_trial_given_the_test_split_fails(target, trial, tmp_path):
    test = make_test_data(target, trial, tmp_path / "test", subjects=("s4",))
    assert test.role == "test"
    assert set(test.parts) == {"test"}
    with pytest.raises(FirewallError, match="holds test clips"):
        load_trial_data(tmp_path / "test")


def test_a_trial_given_a_whole_target_corpus_fails(target):
    with pytest.raises(FirewallError, match="holds target clips"):
        load_trial_data(target.path)


def test_a_test_clip_under_a_false_role_is_found(target, trial, tmp_path):
    make_test_data(target, trial, tmp_path / "test", subjects=("s4",))
    file = tmp_path / "test" / "corpus.json"
    meta = json.loads(file.read_text()) | {"role": "trial"}
    file.write_text(json.dumps(meta | {"digest": digest_of_meta(meta)}))
    with pytest.raises(FirewallError, match="is of part test"):
        load_trial_data(tmp_path / "test")


def test_test_subjects_and_clips_must_be_unseen(target, trial, tmp_path):
    with pytest.raises(FirewallError, match="train or dev clips"):
        make_test_data(target, trial, tmp_path / "test", subjects=("s3",))
    unused = next(n for n in target.names if n.startswith("wave-s1") and n not in trial.corpus.names)
    seen = id_list(tmp_path / "seen.txt", [unused, trial.corpus.names[0]])
    with pytest.raises(FirewallError, match="1 test clips are train or dev clips"):
        make_test_data(target, trial, tmp_path / "test", ids=seen)
    assert not (tmp_path / "test").exists()


def test_an_unseen_clip_of_a_train_subject_is_no_unseen_subject(target, trial, tmp_path):
    with pytest.raises(FirewallError):
        make_test_data(target, trial, tmp_path / "test", subjects=("s1", "s4"))
