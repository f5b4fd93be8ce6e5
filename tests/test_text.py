"""Caption encoders: TF-IDF with nothing downloaded, CLIP from a local file, and their disk cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kinemic import text_weights
from kinemic.config import OpenClipConfig, TfidfConfig
from kinemic.errors import CheckpointError, ConfigError, DataError, DataWarning
from kinemic.text import CachedEncoder, TextEncoder, build_encoder, embed, load_encoder, save_encoder
from kinemic.text_tfidf import TfidfEncoder, content_stems, stem

CAPTIONS = [
    "a person kicks with the right leg",
    "a person kicks high and then walks",
    "someone is walking in a circle",
    "a man waves with both hands",
    "the woman waved at a crowd",
    "a person jumps over a box",
    "a person jumped twice",
    "a person sits down on a chair",
]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [
        ("kick", "kicks", "kicking", "kicked"),
        ("jog", "jogs", "jogging", "jogged"),
        ("punch", "punches", "punching"),
        ("wave", "waves", "waving", "waved"),
        ("carry", "carries", "carrying"),
        ("roll", "rolls", "rolling"),
        ("box", "boxes", "boxing"),
        ("swing", "swings"),
    ],
)
def test_inflections_of_a_word_share_a_stem(family):
    assert len({stem(word) for word in family}) == 1


def test_words_that_only_look_alike_keep_their_stems():
    assert len({stem(word) for word in ("bus", "this", "sing", "red", "pass", "walk", "wave")}) == 7


def test_content_words_leave_out_who_and_where():
    assert content_stems("A person is waving up with both of the HANDS.") == ["wav", "both", "hand"]


def test_function_words_do_not_decide_what_a_caption_is_close_to():
    encoder = TfidfEncoder.fit([*CAPTIONS, "someone is on the phone"], 16)
    query, near, far = encoder.encode(["someone is on a walk", "a person kicks high and then walks", CAPTIONS[-1]])
    assert cosine(query, near) > 0.3
    assert abs(cosine(query, far)) < 1e-5


def test_directions_tell_captions_apart():
    encoder = TfidfEncoder.fit(["a person sits down", "a person sits up", "a person falls down"], 8)
    assert cosine(*encoder.encode(["he sits down", "he sits up"])) < 0.9


# --- TF-IDF -------------------------------------------------------------------------------------------------------


def test_captions_of_one_action_come_closer_than_others():
    encoder = TfidfEncoder.fit(CAPTIONS, 8)
    query, near, far = encoder.encode(["he is kicking", "a person kicks with the right leg", "a person jumped twice"])
    assert cosine(query, near) > cosine(query, far) + 0.2


def test_the_width_is_what_was_asked_whatever_the_captions_allow():
    for dim in (2, 5, 64):
        encoder = TfidfEncoder.fit(CAPTIONS, dim)
        rows = encoder.encode(CAPTIONS)
        assert encoder.dim == dim
        assert rows.shape == (len(CAPTIONS), dim)
        assert rows.dtype == np.float32
    assert not rows[:, len(CAPTIONS) :].any()  # beyond the rank
    assert rows[:, : len(CAPTIONS) - 1].any(axis=0).all()


def test_full_rank_keeps_the_cosines_of_tf_idf_itself():
    encoder = TfidfEncoder.fit(CAPTIONS, 64)
    rows = encoder.encode(CAPTIONS)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.sqrt(64), rtol=1e-5)


def test_a_caption_without_a_known_word_is_named():
    encoder = TfidfEncoder.fit(CAPTIONS, 8)
    with pytest.raises(DataError, match=r"caption 'a person zumbas wildly': none of its words \(zumba, wildly\)"):
        encoder.encode(["a person kicks", "a person zumbas wildly"])
    with pytest.raises(DataError, match=r"caption '\.\.\.': none of its words"):
        encoder.encode(["..."])
    with pytest.raises(DataError, match="caption 'a person jumps'"):
        TfidfEncoder.fit(["someone goes up", "a person"], 8).encode(["a person jumps"])
    assert TfidfEncoder.fit(["someone goes up", "a person"], 8).encode(["a person"]).any()


def test_the_id_is_of_the_captions_and_the_width_not_of_their_order():
    ids = [
        TfidfEncoder.fit(c, d).id for c, d in ((CAPTIONS, 8), (CAPTIONS[::-1] * 2, 8), (CAPTIONS, 9), (CAPTIONS[1:], 8))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert ids[0].startswith("tfidf-8-")


def test_nothing_to_fit_on_is_an_error():
    with pytest.raises(DataError, match="no words"):
        TfidfEncoder.fit(["...", ""], 8)


def test_a_saved_encoder_is_the_same_and_holds_no_pickle(tmp_path):
    config = TfidfConfig(dim=6)
    encoder = build_encoder(config, CAPTIONS)
    save_encoder(CachedEncoder(encoder, tmp_path / "cache"), config, tmp_path / "e")
    back = load_encoder(tmp_path / "e")
    assert back.id == encoder.id
    np.testing.assert_array_equal(back.encode(CAPTIONS), encoder.encode(CAPTIONS))
    assert {file.suffix for file in (tmp_path / "e").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("file", ["encoder.json", "tfidf.json", "tfidf.safetensors"])
def test_a_damaged_encoder_is_one_line(tmp_path, file):
    config = TfidfConfig(dim=6)
    save_encoder(build_encoder(config, CAPTIONS), config, tmp_path / "e")
    (tmp_path / "e" / file).write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a readable text encoder") as caught:
        load_encoder(tmp_path / "e")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "place"), [("tfidf.safetensors", -3), ("tfidf.json", 70)])
def test_one_byte_of_a_fit_counts(tmp_path, file, place):
    config = TfidfConfig(dim=6)
    save_encoder(build_encoder(config, CAPTIONS), config, tmp_path / "e")
    content = bytearray((tmp_path / "e" / file).read_bytes())
    content[place] ^= 1
    (tmp_path / "e" / file).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged text encoder: not what was written"):
        load_encoder(tmp_path / "e")


def test_an_encoder_of_another_id_is_refused_with_both(tmp_path):
    config = TfidfConfig(dim=6)
    save_encoder(build_encoder(config, CAPTIONS), config, tmp_path / "e")
    state = json.loads((tmp_path / "e" / "encoder.json").read_text())
    (tmp_path / "e" / "encoder.json").write_text(json.dumps(state | {"id": "tfidf-6-other"}))
    with pytest.raises(CheckpointError, match="made with text encoder tfidf-6-other, now it is tfidf-6-"):
        load_encoder(tmp_path / "e")


# --- CLIP ---------------------------------------------------------------------------------------------------------

TINY = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Register a tiny architecture and save its random weights; the folder holds tiny.pt and tiny.safetensors."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "kinemic-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "kinemic-tiny.json")
    torch.manual_seed(0)
    model = open_clip.create_model("kinemic-tiny")
    torch.save(model.state_dict(), folder / "tiny.pt")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "tiny.safetensors")
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("kinemic-tiny")(CAPTIONS)
        np.save(folder / "expected.npy", model.eval().encode_text(tokens).numpy())
    return folder


@pytest.mark.parametrize("file", ["tiny.pt", "tiny.safetensors"])
def test_a_local_file_gives_the_towers_raw_embeddings(tiny, file):
    config = OpenClipConfig(architecture="kinemic-tiny", pretrained=str(tiny / file), batch_size=3)
    encoder = build_encoder(config)
    rows = encoder.encode(CAPTIONS)
    assert encoder.dim == 12
    assert encoder.encode([]).shape == (0, 12)
    np.testing.assert_allclose(rows, np.load(tiny / "expected.npy"), atol=1e-5)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 0.01  # raw: a prior was trained on these lengths


def test_the_id_names_architecture_and_the_files_content(tiny, tmp_path):
    copy = tmp_path / "copied.safetensors"
    copy.write_bytes((tiny / "tiny.safetensors").read_bytes())
    files = (tiny / "tiny.safetensors", copy, tiny / "tiny.pt")
    ids = [build_encoder(OpenClipConfig(architecture="kinemic-tiny", pretrained=str(f))).id for f in files]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("open_clip-kinemic-tiny-")


def test_a_clip_encoder_is_saved_by_name_and_loaded_again(tiny, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((tiny / "tiny.safetensors").read_bytes())
    config = OpenClipConfig(architecture="kinemic-tiny", pretrained=str(weights))
    encoder = build_encoder(config)
    save_encoder(encoder, config, tmp_path / "e")
    np.testing.assert_array_equal(load_encoder(tmp_path / "e").encode(CAPTIONS), encoder.encode(CAPTIONS))
    weights.write_bytes((tiny / "tiny.pt").read_bytes())  # other weights under the same name
    with pytest.raises((CheckpointError, DataError)):
        load_encoder(tmp_path / "e")


def test_unknown_architecture_and_tag_are_one_line(tiny):
    with pytest.raises(ConfigError, match="no architecture 'ViT-B-33'; did you mean 'ViT-B-32'"):
        build_encoder(OpenClipConfig(architecture="ViT-B-33"))
    with pytest.raises(ConfigError, match=r"'nope': no such file, and no tag of ViT-B-32 \(tags: openai, "):
        build_encoder(OpenClipConfig(pretrained="nope"))
    with pytest.raises(ConfigError, match=r"no tag of kinemic-tiny \(tags: none\)"):
        build_encoder(OpenClipConfig(architecture="kinemic-tiny"))


def test_weights_that_do_not_fit_are_one_line(tiny, tmp_path):
    state = torch.load(tiny / "tiny.pt", weights_only=True)
    save_file({k: v for k, v in state.items() if "ln_final" not in k}, tmp_path / "part.safetensors")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "cut.safetensors").write_bytes((tiny / "tiny.safetensors").read_bytes()[:5000])
    for name in ("part.safetensors", "junk.pt", "cut.safetensors"):
        config = OpenClipConfig(architecture="kinemic-tiny", pretrained=str(tmp_path / name))
        with pytest.raises(CheckpointError, match=r"not (weights of open_clip's|a file of plain)") as caught:
            build_encoder(config)
        assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_ask_for_a_local_file(monkeypatch):
    monkeypatch.setattr(text_weights, "_on_disk", lambda settings: None)
    monkeypatch.setattr(text_weights, "_reachable", lambda url: False)
    with pytest.raises(DataError, match=r"'openai' of ViT-B-32: .*give the path of a local file") as caught:
        build_encoder(OpenClipConfig())
    assert "\n" not in str(caught.value)


def test_an_interrupted_download_is_the_same_one_line(monkeypatch):
    from open_clip import pretrained

    def fail(settings: object) -> str:
        raise FileNotFoundError("Failed to download\nwith details")

    monkeypatch.setattr(text_weights, "_on_disk", lambda settings: None)
    monkeypatch.setattr(text_weights, "_reachable", lambda url: True)
    monkeypatch.setattr(pretrained, "download_pretrained", fail)
    with pytest.raises(DataError, match="give the path of a local file") as caught:
        build_encoder(OpenClipConfig())
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_not_reachable():
    assert not text_weights._reachable("http://127.0.0.1:9")  # the discard port, where nothing listens


# --- the cache ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting:
    """An encoder that remembers what it was asked; a caption's row is its length."""

    id: str = "counting/1"
    dim: int = 3
    asked: list[str] = field(default_factory=list)

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        self.asked.extend(captions)
        return np.array([[len(c)] * self.dim for c in captions], dtype=np.float32).reshape(-1, self.dim)


def test_each_caption_is_embedded_once_ever(tmp_path):
    first = Counting()
    rows = CachedEncoder(first, tmp_path).encode(["aa", "b", "aa", ""])
    assert rows[:, 0].tolist() == [2, 1, 2, 0]
    assert sorted(first.asked) == ["", "aa", "b"]
    second = Counting()
    again = CachedEncoder(second, tmp_path).encode(["b", "ccc", "aa"])
    assert again[:, 0].tolist() == [1, 3, 2]
    assert second.asked == ["ccc"]
    assert CachedEncoder(second, tmp_path).encode([]).shape == (0, 3)


def test_many_captions_come_back_in_their_order(tmp_path):
    captions = ["x" * (i % 97) + str(i) for i in range(1500)]
    encoder = CachedEncoder(Counting(), tmp_path)
    for _ in range(2):
        assert encoder.encode(captions)[:, 0].tolist() == [len(c) for c in captions]


def test_encoders_do_not_share_a_file(tmp_path):
    names = {CachedEncoder(Counting(id=i), tmp_path).file for i in ("a/b", "a_b", "a:b")}
    assert len(names) == 3


def test_writers_at_once_lose_nothing(tmp_path):
    def run(worker: int) -> list[float]:
        captions = ["x" * n for n in range(worker * 50, worker * 50 + 100)]  # each overlaps the next one
        return CachedEncoder(Counting(), tmp_path).encode(captions)[:, 0].tolist()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert results == [[float(n) for n in range(w * 50, w * 50 + 100)] for w in range(4)]
    late = Counting()
    CachedEncoder(late, tmp_path).encode(["x" * n for n in range(250)])
    assert late.asked == []


def test_a_damaged_embedding_is_made_again_with_a_warning(tmp_path):
    encoder = CachedEncoder(Counting(), tmp_path)
    sound = encoder.encode(["a", "bb"])
    with closing(sqlite3.connect(encoder.file)) as database, database:
        (packed,) = database.execute("SELECT vector FROM embeddings WHERE caption = 'bb'").fetchone()
        flipped = bytes([packed[0] ^ 1]) + packed[1:]
        database.execute("UPDATE embeddings SET vector = ? WHERE caption = 'bb'", (flipped,))
    again = CachedEncoder(Counting(), tmp_path)
    with pytest.warns(DataWarning, match="1 embeddings are damaged"):
        np.testing.assert_array_equal(again.encode(["a", "bb"]), sound)
    assert again.encoder.asked == ["bb"]
    np.testing.assert_array_equal(CachedEncoder(Counting(), tmp_path).encode(["bb"]), sound[1:])


def test_a_damaged_cache_and_one_of_another_width_are_one_line(tmp_path):
    encoder = CachedEncoder(Counting(), tmp_path)
    encoder.encode(["a"])
    with pytest.raises(DataError, match="holds rows of 3 numbers, counting/1 has 4"):
        CachedEncoder(Counting(dim=4), tmp_path).encode(["a"])
    encoder.file.write_bytes(b"not a database, and longer than a header of one hundred bytes" * 40)
    with pytest.raises(DataError, match="caption cache can't be used"):
        encoder.encode(["a"])


def test_the_inner_encoders_error_passes_and_stores_nothing(tmp_path):
    encoder = CachedEncoder(TfidfEncoder.fit(CAPTIONS, 4), tmp_path)
    with pytest.raises(DataError, match="zumba"):
        encoder.encode(["a person zumbas", "a person kicks"])
    with sqlite3.connect(encoder.file) as database:
        assert database.execute("SELECT COUNT(*) FROM embeddings").fetchone() == (0,)
    database.close()


def test_embed_gives_each_distinct_caption_its_row(tmp_path):
    encoder: TextEncoder = CachedEncoder(Counting(), tmp_path)
    rows = embed(encoder, ["aa", "b", "aa"])
    assert list(rows) == ["aa", "b"]
    assert rows["aa"].tolist() == [2, 2, 2]
