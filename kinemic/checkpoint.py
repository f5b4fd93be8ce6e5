"""Checkpoints: safetensors files that describe themselves and are written whole or not at all.

The header's metadata holds one JSON document: sizes, statistics, class list, text encoder id, seeds, package version.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinemic.errors import CheckpointError

META_KEY = "kinemic"  # the metadata entry that marks a file as ours


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata to ``path``; a reader sees the old file or the whole new one, never a part.

    Tensors may live on any device and share storage. Raises CheckpointError where the folder can't be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    document = json.dumps(dict(meta), allow_nan=False, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            save_file(plain, fresh, metadata={META_KEY: document})
            with fresh.open("rb+") as written:
                os.fsync(written.fileno())
            fresh.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({_reason(error)}); choose a writable folder") from error


def load(path: Path, only: Collection[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (on CPU; those in ``only``, where given, reading no others) and the metadata of a checkpoint.

    Raises CheckpointError, in one line, for a file that is missing, truncated, or not written by ``save``.
    """
    with _opened(path) as file:
        meta = _document(path, file.metadata())
        names = file.keys() if only is None else only
        return {name: file.get_tensor(name) for name in names}, meta


def read_meta(path: Path) -> dict[str, Any]:
    """Return the metadata alone, without reading the tensors. Raises CheckpointError as ``load`` does."""
    with _opened(path) as file:
        return _document(path, file.metadata())


def require(meta: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError, showing both values, where the metadata of ``path`` differs from ``expected``.

    Of nested values it shows the first that differs.
    """
    for key, wanted in expected.items():
        found = meta.get(key)
        if found != wanted:
            if isinstance(found, Mapping) and isinstance(wanted, Mapping):
                inner = next(k for k in (*wanted, *found) if found.get(k) != wanted.get(k))
                key, found, wanted = f"{key}.{inner}", found.get(inner), wanted.get(inner)
            raise CheckpointError(f"{path}: {key} is {found!r}, this run needs {wanted!r}; use a checkpoint that fits")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; check the path") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file ({_reason(error)}); write it again"
        ) from error


def _document(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(META_KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: expected a checkpoint written by kinemic, got another program's safetensors file"
        )
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its metadata is not JSON; write it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: its metadata is a {type(document).__name__}, not a mapping; write it again")
    return document


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
