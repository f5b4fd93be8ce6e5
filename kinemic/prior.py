"""The prior: a text-conditioned motion diffusion model with everything that is needed to use it.

It comes from ``kinemic pretrain`` or from a public MDM checkpoint (``kinemic prior import``).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinemic import __version__, checkpoint
from kinemic.config import ModelConfig
from kinemic.errors import CheckpointError, DataError
from kinemic.models.mdm import MDM, is_ignored
from kinemic.motion import Statistics

KIND = "prior"
_ENCODER_LAYER = "seqTransEncoder.layers.{}.linear1.weight"
_PUBLIC_HEADS = 4  # hard-wired in the public code's options, so a state dict can't tell it


@dataclass(frozen=True)
class Prior:
    """A denoiser with its diffusion steps, its feature statistics and the id of its text encoder."""

    model: MDM
    config: ModelConfig
    diffusion_steps: int
    statistics: Statistics
    encoder_id: str
    meta: Mapping[str, Any] = field(default_factory=dict)


def save_prior(prior: Prior, path: Path) -> None:
    """Write a prior. Raises CheckpointError where the folder can't be written."""
    meta = {
        **prior.meta,
        "kind": KIND,
        "version": __version__,
        "model": prior.config.model_dump(),
        "diffusion_steps": prior.diffusion_steps,
        "encoder_id": prior.encoder_id,
    }
    tensors = {f"model.{name}": tensor for name, tensor in prior.model.state_dict().items()}
    tensors["statistics.mean"] = torch.from_numpy(prior.statistics.mean_F)
    tensors["statistics.std"] = torch.from_numpy(prior.statistics.std_F)
    checkpoint.save(path, tensors, meta)


def load_prior(path: Path, encoder_id: str | None = None) -> Prior:
    """Read a prior, on CPU, in eval mode.

    Raises CheckpointError for a file that is damaged or no prior, and, with both ids, for another text encoder than
    ``encoder_id``.
    """
    tensors, meta = checkpoint.load(path)
    checkpoint.require(meta, {"kind": KIND}, path)
    if encoder_id is not None:
        checkpoint.require(meta, {"encoder_id": encoder_id}, path)
    try:
        config = ModelConfig(**meta["model"])
        statistics = Statistics(tensors["statistics.mean"].numpy(), tensors["statistics.std"].numpy())
        steps, encoder = int(meta["diffusion_steps"]), str(meta["encoder_id"])
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise CheckpointError(f"{path}: not a whole prior ({' '.join(str(error).split())}); write it again") from error
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    model = _loaded(config, weights, path)
    return Prior(model, config, steps, statistics, encoder, meta)


def import_public(pt_file: Path, args_json: Path, statistics_folder: Path, encoder_id: str) -> Prior:
    """Read a public MDM checkpoint (``.pt``, weights only) with its options and the folder of Mean.npy and Std.npy.

    CLIP weights and position tables inside are ignored. Raises CheckpointError for any other unexpected or missing
    tensor, an option that this model doesn't have, and damaged files.
    """
    args = _read_args(args_json)
    weights = {name: tensor for name, tensor in _read_weights(pt_file).items() if not is_ignored(name)}
    config = _config_of(weights, args, pt_file)
    supported = {"arch": "trans_enc", "noise_schedule": "cosine", "dataset": "humanml", "latent_dim": config.width}
    checkpoint.require(args, {key: value for key, value in supported.items() if key in args}, args_json)
    steps = args.get("diffusion_steps")
    if not isinstance(steps, int) or steps < 2:
        raise CheckpointError(f"{args_json}: diffusion_steps is {steps!r}, expected a whole number of at least 2")
    try:
        statistics = Statistics(*(_read_array(statistics_folder / name) for name in ("Mean.npy", "Std.npy")))
    except DataError as error:
        raise CheckpointError(f"{statistics_folder}: {error}") from error
    model = _loaded(config, weights, pt_file)
    return Prior(model, config, steps, statistics, encoder_id, {"imported_from": pt_file.name})


def _loaded(config: ModelConfig, weights: Mapping[str, Tensor], path: Path) -> MDM:
    model = MDM(config)
    expected = model.state_dict()
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(f"{path}: missing tensors {_named(missing)}; unexpected tensors {_named(unexpected)}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(weights[name].shape)}, its other sizes ask for {tuple(tensor.shape)}"
            )
    model.load_state_dict(dict(weights))
    return model.eval()


def _named(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"


def _config_of(weights: Mapping[str, Tensor], args: Mapping[str, Any], path: Path) -> ModelConfig:
    """Read the sizes off the tensors; only the number of heads and the dropout leave no trace there."""
    layers = 0
    while _ENCODER_LAYER.format(layers) in weights:
        layers += 1
    first, text = weights.get(_ENCODER_LAYER.format(0)), weights.get("embed_text.weight")
    if first is None or text is None or first.ndim != 2 or text.ndim != 2:
        raise CheckpointError(f"{path}: expected a text-conditioned MDM encoder, its layers or embed_text are missing")
    try:
        return ModelConfig(
            width=first.shape[1],
            ff=first.shape[0],
            layers=layers,
            heads=args.get("num_heads", _PUBLIC_HEADS),
            dropout=args.get("dropout", 0.1),
            text_dim=text.shape[1],
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: sizes that no model can have: {' '.join(str(error).split())}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; give the checkpoint's .pt") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(f"{path}: not a file of plain weights ({''.join(reason)[:120]})") from error
    # Newer public checkpoints nest the weights beside the optimiser's state; one samples from the running average.
    for key in ("model_avg", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors, got something else")
    return {str(name): tensor for name, tensor in state.items()}


def _read_args(path: Path) -> dict[str, Any]:
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; a public checkpoint needs its args.json beside it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(args, dict):
        raise CheckpointError(f"{path}: expected a mapping of options, got {type(args).__name__}")
    return args


def _read_array(path: Path) -> NDArray[np.float32]:
    try:
        return np.load(path, allow_pickle=False).astype(np.float32)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable .npy array of statistics ({error})") from error
