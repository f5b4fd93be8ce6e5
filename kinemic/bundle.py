"""A trained generator as one self-contained file: merged weights, statistics, classes, prompts already embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator

from kinemic import __version__, checkpoint
from kinemic.config import MAX_DIFFUSION_STEPS, ModelConfig, SynthesisConfig, TrialConfig, TrialSeeds
from kinemic.data.convert import MAX_FRAMES
from kinemic.errors import CheckpointError, ConfigError, DataError
from kinemic.loading import Metadata, check_tensors, load_mdm, read_metadata
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.progress import ProgressCallback, silent
from kinemic.synthesis import Synthetic, synthesise

KIND = "generator"
FILE_NAME = "generator.safetensors"

Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES)]


class _BundleMetadata(Metadata):
    """What a bundle's file says of itself."""

    model: ModelConfig
    diffusion_steps: int = Field(ge=2, le=MAX_DIFFUSION_STEPS)
    classes: tuple[str, ...] = Field(min_length=1)
    captions: tuple[tuple[str, ...], ...]
    lengths: tuple[tuple[Frames, ...], ...]
    trial: TrialConfig
    seeds: TrialSeeds
    encoder_id: str
    caption_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_a_class(self) -> _BundleMetadata:
        if not len(self.classes) == len(self.captions) == len(self.lengths):
            raise ValueError("expected captions and lengths of every class")
        return self


@dataclass(frozen=True)
class GeneratorBundle:
    """Everything that generation needs, so that no corpus, prior or text encoder has to be present.

    ``text`` holds one (prompts, E) array of raw caption embeddings a class; ``lengths`` the few shots' frames a class,
    none for a class that it was not adapted to.
    """

    model: MDM
    model_config: ModelConfig
    statistics: Statistics
    diffusion_steps: int
    classes: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    text: tuple[torch.Tensor, ...]
    lengths: tuple[tuple[int, ...], ...]
    trial: TrialConfig
    seeds: TrialSeeds
    encoder_id: str
    caption_tokens: int | None = None  # where captions were cut for it; None: at the encoder's context

    def save(self, path: Path) -> None:
        """Write the bundle atomically as safetensors."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {
            "statistics.mean": torch.as_tensor(self.statistics.mean_F),
            "statistics.std": torch.as_tensor(self.statistics.std_F),
        }
        tensors |= {f"text.{c}": text for c, text in enumerate(self.text)}
        meta = {
            "kind": KIND,
            "version": __version__,
            "model": self.model_config.model_dump(),
            "diffusion_steps": self.diffusion_steps,
            "classes": list(self.classes),
            "captions": [list(c) for c in self.captions],
            "lengths": [list(n) for n in self.lengths],
            "trial": self.trial.model_dump(mode="json"),
            "seeds": self.seeds.model_dump(mode="json"),
            "encoder_id": self.encoder_id,
            "caption_tokens": self.caption_tokens,
        }
        checkpoint.save(path, tensors, meta)

    @classmethod
    def load(cls, path: Path) -> GeneratorBundle:
        """Read a bundle file, or the one in a folder. Raises CheckpointError."""
        path = path / FILE_NAME if path.is_dir() else path
        tensors, meta = checkpoint.load(path)
        checkpoint.require(meta, {"kind": KIND}, path)
        try:
            return cls._read(tensors, read_metadata(meta, _BundleMetadata, path, KIND), path)
        except (KeyError, TypeError, ValueError, DataError) as error:
            why = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{path}: not a whole generator ({why}); export it again") from error

    @classmethod
    def _read(cls, tensors: Mapping[str, torch.Tensor], meta: _BundleMetadata, path: Path) -> GeneratorBundle:
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        text = tuple(tensors[f"text.{c}"] for c in range(len(meta.classes)))
        for embeddings, captions in zip(text, meta.captions, strict=True):
            expected = torch.empty(len(captions), meta.model.text_dim, device="meta")
            check_tensors({"text": embeddings}, {"text": expected}, path)
        return cls(
            model=load_mdm(meta.model, weights, path, actions=len(meta.classes)),
            model_config=meta.model,
            statistics=Statistics(tensors["statistics.mean"].numpy(), tensors["statistics.std"].numpy()),
            diffusion_steps=meta.diffusion_steps,
            classes=meta.classes,
            captions=meta.captions,
            text=text,
            lengths=meta.lengths,
            trial=meta.trial,
            seeds=meta.seeds,
            encoder_id=meta.encoder_id,
            caption_tokens=meta.caption_tokens,
        )

    def class_index(self, action: str) -> int:
        """Return the class of an action's name. Raises ConfigError listing those that it was adapted to."""
        known = [self.classes[c] for c in self.able]
        if action not in known:
            raise ConfigError(f"action {action!r} is not one that this model knows: {', '.join(known)}")
        return self.classes.index(action)

    @property
    def able(self) -> list[int]:
        """The classes that it was adapted to: all but those that ``mining.floor`` left without source clips."""
        return [c for c, lengths in enumerate(self.lengths) if lengths]

    def generate(
        self,
        classes: Sequence[int] | None,
        clips_per_class: int,
        seed: int,
        device: str = "cpu",
        synthesis: SynthesisConfig | None = None,
        progress: ProgressCallback = silent,
    ) -> Synthetic:
        """Generate clips of some classes, or of every class that it was adapted to where ``classes`` is None."""
        config = (synthesis or self.trial.synthesis).model_copy(update={"clips_per_class": clips_per_class})
        return synthesise(
            self.model.to(device),
            self.diffusion_steps,
            self.text,
            self.lengths,
            config,
            self.statistics,
            seed,
            device,
            progress,
            self.able if classes is None else classes,
        )
