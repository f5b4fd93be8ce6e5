"""How far a search of the mining settings goes: read off similarity curves that are known, and kept with the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import MiningConfig
from kinemic.data.corpus import Clip, Corpus
from kinemic.mining_ranges import mining_ranges
from kinemic.report import MiningRanges
from kinemic.skeleton import NUM_FEATURES
from search import runner
from search.config import validate
from search.space import resolve_space
from tests.toy import TOY

CLASSES = ("walk", "kick", "wave")


@dataclass(frozen=True)
class Told:
    """An encoder of captions such as "walk 0.9": that similar to the class "walk", to no other."""

    id: str = "told"
    dim: int = 8

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(captions), 8), dtype=np.float32)
        for row, caption in zip(rows, captions, strict=True):
            name, *told = caption.split()
            cosine = float(told[0]) if told else 1.0
            row[CLASSES.index(name)] = cosine
            row[7] = (1 - cosine**2) ** 0.5
        return rows

    def limited(self, tokens: int | None, whole: object = None) -> Told:
        return self


def source(folder: Path, captions: Sequence[str]) -> Corpus:
    clip = np.zeros((20, NUM_FEATURES), dtype=np.float32)
    clips = [Clip(f"clip{i}", clip, (caption,)) for i, caption in enumerate(captions)]
    return Corpus.write(folder, clips, (), (), "source")


CAPTIONS = [
    *["walk 0.9"] * 12,
    *[f"walk {0.85 - i / 1000} {i}" for i in range(28)],  # 40 that are close to the best, all others are far from it
    *[f"kick {0.8 - i / 1000} {i}" for i in range(20)],
    *[f"wave {0.6 - i / 1000} {i}" for i in range(3)],
    *[f"wave 0.{1 + i % 3} {i}" for i in range(97)],
]


def test_the_ranges_follow_the_curves(tmp_path: Path) -> None:
    corpus = source(tmp_path / "s", CAPTIONS)
    found = mining_ranges(corpus, [(name,) for name in CLASSES], Told())
    # Close to their best are 40, 20 and 3 clips; 20 of each class reach 0.3, where nothing is left out.
    assert found == MiningRanges(top_k=20, per_caption=12, floor_low=0.3, floor_high=0.8)
    assert mining_ranges(corpus, (("wave",),), Told()).top_k == 16  # no range that is too small to be searched
    assert mining_ranges(corpus, (("walk",),), Told()).top_k == 40
    same = source(tmp_path / "same", ["walk"] * 20)  # word for word what the class is called
    found = mining_ranges(same, (("walk",),), Told())
    assert MiningConfig(floor=found.floor_high).floor == found.floor_low == 0.99


def test_neither_the_order_of_clips_nor_that_of_classes_matters(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(CAPTIONS))
    one = mining_ranges(source(tmp_path / "a", CAPTIONS), [(name,) for name in CLASSES], Told())
    other = source(tmp_path / "b", [CAPTIONS[i] for i in order])
    assert mining_ranges(other, [(name,) for name in reversed(CLASSES)], Told()) == one


@pytest.mark.filterwarnings("ignore::kinemic.errors.DataWarning")
def test_a_search_keeps_the_ranges_that_its_space_was_resolved_with(tmp_path: Path) -> None:
    space = {
        "mining.top_k": {"type": "int", "low": 4, "high": "auto", "log": True},
        "mining.floor": {"type": "float", "low": "auto", "high": "auto"},
    }
    config = validate(TOY | {"name": "toy", "space": space}, "toy.yaml")
    opened = runner.start(config, tmp_path)
    state = opened.folder.state()
    assert state.ranges is not None
    clips = len(Corpus.open(state.inputs.source))
    assert opened.space["mining.top_k"].high == state.ranges.top_k < clips  # type: ignore[union-attr]
    assert runner.reopen("toy", tmp_path).space == opened.space == state.space(config)
    before = replace(state, ranges=None)  # a search of before they were kept
    assert before.space(config) == resolve_space(config.space, clips, config.trial.judge.profile) != opened.space
