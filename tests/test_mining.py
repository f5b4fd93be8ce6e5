"""Pools of soft positives: what is in them, in which order, and that no file order shows through."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kinemic.config import MiningConfig, TfidfConfig
from kinemic.data.corpus import Clip, Corpus
from kinemic.errors import DataError
from kinemic.mining import SourceCaptions, average_clip_embeddings, mine, mine_corpus
from kinemic.mining_tables import best_captions, clip_table, pool_table
from kinemic.skeleton import NUM_FEATURES
from kinemic.text import build_encoder

CLIPS, WIDTH = 300, 24
RNG = np.random.default_rng(7)
EMBEDDINGS = (RNG.standard_normal((CLIPS, WIDTH)) + 1).astype(np.float32)
NAMES = [f"clip{i:04d}" for i in range(CLIPS)]
QUERIES = [(RNG.standard_normal((count, WIDTH)) + 1).astype(np.float32) for count in (1, 2, 1)]


def cosines(queries: np.ndarray, clips: np.ndarray = EMBEDDINGS) -> np.ndarray:
    """Similarity (Q, N) the slow way."""
    unit = clips.astype(np.float64) / np.linalg.norm(clips.astype(np.float64), axis=1, keepdims=True)
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float64) @ unit.T


def pools(config: MiningConfig, embeddings: np.ndarray = EMBEDDINGS, names: list[str] = NAMES) -> list[list[str]]:
    return [[names[i] for i in pool.indices] for pool in mine(embeddings, names, QUERIES, config).pools]


def test_a_pool_is_the_top_k_best_first():
    result = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=20))
    for pool, query in zip(result.pools, QUERIES, strict=True):
        similarity = cosines(query).max(axis=0)
        expected = np.argsort(-similarity)[:20]
        assert pool.indices.tolist() == expected.tolist()
        np.testing.assert_allclose(pool.similarities, similarity[expected], atol=1e-6)
        assert not pool.fallback
        assert not pool.clamped
    assert result.warnings == ()


def test_a_clip_is_as_similar_as_the_closest_of_a_classs_captions():
    pool = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=5)).pools[1]
    one, other = cosines(QUERIES[1])
    np.testing.assert_allclose(pool.similarities, np.maximum(one, other)[pool.indices], atol=1e-6)


def test_averaging_normalises_before_and_not_after():
    rows = np.array([[3, 0], [0, 0.5], [0, 2]], dtype=np.float32)
    average = average_clip_embeddings(rows, np.array([0, 0, 1]))
    np.testing.assert_allclose(average, [[0.5, 0.5], [0, 1]])


def test_a_clip_without_a_caption_is_refused():
    with pytest.raises(DataError, match="source clip 1 has no caption"):
        average_clip_embeddings(np.ones((2, 3), np.float32), np.array([0, 2]))


# --- order --------------------------------------------------------------------------------------------------------


def repeated() -> np.ndarray:
    """300 clips of 12 distinct embeddings, as in a source whose captions are made from labels."""
    return np.repeat(EMBEDDINGS[:12], CLIPS // 12, axis=0)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
@pytest.mark.parametrize("embeddings", [EMBEDDINGS, repeated()], ids=["distinct", "repeated"])
def test_the_file_order_of_clips_changes_nothing(embeddings, threshold):
    config = MiningConfig(top_k=37, threshold=threshold)
    straight = pools(config, embeddings)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(CLIPS)
        assert pools(config, embeddings[order], [NAMES[i] for i in order]) == straight


def test_rounding_of_the_product_settles_no_tie():
    """Rows of one embedding get last bits that depend on their place in a float32 product; the pools must not."""
    rng = np.random.default_rng(3)
    wide = np.repeat(rng.standard_normal((17, 512)).astype(np.float32) + 2, 59, axis=0)  # 1003: odd
    names = [f"clip{i:04d}" for i in range(len(wide))]
    query = [rng.standard_normal((1, 512)).astype(np.float32) + 2]
    found = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(wide))
        pool = mine(wide[order], [names[i] for i in order], query, MiningConfig(top_k=260)).pools[0]
        found.append([names[order[i]] for i in pool.indices])
    assert found[0] == found[1] == found[2]


def test_ties_are_not_settled_by_the_order_of_names():
    equal = np.ones((50, WIDTH), np.float32)
    names = [f"a{i:02d}" for i in range(50)]
    pool = [names[i] for i in mine(equal, names, QUERIES[:1], MiningConfig(top_k=10)).pools[0].indices]
    assert pool not in (names[:10], names[-10:], names[::-1][:10])
    assert mine(equal, names, QUERIES[:1], MiningConfig(top_k=10)).pools[0].similarities.std() == 0


# --- threshold, fallback, clamping --------------------------------------------------------------------------------


def test_the_threshold_is_a_quantile_of_the_classs_own_similarities():
    result = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=200, threshold=0.9))
    for pool, query in zip(result.pools, QUERIES, strict=True):
        similarity = cosines(query).max(axis=0)
        assert pool.threshold == pytest.approx(np.quantile(similarity, 0.9), abs=1e-6)
        assert set(pool.indices) == set(np.flatnonzero(similarity >= np.quantile(similarity, 0.9)))
        assert len(pool.indices) == 30
        assert not pool.fallback


def test_a_threshold_of_0_is_off():
    pool = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=CLIPS)).pools[0]
    assert len(pool.indices) == CLIPS
    assert pool.threshold == pytest.approx(cosines(QUERIES[0]).min(), abs=1e-6)


def test_a_pool_that_the_threshold_leaves_too_small_falls_back_to_the_best():
    config = MiningConfig(top_k=50, threshold=0.999, min_pool=6)
    result = mine(EMBEDDINGS, NAMES, QUERIES, config)
    best = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=6))
    assert [p.indices.tolist() for p in result.pools] == [p.indices.tolist() for p in best.pools]
    assert [p.fallback for p in result.pools] == [True] * 3
    assert result.fallbacks == 3
    assert "leaves fewer than 6 clips in classes 0, 1, 2: the best 6 are taken" in result.warnings[0]


def test_no_clip_below_the_floor_is_mined_and_a_class_may_mine_nothing():
    best = [cosines(query).max() for query in QUERIES]
    floor = sorted(best)[1] - 0.01
    config = MiningConfig(top_k=50, threshold=0.99, min_pool=6, floor=floor)
    result = mine(EMBEDDINGS, NAMES, QUERIES, config)
    for pool, query, closest in zip(result.pools, QUERIES, best, strict=True):
        similarity = cosines(query).max(axis=0)
        above = np.argsort(-similarity)[: (similarity >= floor).sum()]
        kept = max((similarity[above] >= np.quantile(similarity, 0.99)).sum(), min(6, len(above)))
        assert pool.indices.tolist() == above[:kept].tolist()
        assert pool.best == pytest.approx(closest, abs=1e-6)
    least = int(np.argmin(best))
    expected = rf"floor \S+ no source clip is that similar to classes {least} \({best[least]:.2f}\): they mine nothing"
    assert any(re.search(expected, line) for line in result.warnings)
    assert result.overlap()[least].tolist() == [0, 0, 0]
    none = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=5, floor=0.999))
    assert [len(pool.indices) for pool in none.pools] == [0, 0, 0]


def test_the_file_order_of_clips_decides_no_sentence():
    texts = [f"sentence {i % 12}" for i in range(CLIPS)]
    config = MiningConfig(top_k=40, per_caption=2)
    found = []
    for order in (np.arange(CLIPS), RNG.permutation(CLIPS)):
        captions = SourceCaptions.of([texts[i] for i in order], EMBEDDINGS[order], np.arange(CLIPS))
        names = [NAMES[i] for i in order]
        result = mine(EMBEDDINGS[order], names, QUERIES, config, captions)
        found.append([[names[i] for i in pool.indices] for pool in result.pools])
    assert found[0] == found[1]
    for pool, query in zip(found[0], QUERIES, strict=True):
        similarity = cosines(query).max(axis=0)
        of = {k: [i for i in np.argsort(-similarity) if texts[i] == f"sentence {k}"][:2] for k in range(12)}
        expected = sorted((i for two in of.values() for i in two), key=lambda i: -similarity[i])
        assert pool == [NAMES[i] for i in expected]


def test_top_k_below_min_pool_is_no_fallback():
    result = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=2, min_pool=6))
    assert [len(p.indices) for p in result.pools] == [2, 2, 2]
    assert result.fallbacks == 0


def test_top_k_above_the_source_is_clamped_with_a_warning():
    result = mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=301))
    assert all(p.clamped and len(p.indices) == CLIPS for p in result.pools)
    assert "top_k 301 is above the source's 300 clips" in result.warnings[0]
    assert not mine(EMBEDDINGS, NAMES, QUERIES, MiningConfig(top_k=CLIPS)).pools[0].clamped


def test_an_embedding_of_zeros_is_similar_to_nothing():
    embeddings = EMBEDDINGS.copy()
    embeddings[5] = 0
    pool = mine(embeddings, NAMES, QUERIES[:1], MiningConfig(top_k=CLIPS)).pools[0]
    assert pool.similarities[pool.indices == 5] == 0


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([np.ones((1, 3), np.float32)], r"class 0 needs captions of shape \(1 or more, 24\), got \(1, 3\)"),
        ([np.ones((0, WIDTH), np.float32)], "class 0 needs captions"),
    ],
)
def test_queries_of_another_width_or_none_are_refused(queries, message):
    with pytest.raises(DataError, match=message):
        mine(EMBEDDINGS, NAMES, queries, MiningConfig())


# --- what is recorded ---------------------------------------------------------------------------------------------

TEXTS = {
    "walk1": ("a person walks in a circle", "someone is walking"),
    "walk2": ("a man walks forward",),
    "kick1": ("a person kicks high",),
    "kick2": ("someone kicks, then walks away", "a person is kicking"),
    "jump1": ("a person jumps",),
    "jump2": ("a woman jumped over a box",),
}
PROMPTS = (("a person is walking",), ("he kicks",))


@pytest.fixture
def source(tmp_path: Path) -> Corpus:
    rng = np.random.default_rng(0)
    clips = [Clip(n, rng.standard_normal((40, NUM_FEATURES)).astype(np.float32), c) for n, c in TEXTS.items()]
    return Corpus.write(tmp_path / "source", clips, (), (), "source")


def mined(source: Corpus, top_k: int = 3):
    encoder = build_encoder(TfidfConfig(dim=16), [c for captions in source.captions for c in captions])
    return mine_corpus(source, PROMPTS, encoder, MiningConfig(top_k=top_k))


def test_captions_lead_to_the_clips_they_speak_of(source):
    result = mined(source, 2)
    assert {source.names[i] for i in result.pools[0].indices} == {"walk1", "walk2"}
    assert {source.names[i] for i in result.pools[1].indices} == {"kick1", "kick2"}


def test_the_pool_table_counts_overlap_and_shared_words(source):
    result = mined(source, 3)
    names = [{source.names[i] for i in pool.indices} for pool in result.pools]
    rows = pool_table(result, source, ("walk", "kick"), PROMPTS)
    assert [row["class"] for row in rows] == ["walk", "kick"]
    walking = {"walk1", "walk2", "kick2"}
    assert rows[0]["shared_words"] == len(names[0] & walking)
    assert rows[1]["shared_words"] == len(names[1] & {"kick1", "kick2"}) == 2
    shared = len(names[0] & names[1])
    assert shared > 0
    assert rows[0]["in_other_pools"] == rows[1]["in_other_pools"] == shared
    assert rows[0]["most_shared_with"] == "kick"
    assert result.overlap().tolist() == [[3, shared], [shared, 3]]
    json.dumps(rows)  # an artifact: plain values alone


def test_a_pool_takes_so_many_clips_of_one_sentence(tmp_path):
    texts = {
        "a": ("a person walks", "zzz yyy"),
        "b": ("A  person walks", "yyy zzz"),  # the same sentence
        "c": ("zzz yyy", "a person walks"),
        "d": ("a person walks away",),
        "e": ("a person kicks", "zzz yyy"),
    }
    clip = np.zeros((40, NUM_FEATURES), np.float32)
    corpus = Corpus.write(tmp_path / "s", [Clip(n, clip, c) for n, c in texts.items()], (), (), "source")
    encoder = build_encoder(TfidfConfig(dim=16), [c for captions in texts.values() for c in captions])

    def names(label: int, **settings: int) -> set[str]:
        result = mine_corpus(corpus, (("a person walks",), ("he kicks",)), encoder, MiningConfig(**settings))
        return {corpus.names[i] for i in result.pools[label].indices}

    assert names(0, top_k=3) == {"a", "b", "c"}
    for most in (1, 2):
        found = names(0, top_k=2 + most, per_caption=most)
        assert {"d", "e"} <= found
        assert len(found & {"a", "b", "c"}) == most


def test_a_clip_goes_by_its_caption_that_is_closest_to_the_class():
    unit = np.array([[1, 0], [0, 1], [0, 1], [0.6, 0.8]], dtype=np.float32)
    captions = SourceCaptions.of(["walk", "KICK ", "kick", "both"], unit, np.array([0, 0, 1, 1]))
    walk, kick, both = captions.sentences[[0, 1, 3]]
    assert captions.closest(unit[:1]).tolist() == [walk, both]
    assert captions.closest(unit[1:2]).tolist() == [kick, kick]
    assert captions.closest(unit[3:]).tolist() == [kick, both]
    assert captions.closest(np.array([[0.5**0.5, 0.5**0.5]], np.float32))[0] == min(walk, kick)  # equally close


def test_tables_of_a_class_that_mines_nothing(source):
    encoder = build_encoder(TfidfConfig(dim=16), [c for captions in source.captions for c in captions])
    result = mine_corpus(
        source, (*PROMPTS, ("a box",)), encoder, MiningConfig(top_k=3, floor=0.866)
    )  # 0.876, 0.872, 0.860
    assert [len(pool.indices) for pool in result.pools] == [1, 1, 0]
    row = pool_table(result, source, ("walk", "kick", "box"), (*PROMPTS, ("a box",)))[2]
    assert row["clips"] == row["shared_words"] == row["in_other_pools"] == 0
    assert 0 < row["similarity_best"] < 0.866
    assert row["similarity_mean"] is row["similarity_last"] is row["most_shared_with"] is None
    assert best_captions(result, source, 2, ("a box",), 5) == []
    assert {row["class"] for row in clip_table(result, source, ("walk", "kick", "box"))} == {"walk", "kick"}


def test_clips_and_captions_can_be_listed(source):
    result = mined(source, 2)
    rows = clip_table(result, source, ("walk", "kick"), first=1)
    assert [(row["class"], row["rank"]) for row in rows] == [("walk", 1), ("kick", 1)]
    assert json.loads(json.dumps(rows))[1]["similarity"] == pytest.approx(float(result.pools[1].similarities[0]))
    best = {caption: clips for caption, _, clips in best_captions(result, source, 1, PROMPTS[1], first=5)}
    assert best == {"a person kicks high": 1, "someone kicks, then walks away": 1}


def test_a_source_clip_without_captions_is_named(tmp_path):
    clip = Clip("mute", np.zeros((40, NUM_FEATURES), np.float32))
    corpus = Corpus.write(tmp_path / "s", [clip], (), (), "source")
    with pytest.raises(DataError, match="source clip mute has no caption"):
        mine_corpus(corpus, PROMPTS, build_encoder(TfidfConfig(dim=4), ["a person walks"]), MiningConfig())


def test_the_command_prints_the_best_captions_with_their_similarity(tmp_path):
    from kinemic.commands.mine import mine as command

    experiment = {
        "data": {
            "source": {"format": "generated", "clips": 12},
            "target": {"format": "generated", "part": "target", "clips": 24},
            "split": {"classes": ["kick"], "shots": 2, "dev_subjects": ["s02"]},
        },
        "text": {"encoder": "tfidf", "dim": 16},
        "prior": {"path": "none.safetensors"},
        "trial": {"mining": {"top_k": 3}},
    }
    file = tmp_path / "e.yaml"
    file.write_text(json.dumps(experiment))
    result = CliRunner().invoke(
        command, [str(file), "--runs", str(tmp_path / "runs"), "--show", "2", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert "kick" in result.output
    assert "similarity" in result.output
    floor = ["--set", "trial.mining.floor=0.99", "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    result = CliRunner().invoke(command, [str(file), *floor])
    assert result.exit_code == 0, result.output
    assert "no source clip is that similar to classes 0 (0." in " ".join(result.output.split())
    result = CliRunner().invoke(
        command, [str(file), "--runs", str(tmp_path / "runs"), "--caption", "a person waves", "--device", "cpu"]
    )
    assert "a person waves" in result.output
