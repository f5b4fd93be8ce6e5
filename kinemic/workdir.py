"""Whose folder a trial's folder is: what lies in it is replayed, so it must come from the same trial."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinemic import checkpoint
from kinemic.config import RENAMED_SOURCES, TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.documents import parse_json
from kinemic.errors import ConfigError, DataError
from kinemic.files import write_text
from kinemic.report import REPORTS, TrialInputs

FILE = "trial.json"


def identity(inputs: TrialInputs, config: TrialConfig, seeds: Sequence[TrialSeeds]) -> dict[str, Any]:
    """Return what a trial's numbers depend on: settings, seeds, and what those of its inputs that are there hold.

    Clips go by their content, wherever they lie. A prior goes by how it was made and by its statistics, which come from
    files of their own; ``Adaptation.restore`` checks its weights.
    """
    corpora = {"source": inputs.source, "trial_data": inputs.trial_data}
    found: dict[str, Any] = {name: Corpus.open(path).content_hash for name, path in corpora.items() if path.is_dir()}
    if inputs.prior.is_file():
        tensors, meta = checkpoint.load(inputs.prior, only=("statistics.mean", "statistics.std"))
        statistics = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
        made = {key: value for key, value in meta.items() if key not in ("version", "losses")}
        found["prior"] = made | {"statistics": hashlib.blake2b(statistics, digest_size=8).hexdigest()}
    named = {str(repetition): each.model_dump(mode="json") for repetition, each in enumerate(seeds)}
    return {"trial": config.model_dump(mode="json"), "seeds": named, "inputs": found}


def check(workdir: Path, trial: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the first value that differs, where a folder holds scored rungs of another trial.

    ``trial`` holds JSON values by name; names that either side lacks are not compared. Raises DataError for a mark that
    can't be read.
    """
    if not any(workdir.glob(REPORTS)):
        return  # it failed before there was anything to replay
    there = _read(workdir / FILE)
    for name in there.keys() & trial.keys():
        difference = _difference(there[name], trial[name], name)
        if difference:
            raise ConfigError(f"{workdir}: holds another trial ({difference}); give another folder")


def claim(workdir: Path, trial: Mapping[str, Any]) -> None:
    """Mark a folder as that of ``trial``, after ``check``."""
    check(workdir, trial)
    write_text(workdir / FILE, json.dumps(dict(trial), indent=1))


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        trial = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: can't be read ({error}); give another folder") from error
    if not isinstance(trial, dict):
        raise DataError(f"{file}: expected a mapping, got {type(trial).__name__}; give another folder")
    return trial


def _difference(there: Any, wanted: Any, path: str) -> str | None:
    """The first place, by name, where two JSON values differ."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        parts = (_difference(there[k], wanted[k], f"{path}.{k}") for k in sorted(there.keys() & wanted.keys()))
        return next((part for part in parts if part), None)
    if isinstance(there, str):
        there = RENAMED_SOURCES.get(there, there)
    return None if there == wanted else f"{path} is {there!r} there, {wanted!r} here"
