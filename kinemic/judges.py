"""Trained judges as files: other clips can be scored by them later, and nothing is trained again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from kinemic import __version__, checkpoint
from kinemic.classify import PROFILES, Classifier, new_model
from kinemic.config import JudgeProfile
from kinemic.loading import Metadata, build, read_metadata

KIND: Final = "judge"
FOLDER: Final = "judges"


class _JudgeMetadata(Metadata):
    """What a judge's file says of itself."""

    profile: JudgeProfile
    classes: tuple[str, ...] = Field(min_length=1)
    loss: float


def judge_file(workdir: Path, number: int) -> Path:
    """Return where a trial's folder keeps the judge of its judge seed ``number`` (0, 1, ...)."""
    return workdir / FOLDER / f"judge-{number}.safetensors"


def save_judge(classifier: Classifier, path: Path, classes: Sequence[str], seed: int) -> None:
    """Write a trained judge atomically, with its profile, its classes and the seed that it was trained with."""
    meta = {"kind": KIND, "version": __version__, "profile": classifier.profile, "seed": seed, "loss": classifier.loss}
    meta |= {"shape": _shape(classifier.profile), "classes": list(classes)}
    checkpoint.save(path, classifier.model.state_dict(), meta)


def check_judge(path: Path, profile: JudgeProfile, classes: Sequence[str], seed: int) -> None:
    """Raise CheckpointError, without reading weights, where a file is not the judge of that profile, classes, seed."""
    wanted = {"kind": KIND, "profile": profile, "shape": _shape(profile), "classes": list(classes), "seed": seed}
    checkpoint.require(checkpoint.read_meta(path), wanted, path)


def load_judge(path: Path, device: str = "cpu") -> Classifier:
    """Read a judge, ready to score. Raises CheckpointError for a damaged file, and for one of another size."""
    tensors, meta = checkpoint.load(path)
    checkpoint.require(meta, {"kind": KIND}, path)
    said = read_metadata(meta, _JudgeMetadata, path, KIND)
    checkpoint.require(meta, {"shape": _shape(said.profile)}, path)
    model = build(lambda: new_model(PROFILES[said.profile], len(said.classes), seed=0), tensors, path)
    return Classifier(model.to(device), said.profile, device, said.loss)


def _shape(profile: JudgeProfile) -> dict[str, Any]:
    """What of a profile the weights and their inputs depend on."""
    size = PROFILES[profile]
    return {
        "base_channels": size.base_channels,
        "stages": size.stages,
        "widened": list(size.widened),
        "frames": size.frames,
    }
