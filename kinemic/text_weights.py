"""Which weights a configuration of a CLIP text tower names: a tag of open_clip or a local file, and its activation."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinemic.config import OpenClipConfig
from kinemic.errors import ConfigError, DataError
from kinemic.weights import is_torchscript

REACH_S = 10.0
_QUICK_GELU = "-quickgelu"


@dataclass(frozen=True)
class ClipWeights:
    """A file of weights, whether they want QuickGELU, the id of their encoder, and what a user should know of them."""

    file: Path
    quick_gelu: bool
    id: str
    note: str


def find_weights(config: OpenClipConfig) -> ClipWeights:
    """Return the weights of a configuration; those of a tag are downloaded where they aren't on disk.

    Raises ConfigError for an unknown architecture or tag, DataError where the weights can't be had.
    """
    import open_clip

    architecture = config.architecture
    if open_clip.get_model_config(architecture) is None:
        close = difflib.get_close_matches(architecture, open_clip.list_models(), n=1)
        raise ConfigError(
            f"open_clip has no architecture {architecture!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    local = Path(os.path.expanduser(config.pretrained))  # Path.expanduser raises where there is no such user
    return _local(config, local) if local.is_file() else _pretrained(config)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's and the hub's log lines off the terminal: what fails is raised, as one line of our own."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _local(config: OpenClipConfig, file: Path) -> ClipWeights:
    """A file tells its activation only if it is OpenAI's archive; another goes by the architecture's."""
    name, openai = config.architecture, is_torchscript(file)
    wanted, note = _with_quick_gelu(name), ""
    if openai:
        note = _mismatch(config)
        name = wanted
    elif wanted != name and wanted in _architectures():
        note = (
            f"text.pretrained {file}: doesn't tell its activation; GELU is used, as {name} says; OpenAI's weights "
            f"need architecture: {wanted}"
        )
    return ClipWeights(file, openai, f"open_clip-{name}-{_file_hash(file)}", note)


def _with_quick_gelu(architecture: str) -> str:
    """The name of an architecture with QuickGELU in it: the id of an encoder tells activations apart."""
    import open_clip

    own = open_clip.get_model_config(architecture).get("quick_gelu", False)
    return architecture if own else f"{architecture}{_QUICK_GELU}"


def _mismatch(config: OpenClipConfig) -> str:
    """What to say of weights that want QuickGELU under an architecture that doesn't have it; empty for one that has."""
    wanted = _with_quick_gelu(config.architecture)
    if wanted == config.architecture:
        return ""
    advice = f"; write architecture: {wanted}" if wanted in _architectures() else ""
    return (
        f"text.pretrained {config.pretrained}: trained with QuickGELU, so that is used, though {config.architecture} "
        f"is without{advice}"
    )


def _architectures() -> list[str]:
    import open_clip

    return list(open_clip.list_models())


def _pretrained(config: OpenClipConfig) -> ClipWeights:
    """The weights of a tag, which says itself whether it wants QuickGELU: its id needs no -quickgelu."""
    from open_clip import pretrained

    settings = pretrained.get_pretrained_cfg(config.architecture, config.pretrained)
    if not settings:
        tags = ", ".join(pretrained.list_pretrained_tags_by_model(config.architecture)) or "none"
        raise ConfigError(
            f"text.pretrained {config.pretrained!r}: no such file, and no tag of {config.architecture} (tags: {tags})"
        )
    file, error = _on_disk(settings), None
    if file is None and _reachable(_hub()):
        try:
            with quiet():
                file = Path(pretrained.download_pretrained(settings))
        except (OSError, RuntimeError, http.client.HTTPException) as failure:
            error = failure
    if file is None:
        raise DataError(
            f"text.pretrained {config.pretrained!r} of {config.architecture}: the weights are not on disk and can't be "
            "downloaded; give the path of a local file of weights instead of the tag"
        ) from error
    quick_gelu = bool(settings.get("quick_gelu", False))
    name = config.architecture.removesuffix(_QUICK_GELU) if quick_gelu else config.architecture
    note = _mismatch(config) if quick_gelu else ""
    return ClipWeights(file, quick_gelu, f"open_clip-{name}-{config.pretrained}", note)


def _on_disk(settings: Mapping[str, Any]) -> Path | None:
    """A tag's weights in the hub's own cache, asked without the network."""
    import huggingface_hub
    from open_clip.pretrained import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, name = settings.get("hf_hub", "").rpartition("/")
    for file in [name] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]:
        found = huggingface_hub.try_to_load_from_cache(repository, file) if repository else None
        if isinstance(found, str):
            return Path(found)
    return None


def _hub() -> str:
    """Where open_clip keeps the weights of its tags; HF_ENDPOINT names a mirror."""
    import huggingface_hub

    return str(huggingface_hub.constants.ENDPOINT)


def _reachable(url: str) -> bool:
    """Whether a server answers at all: the hub's own client retries for a minute before it gives up."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_S):
            return True
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except (OSError, http.client.HTTPException):
        return False


def _file_hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
