"""Clip sets over a packed corpus: what a batch holds, and that nothing is copied or changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kinemic.clips import ClipSet, endless_passes
from kinemic.data.corpus import Clip, Corpus
from kinemic.errors import DataError

LENGTHS = (20, 50, 31)


class CountingEncoder:
    """Embeds a caption as (its length, its first letter's code)."""

    id, dim = "counting", 2

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        self.asked.append(list(captions))
        return np.array([[len(c), ord(c[0])] for c in captions], dtype=np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    rng = np.random.default_rng(0)
    captions: tuple[tuple[str, ...], ...] = (("walk", "run fast"), ("jump",), ("walk",))
    clips = [
        Clip(f"clip{i}", (rng.normal(size=(n, 263)) + i).astype(np.float32), captions[i], label=(None, 0, 1)[i])
        for i, n in enumerate(LENGTHS)
    ]
    folder: Path = tmp_path_factory.mktemp("corpus") / "packed"
    return Corpus.write(folder, clips, ["a", "b"], [["someone leaps"], ["a step", "steps"]], "target")


@pytest.fixture
def clips(corpus: Corpus) -> ClipSet:
    return ClipSet.build(corpus, range(len(corpus)), corpus.statistics, CountingEncoder(), max_frames=40)


def test_a_batch_is_normalised_padded_to_its_longest_and_zero_beyond(corpus: Corpus, clips: ClipSet) -> None:
    batch = clips.batch(torch.tensor([0, 2]))
    assert batch.x_BTF.shape == (2, LENGTHS[2], 263)
    assert batch.lengths_B.tolist() == [LENGTHS[0], LENGTHS[2]]
    expected = corpus.statistics.normalise(np.asarray(corpus.clip(0)))
    np.testing.assert_allclose(batch.x_BTF[0, : LENGTHS[0]], expected, atol=1e-5)
    assert (batch.x_BTF[0, LENGTHS[0] :] == 0).all()
    assert batch.labels_B.tolist() == [-1, 1]


def test_a_long_clip_is_cropped_somewhere_inside(corpus: Corpus, clips: ClipSet) -> None:
    whole = torch.from_numpy(corpus.statistics.normalise(np.asarray(corpus.clip(1))))
    starts = set()
    for seed in range(40):
        batch = clips.batch(torch.tensor([1]), torch.Generator().manual_seed(seed))
        assert batch.lengths_B.tolist() == [40]
        start = int((whole - batch.x_BTF[0, 0]).abs().sum(1).argmin())
        torch.testing.assert_close(batch.x_BTF[0], whole[start : start + 40])
        starts.add(start)
    assert len(starts) > 5
    assert max(starts) <= 10


def test_every_caption_of_a_clip_is_drawn_and_only_its_own(clips: ClipSet) -> None:
    drawn = {
        float(clips.batch(torch.tensor([0]), torch.Generator().manual_seed(seed)).text_BE[0, 0]) for seed in range(20)
    }
    assert drawn == {len("walk"), len("run fast")}


def test_a_clip_of_a_class_goes_by_the_classs_captions(clips: ClipSet) -> None:
    text = clips.batch(torch.tensor([1, 2])).text_BE[:, 0]
    assert text.tolist() == [len("someone leaps"), len("a step")]


def test_each_caption_is_embedded_once(corpus: Corpus) -> None:
    encoder = CountingEncoder()
    ClipSet.build(corpus, [0, 0, 1], corpus.statistics, encoder)
    assert encoder.asked == [["walk", "run fast", "someone leaps"]]


def test_indices_choose_clips_over_the_corpus_own_memory(corpus: Corpus) -> None:
    chosen = ClipSet.build(corpus, [2], corpus.statistics, CountingEncoder())
    assert len(chosen) == 1
    assert chosen.features.data_ptr() == corpus.features.__array_interface__["data"][0]
    whole = corpus.statistics.normalise(np.asarray(corpus.clip(2)))
    np.testing.assert_allclose(chosen.batch(torch.tensor([0])).x_BTF[0], whole, atol=1e-5)


def test_drawing_leaves_the_corpus_as_it_was(corpus: Corpus, clips: ClipSet) -> None:
    before = np.array(corpus.features)
    clips.batch(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(corpus.features, before)


def test_a_set_knows_the_statistics_that_it_was_made_with(corpus: Corpus, clips: ClipSet) -> None:
    np.testing.assert_array_equal(clips.statistics.std_F, corpus.statistics.std_F)


def test_a_clip_without_a_caption_is_named(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(20, 263)).astype(np.float32)
    corpus = Corpus.write(tmp_path / "mute", [Clip("silent", features)], [], [], "source")
    with pytest.raises(DataError, match="silent has no caption"):
        ClipSet.build(corpus, [0], corpus.statistics, CountingEncoder())


@pytest.mark.parametrize("size", [3, 7, 10, 25])
def test_passes_show_every_clip_once_and_do_not_depend_on_where_they_are_cut(size: int) -> None:
    clips = 10
    row = torch.cat([endless_passes(clips, first, size, seed=5) for first in range(0, 20 * size, size)])
    torch.testing.assert_close(row, endless_passes(clips, 0, 20 * size, seed=5))
    passes = row[: len(row) // clips * clips].view(-1, clips)
    assert all(sorted(p) == list(range(clips)) for p in passes.tolist())
    assert len({tuple(p) for p in passes.tolist()}) == len(passes)
