"""Public MDM checkpoints as priors (Tevet et al., arXiv 2209.14916): what they were trained with is read first.

A checkpoint that this method can't use as it was trained is refused, every reason named; what it can is taken over.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinemic.config import MAX_DIFFUSION_STEPS, ModelConfig
from kinemic.documents import parse_json
from kinemic.errors import CheckpointError, DataError
from kinemic.loading import count_layers, load_mdm
from kinemic.models.mdm import is_ignored
from kinemic.motion import Statistics
from kinemic.prior import Prior
from kinemic.skeleton import NUM_FEATURES
from kinemic.weights import read_torch, reason, state_dict

CAPTION_TOKENS: Final = 20  # where the public code cuts HumanML3D's captions, start and end not counted
_PUBLIC_HEADS: Final = 4  # hard-wired in the public code's options, so a state dict can't tell it
_PARALLEL: Final = "module."  # what torch's DataParallel puts before every name

# Options of the public code: the values that this method can use, and what another one means.
_OPTIONS: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "model_type": (("MDM",), "two streams of KineMIC are no prior; import the MDM that they were adapted from"),
    "peft": (([],), "adapters are no part of a prior"),
    "arch": (("trans_enc",), "only the transformer encoder is known here"),
    "dataset": (("humanml",), "only HumanML3D's features are known here"),
    "data_rep": (("hml_vec",), "only HumanML3D's features are known here"),
    "cond_mode": (("text",), "a prior is conditioned on text alone"),
    "unconstrained": ((False,), "a prior is conditioned on text"),
    "num_actions": ((0, 1), "a prior is conditioned on text, not on actions"),
    "text_encoder_type": (("clip",), "captions are embedded by CLIP here"),
    "context_len": ((0,), "it completes a prefix of frames, which nothing here gives"),
    "multi_target_cond": ((False,), "it wants goals for joints, which nothing here gives"),
    "emb_policy": (("add",), "time and text are added here, not put side by side"),
    "noise_schedule": (("cosine",), "the method diffuses by the cosine schedule"),
    "predict_xstart": ((True,), "the method predicts the clean clip, not the noise"),
    "activation": (("gelu",), "the layers have GELU here"),
}
# How tensors' names begin in checkpoints of other kinds, for those whose options don't say so.
_NAMES: Final = {
    "streams.": "KineMIC's own two streams; import the MDM that they were adapted from",
    "seqTransDecoder.": "a transformer decoder (trans_dec); only the encoder is known here",
    "gru.": "a GRU; only the transformer encoder is known here",
    "embed_action.": "conditioned on actions; a prior is conditioned on text alone",
    "embed_target_cond.": "conditioned on goals for joints, which nothing here gives",
}


def import_public(
    pt_file: Path, args_json: Path, statistics_folder: Path, encoder_id: str, text_dim: int | None = None
) -> Prior:
    """Read a public MDM checkpoint (``.pt``, weights only) with its options and the folder of Mean.npy and Std.npy.

    The running average of weights is taken where there is one; CLIP weights and position tables inside are ignored.
    ``text_dim`` is the width of the encoder's embeddings, where it is known. Warns of what was trained otherwise than
    it is used here. Raises CheckpointError for options and tensors that this model doesn't have, and damaged files.
    """
    args = _read_args(args_json)
    misfits = list(_misfits(args))
    if misfits:
        raise CheckpointError(f"{args_json}: {'; '.join(misfits)}")
    weights = _read_weights(pt_file)
    config = _config_of(weights, args, pt_file)
    _check_sizes(config, args, args_json, text_dim)
    try:
        statistics = Statistics(*(_read_array(statistics_folder / name) for name in ("Mean.npy", "Std.npy")))
    except DataError as error:
        raise CheckpointError(f"{statistics_folder}: {error}") from error
    model = load_mdm(config, weights, pt_file)
    for remark in _remarks(args):
        warnings.warn(f"{args_json}: {remark}", stacklevel=2)
    meta = {"imported_from": pt_file.name}
    return Prior(model, config, args["diffusion_steps"], statistics, encoder_id, meta, CAPTION_TOKENS)


def _misfits(args: Mapping[str, Any]) -> Iterator[str]:
    for key, (usable, why) in _OPTIONS.items():
        if key in args and not any(args[key] == value and type(args[key]) is type(value) for value in usable):
            yield f"{key} is {_shown(args[key])}, expected {' or '.join(map(repr, usable))}: {why}"
    steps = args.get("diffusion_steps")
    if type(steps) is not int or not 2 <= steps <= MAX_DIFFUSION_STEPS:
        yield f"diffusion_steps is {_shown(steps)}, expected a whole number from 2 to {MAX_DIFFUSION_STEPS}"


def _remarks(args: Mapping[str, Any]) -> Iterator[str]:
    """What is used otherwise here, but can be used."""
    if not args.get("mask_frames", False):
        yield (
            "trained without mask_frames, so it took padding for frames; here padding is hidden from it, as in "
            "KineMIC's own fine-tuning"
        )
    if args.get("cond_mask_prob") == 0:
        yield "cond_mask_prob is 0: it never saw a dropped condition, so guidance of the bare prior means nothing"


def _config_of(weights: Mapping[str, Tensor], args: Mapping[str, Any], path: Path) -> ModelConfig:
    """Read the sizes off the tensors; only the number of heads and the dropout leave no trace there."""
    for start, what in _NAMES.items():
        if any(name.startswith(start) for name in weights):
            raise CheckpointError(f"{path}: expected a text-conditioned MDM encoder, got {what}")
    pose, text = weights.get("input_process.poseEmbedding.weight"), weights.get("embed_text.weight")
    first = weights.get("seqTransEncoder.layers.0.linear1.weight")
    if first is None or text is None or pose is None or not first.ndim == text.ndim == pose.ndim == 2:
        raise CheckpointError(f"{path}: expected a text-conditioned MDM encoder, its layers or embed_text are missing")
    if pose.shape[1] != NUM_FEATURES:
        raise CheckpointError(
            f"{path}: made for {pose.shape[1]} features a frame, expected HumanML3D's {NUM_FEATURES} (KIT-ML has 251)"
        )
    try:
        return ModelConfig(
            width=first.shape[1],
            ff=first.shape[0],
            layers=count_layers(weights),
            heads=args.get("num_heads", _PUBLIC_HEADS),
            dropout=args.get("dropout", 0.1),
            text_dim=text.shape[1],
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: sizes that no model can have: {' '.join(str(error).split())}") from error


def _check_sizes(config: ModelConfig, args: Mapping[str, Any], path: Path, text_dim: int | None) -> None:
    held = {"latent_dim": config.width, "layers": config.layers, "ff_size": config.ff}
    for key, size in held.items():
        if key in args and args[key] != size:
            raise CheckpointError(f"{path}: {key} is {_shown(args[key])}, the checkpoint has {size}; take its own file")
    if text_dim not in (None, config.text_dim):
        raise CheckpointError(
            f"{path}: its model takes caption embeddings of {config.text_dim} numbers (CLIP's ViT-B/32 has 512, BERT "
            f"768), the encoder gives {text_dim}; give the encoder that it was trained with"
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    state = read_torch(path)
    # Newer public checkpoints nest the weights beside the optimiser's state; one samples from the running average.
    for key in ("model_avg", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if isinstance(state, dict) and all(str(name).startswith(_PARALLEL) for name in state):
        state = {str(name).removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state_dict(state, path).items() if not is_ignored(name)}


def _read_args(path: Path) -> dict[str, Any]:
    try:
        args = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; a public checkpoint needs its args.json beside it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(args, dict):
        raise CheckpointError(f"{path}: expected a mapping of options, got {type(args).__name__}")
    return args


def _read_array(path: Path) -> NDArray[np.float32]:
    try:
        mapped = np.load(path, allow_pickle=False, mmap_mode="r")  # mapped: a header that lies takes no memory
        if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "fiu":
            raise ValueError("expected numbers")
        return np.array(mapped[: NUM_FEATURES + 1], dtype=np.float32)
    except Exception as error:  # whatever numpy's reader makes of a header that is none
        raise CheckpointError(f"{path}: not a readable .npy array of statistics ({reason(error)})") from error


def _shown(value: Any) -> str:
    return repr(value)[:60]
