"""The readers, splits, checks and mining on real recordings; skipped where the folder is not there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import HumanML3DReader, IdList, JointsReader, MiningConfig, NTUReader, SplitConfig, TfidfConfig
from kinemic.data.check import check_corpus, check_split
from kinemic.data.convert import read_features
from kinemic.data.corpus import Corpus
from kinemic.data.humanml3d import read_statistics
from kinemic.data.prepare import prepare
from kinemic.data.readers import open_raw
from kinemic.data.splits import choose, load_trial_data, make_test_data, make_trial_data
from kinemic.errors import DataError
from kinemic.mining import average_clip_embeddings, mine
from kinemic.motion import features_to_joints
from kinemic.text import build_encoder
from kinemic.text_tfidf import content_stems


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpora")


@pytest.fixture(scope="module")
def utd(recordings: Path, cache: Path) -> Corpus:
    return prepare(JointsReader(path=recordings, files=("target_utd.npz",)), cache, role="target")


def utd10(recordings: Path, **settings: object) -> SplitConfig:
    classes = tuple(json.loads((recordings / "splits.json").read_text())["utd10"]["classes"])
    return SplitConfig(classes=classes, **settings)  # type: ignore[arg-type]


def recorded(recordings: Path, key: str) -> IdList:
    return IdList(file=recordings / "splits.json", key=f"utd10.{key}")


def test_utd_is_read_whole(utd):
    assert len(utd) == 539
    assert len(utd.classes) == 27
    assert all(utd.class_captions)
    assert set(utd.subjects) == {"utd_s1", "utd_s2", "utd_s3", "utd_s5", "utd_s7"}
    assert utd.notes["too_short"] == 0


def test_joints_survive_packing(recordings, utd):
    with np.load(recordings / "target_utd.npz") as z:
        rel, root, start = z["rel"].astype(np.float32), z["root"], z["start"]
    for i in (0, 100, 538):
        clip = (rel + root[:, None])[start[i] : start[i + 1]][:-1]
        back = utd.joints(i)
        # Positions are kept up to where the first frame stands and faces, so distances between joints are the same.
        between = np.linalg.norm(clip[:, :, None] - clip[:, None], axis=-1)[: len(back)]
        np.testing.assert_allclose(np.linalg.norm(back[:, :, None] - back[:, None], axis=-1), between, atol=5e-3)


def test_recorded_five_shots_and_dev_become_trial_data(recordings, utd, tmp_path):
    split = utd10(recordings, train=recorded(recordings, "fewshot.k5_seed0"), dev=recorded(recordings, "dev"))
    make_trial_data(utd, split, tmp_path / "trial")
    data = load_trial_data(tmp_path / "trial")
    corpus = data.corpus
    assert set(Counter(corpus.labels[data.train].tolist()).values()) == {5}
    assert set(Counter(corpus.labels[data.dev].tolist()).values()) == {8}
    assert data.shared_subjects == ()
    assert {corpus.subjects[i] for i in data.dev} == {"utd_s2", "utd_s5"}
    assert "utd_s7" not in corpus.subjects
    assert [f for f in check_split(data) if f.level != "info"] == []
    test = make_test_data(utd, data, tmp_path / "test", subjects=("utd_s7",))
    assert len(test) == 40


def test_drawing_from_the_subjects_themselves_gives_five_but_not_ten(recordings, utd):
    subjects = {"train_subjects": ("utd_s1", "utd_s3"), "dev_subjects": ("utd_s2", "utd_s5")}
    assert len(choose(utd, utd10(recordings, shots=5, **subjects)).train) == 50
    with pytest.raises(DataError, match="8 clips to draw from, 10 shots needed"):
        choose(utd, utd10(recordings, shots=10, **subjects))


def test_draws_of_one_shot_differ_and_come_from_the_recorded_pool(recordings, utd):
    pool, dev = recorded(recordings, "train_pool"), recorded(recordings, "dev")
    listed = set(json.loads((recordings / "splits.json").read_text())["utd10"]["train_pool"])
    drawn = [choose(utd, utd10(recordings, train=pool, dev=dev, shots=1, seed=draw)).train for draw in range(6)]
    assert all(len(set(utd.labels[train].tolist())) == len(train) == 10 for train in drawn)
    assert all({utd.names[i] for i in train} <= listed for train in drawn)
    assert len({tuple(train) for train in drawn}) == 6


def test_source_lists_are_read_over_several_files(recordings, cache):
    files = ("source_hdm05.npz", "source_cmu.npz")
    every = prepare(JointsReader(path=recordings, files=files), cache, role="source")
    assert len(every) + every.notes["too_short"] == 287 + 413
    assert len(every) > 400
    assert every.classes == ()
    assert all(every.captions)
    listed = set(json.loads((recordings / "splits.json").read_text())["source"]["val"])
    with pytest.raises(DataError, match="listed clips are not in"):
        open_raw(
            JointsReader(path=recordings, files=files, ids=IdList(file=recordings / "splits.json", key="source.val")),
            "source",
        )
    assert listed & set(every.names)


def test_ntu_vibe_is_read_with_most_of_its_val_list_missing(recordings, cache):
    reader = NTUReader(path=recordings / "ntu_vibe")
    corpus = prepare(reader, cache, role="target")
    assert len(corpus) == 30
    assert corpus.classes == ("run on the spot", "side kick", "stretch oneself")
    assert corpus.class_captions[1] == ("A person does a side kick.",)
    assert Counter(corpus.labels.tolist()) == {0: 10, 1: 10, 2: 10}
    assert corpus.notes["missing"] > 1000
    warnings = {f.what for f in check_corpus(open_raw(reader)) if f.level == "warning"}
    assert "subjects in train.txt and in val.txt" in warnings
    assert "listed clips that are not there" in warnings


def test_ntu_features_agree_with_the_joints_beside_them(recordings, cache):
    corpus = prepare(NTUReader(path=recordings / "ntu_vibe"), cache)
    for i in range(5):
        shipped = np.load(recordings / "ntu_vibe" / "new_joints" / f"{corpus.names[i]}.npy").reshape(-1, 22, 3)
        np.testing.assert_allclose(corpus.joints(i), shipped[: corpus.lengths[i]], atol=1e-3)


def test_humanml3d_sample_has_features_and_statistics_but_no_texts(recordings):
    folder = recordings / "humanml3d_sample"
    with pytest.raises(DataError, match="texts: no such folder; expected captions"):
        open_raw(HumanML3DReader(path=folder, split=None))
    features, _ = read_features(folder / "new_joint_vecs" / "012314.npy")
    shipped = np.load(folder / "new_joints" / "012314.npy")
    np.testing.assert_allclose(features_to_joints(features), shipped[: len(features)], atol=1e-3)
    assert np.abs(read_statistics(folder).normalise(features)).mean() < 2


def test_no_recording_has_an_error(utd):
    assert [f for f in check_corpus(utd) if f.level != "info"] == []


def test_mining_humanml3ds_captions_finds_what_they_say(recordings):
    lines = (recordings / "captions" / "humanml3d_test_captions.jsonl").read_text().splitlines()
    clips = [json.loads(line) for line in lines]
    captions = [[c for c in clip["captions"] if content_stems(c)] for clip in clips]
    kept = [i for i, texts in enumerate(captions) if texts]
    texts = [c for i in kept for c in captions[i]]
    encoder = build_encoder(TfidfConfig(dim=128), texts)
    clip_of_caption = np.repeat(np.arange(len(kept)), [len(captions[i]) for i in kept])
    averaged = average_clip_embeddings(encoder.encode(texts), clip_of_caption)
    names = [str(clips[i]["case"]) for i in kept]
    queries = {
        "jump": "a person jumps up",
        "kick": "a person kicks",
        "sit": "a person sits down",
        "wave": "a man waves",
    }
    result = mine(averaged, names, [encoder.encode([q]) for q in queries.values()], MiningConfig(top_k=25))
    for word, pool in zip(queries, result.pools, strict=True):
        hits = sum(any(word in c.lower() for c in captions[kept[i]]) for i in pool.indices)
        assert hits >= 23, f"{word}: {hits} of 25"
    assert not set(result.pools[1].indices) & set(result.pools[2].indices)
