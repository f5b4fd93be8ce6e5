"""Caption encoders behind one small protocol; the id of an encoder travels in every checkpoint that depends on it.

Legend: n captions, E embedding width.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from kinemic.config import OpenClipConfig, SentenceConfig, TextConfig
from kinemic.documents import parse_json
from kinemic.errors import CheckpointError, InfrastructureError
from kinemic.faults import writing
from kinemic.text_cache import CachedEncoder
from kinemic.text_clip import OpenClipEncoder, build_open_clip
from kinemic.text_sentence import SentenceEncoder, build_sentence
from kinemic.text_tfidf import TfidfEncoder, content_stems

__all__ = [
    "CachedEncoder",
    "OpenClipEncoder",
    "SentenceEncoder",
    "TextEncoder",
    "TfidfEncoder",
    "build_encoder",
    "content_stems",
    "embed",
    "load_encoder",
    "save_encoder",
]

FILE = "encoder.json"


class TextEncoder(Protocol):
    """What the method needs of a text encoder."""

    @property
    def id(self) -> str:
        """Name of the encoder and its weights: two encoders of one id give the same embeddings."""

    @property
    def dim(self) -> int:
        """Width E of an embedding."""

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Return one raw (not normalised) row per caption, (n, E); raises DataError for one that can't be embedded."""

    def limited(self, tokens: int | None, whole: TextEncoder | None = None) -> TextEncoder:
        """Return the encoder that cuts captions after so many tokens; itself for None, or if it has no tokens.

        Captions that need no cut are left to ``whole``, which may have them already (default: this encoder).
        """


def build_encoder(config: TextConfig, captions: Sequence[str] = (), device: str = "cpu") -> TextEncoder:
    """Return the encoder of a configuration; ``captions`` are what TF-IDF is fitted on, the others ignore them.

    Warns where CLIP's weights want another activation than the architecture has, or don't tell theirs.
    Raises ConfigError, DataError or CheckpointError, each of one line.
    """
    if isinstance(config, OpenClipConfig):
        encoder = build_open_clip(config, device)
        if encoder.note:
            warnings.warn(encoder.note, stacklevel=2)
        return encoder
    if isinstance(config, SentenceConfig):
        return build_sentence(config, device)
    return TfidfEncoder.fit(captions, config.dim)


def embed(encoder: TextEncoder, captions: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return each distinct caption with its embedding (E,)."""
    distinct = list(dict.fromkeys(captions))
    return dict(zip(distinct, encoder.encode(distinct), strict=True))


def save_encoder(encoder: TextEncoder, config: TextConfig, folder: Path) -> None:
    """Write what ``load_encoder`` needs, atomically: the configuration and id, and a fitted encoder's state.

    A folder that another process finished meanwhile is kept. Raises InfrastructureError where the machine
    refuses the write.
    """
    inner = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as room:
                fresh = Path(room) / "fresh"
                fresh.mkdir()
                if isinstance(inner, TfidfEncoder):
                    inner.save(fresh)
                state = {"id": inner.id, "config": config.model_dump(mode="json")}
                (fresh / FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")
                if not (folder / FILE).exists():
                    fresh.rename(folder)
    except InfrastructureError:
        if not (folder / FILE).exists():
            raise


def load_encoder(folder: Path, device: str = "cpu") -> TextEncoder:
    """Read an encoder that ``save_encoder`` wrote. Raises CheckpointError for a damaged one, or one of another id."""
    try:
        state = parse_json((folder / FILE).read_bytes())
        config: TextConfig = TypeAdapter(TextConfig).validate_python(state["config"])
        expected = str(state["id"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        why = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{folder}: not a readable text encoder ({why}); delete it to make a new one") from error
    encoder: TextEncoder
    if isinstance(config, OpenClipConfig):
        encoder = build_open_clip(config, device)
    elif isinstance(config, SentenceConfig):
        encoder = build_sentence(config, device)
    else:
        encoder = TfidfEncoder.load(folder)
    if encoder.id != expected:
        raise CheckpointError(f"{folder}: made with text encoder {expected}, now it is {encoder.id}; delete it")
    return encoder
