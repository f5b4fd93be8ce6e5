"""Packing clips into one memory-mapped folder and opening it again."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinemic.data.corpus import VERSION, Clip, Corpus, is_current
from kinemic.data.packing import pack
from kinemic.errors import DataError, UnwritableError
from kinemic.motion import Statistics
from kinemic.skeleton import NUM_FEATURES

CLASSES = ("wave", "kick")
CLASS_CAPTIONS = (("a person waves",), ("a person kicks", "someone kicks"))


def some_clips(frames: tuple[int, ...] = (20, 30, 25)) -> list[Clip]:
    rng = np.random.default_rng(0)
    return [
        Clip(
            name=f"clip{i}",
            features_TF=rng.standard_normal((count, NUM_FEATURES)).astype(np.float32),
            captions=(f"caption {i}", "ein Mensch läuft"),
            label=i % 2,
            subject=None if i == 2 else f"s{i}",
            segments=(("wave", 3, 9),) if i == 0 else (),
        )
        for i, count in enumerate(frames)
    ]


def write(path: Path, clips: list[Clip] | None = None) -> Corpus:
    return Corpus.write(path, some_clips() if clips is None else clips, CLASSES, CLASS_CAPTIONS, "target")


def test_what_was_written_is_read_back(tmp_path):
    clips = some_clips()
    corpus = Corpus.open(write(tmp_path / "c").path)
    assert len(corpus) == 3
    assert corpus.role == "target"
    assert corpus.classes == CLASSES
    assert corpus.class_captions == CLASS_CAPTIONS
    assert corpus.names == ("clip0", "clip1", "clip2")
    assert corpus.captions[1] == ("caption 1", "ein Mensch läuft")
    assert corpus.subjects == ("s0", "s1", None)
    assert corpus.segments == ((("wave", 3, 9),), (), ())
    assert corpus.lengths.tolist() == [20, 30, 25]
    assert corpus.labels.tolist() == [0, 1, 0]
    for i, clip in enumerate(clips):
        np.testing.assert_array_equal(corpus.clip(i), clip.features_TF)
    assert corpus.joints(1).shape == (30, 22, 3)
    assert corpus.index_of("clip2") == 2


def test_a_clip_is_a_read_only_view_of_the_mapped_file(tmp_path):
    corpus = write(tmp_path / "c")
    assert isinstance(corpus.features, np.memmap)
    assert np.shares_memory(corpus.clip(1), corpus.features)
    with pytest.raises(ValueError, match="read-only"):
        corpus.clip(1)[0, 0] = 1.0


def test_opening_parses_nothing_that_grows_with_the_clips(tmp_path):
    path = write(tmp_path / "c").path
    for file in ("captions.json", "clips.json"):
        (path / file).unlink()
    corpus = Corpus.open(path)
    assert corpus.clip(0).shape == (20, NUM_FEATURES)
    with pytest.raises(DataError, match="captions"):
        _ = corpus.captions


def test_it_pickles_as_its_path(tmp_path):
    corpus = write(tmp_path / "c")
    sent = pickle.dumps(corpus)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).clip(2), corpus.clip(2))


def changed(**values: object) -> list[Clip]:
    clips = some_clips()
    return [*clips[:1], replace(clips[1], **values), *clips[2:]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "clips",
    [
        changed(features_TF=some_clips()[1].features_TF + np.float32(1e-3)),
        changed(name="other"),
        changed(captions=("something else",)),
        changed(label=0),
        changed(subject="s9"),
        changed(part="dev"),
        changed(segments=(("kick", 0, 1),)),
    ],
)
def test_the_content_hash_sees_every_change(tmp_path, clips):
    assert write(tmp_path / "a").content_hash == write(tmp_path / "b").content_hash
    assert write(tmp_path / "c", clips).content_hash != write(tmp_path / "b").content_hash


def test_the_content_hash_sees_where_clips_begin(tmp_path):
    one, two, *_ = some_clips()
    rows = np.concatenate([one.features_TF, two.features_TF])
    moved = [replace(one, features_TF=rows[:21]), replace(two, features_TF=rows[21:])]
    assert write(tmp_path / "a", [one, two]).content_hash != write(tmp_path / "b", moved).content_hash


def test_statistics_are_those_given_or_those_of_the_clips(tmp_path):
    given = Statistics(np.full(NUM_FEATURES, 2, np.float32), np.full(NUM_FEATURES, 3, np.float32))
    kept = Corpus.write(tmp_path / "a", some_clips(), CLASSES, CLASS_CAPTIONS, "source", given)
    np.testing.assert_array_equal(kept.statistics.std_F, given.std_F)
    own = write(tmp_path / "b")
    np.testing.assert_allclose(own.statistics.mean_F, own.features.mean(axis=0), atol=1e-5)


def with_nan() -> list[Clip]:
    clips = some_clips()
    clips[1].features_TF[17, 5] = np.nan
    return clips


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (with_nan(), "clip clip1: nan at frame 17, feature 5"),
        (changed(features_TF=np.zeros((30, 251), np.float32)), r"clip clip1: expected .*263\), got \(30, 251\)"),
        (changed(features_TF=np.zeros((0, 263), np.float32)), r"clip clip1: expected .*got \(0, 263\)"),
        (changed(name="clip0"), "clip clip0: the name comes twice"),
        (changed(label=2), "clip clip1: label 2, expected 0..1"),
        ([], "no clip to pack"),
    ],
)
def test_a_bad_clip_is_named_and_leaves_nothing_behind(tmp_path, clips, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "c", clips)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_corpus_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a packed corpus"):
        write(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_corpus_is_replaced_whole_and_readers_keep_the_old_one(tmp_path):
    old = write(tmp_path / "c")
    before = np.array(old.clip(0))
    new = write(tmp_path / "c", some_clips((40, 50)))
    assert new.lengths.tolist() == [40, 50]
    np.testing.assert_array_equal(old.clip(0), before)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def spoil(file: Path) -> None:
    file.write_bytes(b"\x00garbage")


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("features.npy", truncate),
        ("features.npy", spoil),
        ("features.npy", remove),
        ("offsets.npy", spoil),
        ("labels.npy", remove),
        ("statistics.npy", spoil),
        ("corpus.json", spoil),
    ],
)
def test_damage_is_one_line_that_says_what_to_do(tmp_path, file: str, damage: Callable[[Path], None]):
    path = write(tmp_path / "c").path
    damage(path / file)
    with pytest.raises(DataError, match=r"damaged corpus.*pack it anew") as caught:
        Corpus.open(path)
    assert "\n" not in str(caught.value)


def test_arrays_of_another_corpus_are_noticed(tmp_path):
    path = write(tmp_path / "c").path
    other = write(tmp_path / "d", some_clips((20, 30))).path
    (path / "labels.npy").write_bytes((other / "labels.npy").read_bytes())
    with pytest.raises(DataError, match=r"damaged corpus.*labels\.npy is not what was packed"):
        Corpus.open(path)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def roll_labels(path: Path) -> None:
    np.save(path / "labels.npy", np.roll(np.load(path / "labels.npy"), 1))


def move_the_first_offset(path: Path) -> None:
    offsets = np.load(path / "offsets.npy")
    offsets[0] = 5
    np.save(path / "offsets.npy", offsets)


def rename_a_class(path: Path) -> None:
    (path / "corpus.json").write_text((path / "corpus.json").read_text().replace('"wave"', '"Wave"'))


@pytest.mark.parametrize("change", [roll_labels, move_the_first_offset, rename_a_class])
def test_a_change_behind_its_back_is_no_corpus(tmp_path, change: Callable[[Path], None]):
    path = write(tmp_path / "c").path
    change(path)
    with pytest.raises(DataError, match=r"damaged corpus.*is not what was packed.*pack it anew"):
        Corpus.open(path)


@pytest.mark.parametrize("file", ["offsets.npy", "labels.npy", "statistics.npy", "digests.npy", "clips.json"])
def test_a_byte_of_a_small_file_counts(tmp_path, file: str):
    path = write(tmp_path / "c").path
    flip(path / file, -2)
    with pytest.raises(DataError, match=rf"{file} is not what was packed"):
        _ = [Corpus.open(path).clip(0), Corpus.open(path).names]


def test_a_byte_of_a_clip_counts_when_that_clip_is_read(tmp_path):
    path = write(tmp_path / "c").path
    flip(path / "features.npy", -3)
    corpus = Corpus.open(path)
    np.testing.assert_array_equal(corpus.clip(0), some_clips()[0].features_TF)
    for read in (lambda: corpus.clip(2), lambda: corpus.joints(2), lambda: corpus.check([0, 2])):
        with pytest.raises(DataError, match=r"damaged corpus \(clip clip2 is not what was packed\)"):
            read()


def test_a_corpus_of_another_version_is_one_line_and_not_current(tmp_path):
    path = write(tmp_path / "c").path
    assert is_current(path)
    text = (path / "corpus.json").read_text()
    (path / "corpus.json").write_text(text.replace(f'"corpus_version": {VERSION}', '"corpus_version": 1'))
    assert not is_current(path)
    with pytest.raises(DataError, match=f"packed as version 1, this is version {VERSION}; pack it anew"):
        Corpus.open(path)


def test_a_missing_and_a_foreign_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        Corpus.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a packed corpus"):
        Corpus.open(tmp_path)


def test_two_writers_at_once_leave_one_whole_corpus(tmp_path):
    together = threading.Barrier(2)

    def slow_clips():
        together.wait(timeout=20)  # both are inside before either can finish
        yield from some_clips()

    def run(_: int) -> None:
        pack(tmp_path / "c", slow_clips(), CLASSES, CLASS_CAPTIONS, "target", None, {}, keep_existing=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert Corpus.open(tmp_path / "c").names == ("clip0", "clip1", "clip2")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match="cannot be written"):
        write(tmp_path / "file" / "c")


def test_a_folder_finished_meanwhile_is_kept_where_that_is_asked_for(tmp_path):
    first = write(tmp_path / "c")
    pack(tmp_path / "c", some_clips((40,)), CLASSES, CLASS_CAPTIONS, "target", None, {}, keep_existing=True)
    assert Corpus.open(tmp_path / "c").content_hash == first.content_hash
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
