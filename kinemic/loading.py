"""Models from checkpoints: neither metadata nor tensors are believed before the other agrees, nor memory taken.

Sizes that a file only claims cost nothing: a model is first laid out on torch's ``meta`` device, which holds no
numbers, and built when every tensor of the file has its place there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from kinemic.config import ModelConfig
from kinemic.errors import CheckpointError
from kinemic.models.mdm import MDM

Meta = TypeVar("Meta", bound="Metadata")
Module = TypeVar("Module", bound=nn.Module)
_LAYER = "seqTransEncoder.layers.{}.linear1.weight"


class Metadata(BaseModel):
    """Base of what a kind of checkpoint says of itself; other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def read_metadata(meta: Mapping[str, Any], model: type[Meta], path: Path, kind: str) -> Meta:
    """Return a checkpoint's metadata as ``model``: a number is a number there, never a text of one.

    Raises CheckpointError naming the first key that is missing or something else.
    """
    try:
        read = model.model_validate(meta)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "metadata"
        raise CheckpointError(f"{path}: not a whole {kind} ({place}: {problem['msg']}); write it again") from error
    wrong = _coerced({name: meta[name] for name in model.model_fields if name in meta}, read.model_dump(mode="json"))
    if wrong:
        raise CheckpointError(f"{path}: not a whole {kind} ({wrong}); write it again")
    return read


def load_mdm(config: ModelConfig, weights: Mapping[str, Tensor], path: Path, actions: int | None = None) -> MDM:
    """Return the denoiser of these sizes with these weights, in evaluation mode; raises as ``build`` does."""
    if config.layers != count_layers(weights):  # before even a layout of them is made
        raise CheckpointError(f"{path}: says {config.layers} layers and holds {count_layers(weights)}; write it again")
    return build(lambda: MDM(config, actions), weights, path)


def count_layers(weights: Mapping[str, Tensor]) -> int:
    """Return how many encoder layers a denoiser's weights hold."""
    layers = 0
    while _LAYER.format(layers) in weights:
        layers += 1
    return layers


def build(make: Callable[[], Module], weights: Mapping[str, Tensor], path: Path) -> Module:
    """Return the module that ``make`` makes with these weights, in evaluation mode.

    Raises CheckpointError for tensors that are missing, unknown, of another shape, or not finite.
    """
    with torch.device("meta"):
        expected = make().state_dict()
    check_tensors(weights, expected, path)
    model = make()
    model.load_state_dict(dict(weights))
    return model.eval()


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError where tensors differ from the expected ones in names, shapes or kind, or aren't finite."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(f"{path}: missing tensors {_named(missing)}; unexpected tensors {_named(unexpected)}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(found[name].shape)}, its other sizes ask for {tuple(tensor.shape)}"
            )
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} holds {found[name].dtype}, expected {tensor.dtype}")
        if found[name].is_floating_point() and not bool(found[name].isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite; take another checkpoint")


def _coerced(given: Any, read: Any, place: str = "") -> str | None:
    """The first place where a value was taken for one of another type, such as a text for a number."""
    if isinstance(given, dict) and isinstance(read, dict):
        parts = (_coerced(value, read.get(key), f"{place}.{key}".lstrip(".")) for key, value in given.items())
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        parts = (_coerced(one, other, place) for one, other in zip(given, read, strict=True))
    elif isinstance(given, str) and isinstance(read, str):  # a name of before is read as today's
        return None
    else:
        return None if given == read else f"{place}: expected {read!r}, got {given!r}"
    return next((part for part in parts if part), None)


def _named(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
