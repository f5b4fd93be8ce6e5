"""CLIP text towers of open_clip, which is imported only here and only on use.

Legend: n captions, E embedding width.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import logging
import pickle
import struct
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import OpenClipConfig
from kinemic.errors import CheckpointError, ConfigError, DataError

REACH_S = 10.0


@dataclass(frozen=True)
class OpenClipEncoder:
    """A frozen CLIP text tower: raw embeddings, not of unit length, as the public motion priors were given."""

    id: str
    dim: int
    model: Any
    tokenizer: Any
    device: str
    batch_size: int

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per caption, (n, E); captions beyond the tower's context (77 tokens) are cut."""
        import torch

        rows = [np.zeros((0, self.dim), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(captions), self.batch_size):
                tokens = self.tokenizer(list(captions[start : start + self.batch_size])).to(self.device)
                rows.append(self.model.encode_text(tokens, normalize=False).float().cpu().numpy())
        return np.concatenate(rows)


def build_open_clip(config: OpenClipConfig, device: str) -> OpenClipEncoder:
    """Return the text tower of a configuration: a pretrained tag, downloaded where it isn't on disk, or a local file.

    Raises ConfigError for an unknown architecture or tag, DataError where the weights can't be had, CheckpointError
    where they don't fit the architecture.
    """
    import open_clip

    architecture = config.architecture
    if open_clip.get_model_config(architecture) is None:
        close = difflib.get_close_matches(architecture, open_clip.list_models(), n=1)
        raise ConfigError(
            f"open_clip has no architecture {architecture!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    local = Path(config.pretrained).expanduser()
    if local.is_file():
        weights, quick_gelu, tag = local, False, _file_hash(local)
    else:
        weights, quick_gelu, tag = *_pretrained(config), config.pretrained
    with _quiet():
        model = _load(architecture, weights, quick_gelu, device)
        tokenizer = _tokenizer(architecture)
    del model.visual  # half of the weights, never asked
    encoder = OpenClipEncoder(f"open_clip-{architecture}-{tag}", 0, model, tokenizer, device, config.batch_size)
    return OpenClipEncoder(**{**vars(encoder), "dim": _width(encoder)})


def _pretrained(config: OpenClipConfig) -> tuple[Path, bool]:
    """The weights file of a tag, and whether it wants QuickGELU, which the bare architecture does not say."""
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
            with _quiet():
                file = Path(pretrained.download_pretrained(settings))
        except (OSError, RuntimeError, http.client.HTTPException) as failure:
            error = failure
    if file is None:
        raise DataError(
            f"text.pretrained {config.pretrained!r} of {config.architecture}: the weights are not on disk and can't be "
            "downloaded; give the path of a local file of weights instead of the tag"
        ) from error
    return file, bool(settings.get("quick_gelu", False))


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


def _load(architecture: str, weights: Path, quick_gelu: bool, device: str) -> Any:
    import open_clip
    from safetensors import SafetensorError

    # What torch's and safetensors' readers and open_clip's renaming of keys raise on bytes that are something else.
    unreadable = (RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, StopIteration)
    try:
        model = open_clip.create_model(
            architecture, pretrained=str(weights), force_quick_gelu=quick_gelu, device=device, weights_only=True
        )
    except (*unreadable, pickle.UnpicklingError, struct.error, SafetensorError) as error:
        why = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{weights}: not weights of open_clip's {architecture} ({why})") from error
    return model.eval().requires_grad_(False)


def _tokenizer(architecture: str) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(architecture)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise DataError(
            f"open_clip's {architecture} needs a tokenizer that is not on disk and can't be downloaded; choose an "
            "architecture with the built-in one, such as ViT-B-32"
        ) from error


def _width(encoder: OpenClipEncoder) -> int:
    import torch

    with torch.inference_mode():
        return int(encoder.model.encode_text(encoder.tokenizer(["a person"]).to(encoder.device)).shape[-1])


def _file_hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=6)).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's and the hub's log lines off the terminal: what fails is raised, as one line of our own."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
