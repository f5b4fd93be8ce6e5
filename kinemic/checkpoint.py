"""Checkpoints: safetensors files that describe themselves and are written whole or not at all.

The header's metadata holds one JSON document: sizes, statistics, class list, text encoder id, seeds, package version;
and a digest of it and of every tensor, compared on reading. Files of before there were digests are read without.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinemic.device import to_host
from kinemic.digests import digest_of
from kinemic.documents import parse_json
from kinemic.errors import CheckpointError, one_line
from kinemic.faults import writing
from kinemic.files import create

META_KEY = "kinemic"  # the metadata entry that marks a file as ours
DIGESTS_KEY = "kinemic.digests"  # by tensor; the metadata's own under the empty name


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata to ``path``; a reader sees the old file or the whole new one, never a part.

    Tensors may live on any device and share storage. Raises InfrastructureError where the machine refuses the write.
    """
    plain = {name: to_host(tensor).contiguous().clone() for name, tensor in tensors.items()}
    document = json.dumps(dict(meta), allow_nan=False, sort_keys=True)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            mode = create(fresh)
            save_file(plain, fresh, metadata={META_KEY: document, DIGESTS_KEY: _digests(plain, document)})
            with fresh.open("rb+") as written:
                os.fsync(written.fileno())
            fresh.chmod(mode)  # safetensors keeps its files from all others
            fresh.replace(path)


def load(path: Path, only: Collection[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (on CPU; those in ``only``, where given, reading no others) and the metadata of a checkpoint.

    Raises CheckpointError, in one line, for a file that is missing, truncated, changed, or not written by ``save``.
    """
    with _opened(path) as file:
        meta, digests = _document(path, file.metadata())
        names = file.keys() if only is None else only
        tensors = {name: file.get_tensor(name) for name in names}
        if digests is not None and digests.keys() != set(file.keys()):
            raise _changed(path, "its list of tensors")
        for name, tensor in tensors.items():
            if digests is not None and digests[name] != _digest(tensor):
                raise _changed(path, name)
        return tensors, meta


def read_meta(path: Path) -> dict[str, Any]:
    """Return the metadata alone, without reading the tensors. Raises CheckpointError as ``load`` does."""
    with _opened(path) as file:
        return _document(path, file.metadata())[0]


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


def require_if_there(meta: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Raise as ``require`` does, but only for keys that the metadata has: older files may lack them."""
    require(meta, {key: value for key, value in expected.items() if key in meta}, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; check the path") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file ({one_line(error)}); write it again"
        ) from error


def _document(path: Path, metadata: Mapping[str, str] | None) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The metadata, and the digests of the tensors, None in a file of before there were any."""
    text = (metadata or {}).get(META_KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: expected a checkpoint written by kinemic, got another program's safetensors file"
        )
    document = _mapping(path, text)
    if metadata is None or metadata.keys() == {META_KEY}:
        return document, None
    digests = _mapping(path, metadata.get(DIGESTS_KEY, "{}"))
    if digests.pop("", None) != digest_of(text):
        raise _changed(path, "its metadata")
    return document, digests


def _mapping(path: Path, text: str) -> dict[str, Any]:
    try:
        document = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata is not JSON ({one_line(error)}); write it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: its metadata is a {type(document).__name__}, not a mapping; write it again")
    return document


def _digests(tensors: Mapping[str, Tensor], document: str) -> str:
    return json.dumps({"": digest_of(document)} | {name: _digest(tensor) for name, tensor in tensors.items()})


def _digest(tensor: Tensor) -> str:
    flat = tensor.reshape(-1)
    plain = flat.view(torch.uint8) if len(flat) else torch.empty(0, dtype=torch.uint8)  # torch views no nothing
    return digest_of(f"{tensor.dtype} {tuple(tensor.shape)}", plain.numpy())


def _changed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, {what} is not what was written; write it again, or take another copy")
