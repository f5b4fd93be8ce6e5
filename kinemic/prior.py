"""The prior: a text-conditioned motion diffusion model with everything that is needed to use it.

It comes from ``kinemic pretrain`` or from a public MDM checkpoint (``kinemic prior import``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from kinemic import __version__, checkpoint
from kinemic.config import MAX_DIFFUSION_STEPS, ModelConfig
from kinemic.errors import CheckpointError, DataError
from kinemic.loading import Metadata, load_mdm, read_metadata
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics

KIND = "prior"


@dataclass(frozen=True)
class Prior:
    """A denoiser with its diffusion steps, its feature statistics and the id of its text encoder.

    ``caption_tokens`` is after how many tokens captions were cut in its training, None for the encoder's whole context;
    ``max_frames`` how long clips were at most, None where a file does not say.
    """

    model: MDM
    config: ModelConfig
    diffusion_steps: int
    statistics: Statistics
    encoder_id: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    caption_tokens: int | None = None
    max_frames: int | None = None


class PriorMetadata(Metadata):
    """What a prior's file says of itself; the first priors did not say where captions were cut.

    ``pretrain`` is the recipe of a prior that was trained here.
    """

    model: ModelConfig
    diffusion_steps: int = Field(ge=2, le=MAX_DIFFUSION_STEPS)
    encoder_id: str
    caption_tokens: int | None = Field(None, ge=1)
    pretrain: dict[str, Any] = Field(default_factory=dict)

    @field_validator("pretrain")
    @classmethod
    def _says_how_long(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        frames = recipe.get("max_frames", 1)
        if not isinstance(frames, int) or frames < 1:
            raise ValueError(f"max_frames is {frames!r}, expected a whole number of at least 1")
        return recipe


def save_prior(prior: Prior, path: Path) -> None:
    """Write a prior. Raises CheckpointError where the folder can't be written."""
    meta = {
        **prior.meta,
        "kind": KIND,
        "version": __version__,
        "model": prior.config.model_dump(),
        "diffusion_steps": prior.diffusion_steps,
        "encoder_id": prior.encoder_id,
        "caption_tokens": prior.caption_tokens,
    }
    tensors = {f"model.{name}": tensor for name, tensor in prior.model.state_dict().items()}
    tensors["statistics.mean"] = torch.from_numpy(prior.statistics.mean_F)
    tensors["statistics.std"] = torch.from_numpy(prior.statistics.std_F)
    checkpoint.save(path, tensors, meta)


def load_prior(path: Path, encoder_id: str | None = None, text_dim: int | None = None) -> Prior:
    """Read a prior, on CPU, in eval mode.

    Raises CheckpointError for a file that is damaged or no prior, and for another text encoder than that of
    ``encoder_id``, whose embeddings have ``text_dim`` numbers, where these are given.
    """
    tensors, meta = checkpoint.load(path)
    checkpoint.require(meta, {"kind": KIND}, path)
    if encoder_id is not None:
        checkpoint.require(meta, {"encoder_id": encoder_id}, path)
    said = read_metadata(meta, PriorMetadata, path, KIND)
    if text_dim not in (None, said.model.text_dim):
        raise CheckpointError(
            f"{path}: takes caption embeddings of {said.model.text_dim} numbers, {encoder_id} gives {text_dim}; import "
            "it for the encoder that it was trained with"
        )
    try:
        statistics = Statistics(tensors["statistics.mean"].numpy(), tensors["statistics.std"].numpy())
    except (KeyError, TypeError, DataError) as error:
        raise CheckpointError(f"{path}: not a whole prior ({' '.join(str(error).split())}); write it again") from error
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    model = load_mdm(said.model, weights, path)
    return Prior(
        model,
        said.model,
        said.diffusion_steps,
        statistics,
        said.encoder_id,
        meta,
        said.caption_tokens,
        said.pretrain.get("max_frames"),
    )


def read_caption_tokens(path: Path) -> int | None:
    """Return where a prior's captions are cut, without reading its weights. Raises CheckpointError."""
    return read_metadata(checkpoint.read_meta(path), PriorMetadata, path, KIND).caption_tokens
