"""Trained judges as files: other clips can be scored by them later, and nothing is trained again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from kinemic import __version__, checkpoint
from kinemic.classify import Classifier
from kinemic.config import RENAMED_PROFILES, JudgeProfile
from kinemic.errors import CheckpointError
from kinemic.judge_profiles import PROFILES
from kinemic.loading import Metadata, build, read_metadata

KIND: Final = "judge"
FOLDER: Final = "judges"
CLASSIFIER: Final = "classifier.safetensors"  # of a trial and of an exported folder: the judge of the first judge seed


class _JudgeMetadata(Metadata):
    """What a judge's file says of itself."""

    profile: JudgeProfile
    classes: tuple[str, ...] = Field(min_length=1)
    loss: float


def judge_file(workdir: Path, number: int) -> Path:
    """Return where a trial's folder keeps the judge of its judge seed ``number`` (0, 1, ...)."""
    return workdir / FOLDER / f"judge-{number}.safetensors"


def save_judge(classifier: Classifier, path: Path, classes: Sequence[str], seed: int) -> None:
    """Write a trained judge atomically: its profile, classes, input recipe, and the seed that it was trained with."""
    meta = {"kind": KIND, "version": __version__, "profile": classifier.profile, "seed": seed, "loss": classifier.loss}
    meta |= {**_recipe(classifier.profile), "classes": list(classes)}
    checkpoint.save(path, classifier.model.state_dict(), meta)


def check_judge(path: Path, profile: JudgeProfile, classes: Sequence[str], seed: int) -> None:
    """Raise CheckpointError, without reading weights, where a file is not the judge of that profile, classes, seed."""
    wanted = {"kind": KIND, "profile": profile, **_recipe(profile), "classes": list(classes), "seed": seed}
    checkpoint.require(checkpoint.read_meta(path), wanted, path)


def load_judge(path: Path, device: str = "cpu") -> Classifier:
    """Read a judge, ready to score; raises as ``load_judge_and_classes`` does."""
    return load_judge_and_classes(path, device)[0]


def load_classifier(model: Path, device: str = "cpu") -> tuple[Classifier, tuple[str, ...]]:
    """Read the classifier of an exported folder, or its file; raises as ``load_judge_and_classes`` does."""
    path = model / CLASSIFIER if model.is_dir() else model
    if model.is_dir() and not path.exists():
        raise CheckpointError(f"{model}: holds no {CLASSIFIER}; export the trial again, from a search of this version")
    return load_judge_and_classes(path, device)


def load_judge_and_classes(path: Path, device: str = "cpu") -> tuple[Classifier, tuple[str, ...]]:
    """Read a judge, ready to score, and the names of its classes, in the order of its logits.

    Raises CheckpointError for a damaged file, and for one whose weights or inputs are not those of its profile today.
    """
    tensors, meta = checkpoint.load(path)
    checkpoint.require(meta, {"kind": KIND}, path)
    _refuse_earlier(meta, path)
    said = read_metadata(meta, _JudgeMetadata, path, KIND)
    checkpoint.require(meta, _recipe(said.profile), path)
    size = PROFILES[said.profile].size
    model = build(lambda: size.build(len(said.classes), seed=0), tensors, path)
    return Classifier(model.to(device), said.profile, device, said.loss), said.classes


def _refuse_earlier(meta: dict[str, Any], path: Path) -> None:
    profile = meta.get("profile")
    if profile in list(RENAMED_PROFILES):  # any value may stand there
        raise CheckpointError(
            f"{path}: a {profile!r} judge, written by version {meta.get('version')}; "
            f"version {__version__} has no such classifier: train it again"
        )


def _recipe(profile: JudgeProfile) -> dict[str, Any]:
    """What the weights are for: the network's sizes, and how clips become its inputs (``kinemic.judge_inputs``)."""
    inputs = {"frames": PROFILES[profile].frames, "joints": "pelvis-centred, facing +z", "layout": "smpl22"}
    return {"shape": PROFILES[profile].shape, "inputs": inputs}
