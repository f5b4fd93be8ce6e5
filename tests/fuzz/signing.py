"""Digests that fit: damage that somebody made on purpose, beside that which a digest gives away."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from kinemic.checkpoint import DIGESTS_KEY
from kinemic.data.corpus import META, SMALL_FILES, digest_of_meta
from kinemic.digests import digest_of
from tests.fuzz.weights import header, with_header


def sign(folder: Path) -> None:
    """Let the corpora below a folder say the digests of what lies there, and its checkpoints none."""
    for meta in folder.rglob(META):
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            _sign_corpus(meta)
    for file in folder.rglob("*.safetensors"):
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            data = file.read_bytes()
            entries = json.loads(header(data))
            del entries["__metadata__"][DIGESTS_KEY]
            _replace(file, with_header(data, json.dumps(entries).encode()))


def _sign_corpus(file: Path) -> None:
    meta = json.loads(file.read_bytes())
    meta["files"] = {name: digest_of((file.parent / name).read_bytes()) for name in SMALL_FILES}
    meta["digest"] = digest_of_meta(meta)
    _replace(file, json.dumps(meta).encode())


def _replace(file: Path, data: bytes) -> None:
    file.unlink()  # it may be linked to the example
    file.write_bytes(data)
