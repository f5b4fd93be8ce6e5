"""A trained generator as one self-contained file: merged weights, statistics, classes, prompts already embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinemic import __version__, checkpoint
from kinemic.config import ModelConfig, SynthesisConfig, TrialConfig, TrialSeeds
from kinemic.errors import CheckpointError, ConfigError, DataError
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.progress import ProgressCallback, silent
from kinemic.synthesis import Synthetic, synthesise

KIND = "generator"
FILE_NAME = "generator.safetensors"


@dataclass(frozen=True)
class GeneratorBundle:
    """Everything that generation needs, so that no corpus, prior or text encoder has to be present.

    ``text`` holds one (prompts, E) array of raw caption embeddings a class; ``lengths`` the few shots' frames a class.
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
        }
        checkpoint.save(path, tensors, meta)

    @classmethod
    def load(cls, path: Path) -> GeneratorBundle:
        """Read a bundle file, or the one in a folder. Raises CheckpointError."""
        path = path / FILE_NAME if path.is_dir() else path
        tensors, meta = checkpoint.load(path)
        checkpoint.require(meta, {"kind": KIND}, path)
        try:
            return cls._read(tensors, meta)
        except (KeyError, TypeError, ValueError, RuntimeError, DataError) as error:  # RuntimeError: load_state_dict
            why = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{path}: not a whole generator ({why}); export it again") from error

    @classmethod
    def _read(cls, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> GeneratorBundle:
        config = ModelConfig(**meta["model"])
        classes = tuple(meta["classes"])
        model = MDM(config, actions=len(classes))
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        return cls(
            model=model.eval(),
            model_config=config,
            statistics=Statistics(tensors["statistics.mean"].numpy(), tensors["statistics.std"].numpy()),
            diffusion_steps=meta["diffusion_steps"],
            classes=classes,
            captions=tuple(tuple(c) for c in meta["captions"]),
            text=tuple(tensors[f"text.{c}"] for c in range(len(classes))),
            lengths=tuple(tuple(n) for n in meta["lengths"]),
            trial=TrialConfig(**meta["trial"]),
            seeds=TrialSeeds(**meta["seeds"]),
            encoder_id=meta["encoder_id"],
        )

    def class_index(self, action: str) -> int:
        """Return the class of an action's name. Raises ConfigError listing the known ones."""
        if action not in self.classes:
            raise ConfigError(f"action {action!r} is not one that this model knows: {', '.join(self.classes)}")
        return self.classes.index(action)

    def generate(
        self,
        classes: Sequence[int] | None,
        clips_per_class: int,
        seed: int,
        device: str = "cpu",
        synthesis: SynthesisConfig | None = None,
        progress: ProgressCallback = silent,
    ) -> Synthetic:
        """Generate clips of some classes, or of every class where ``classes`` is None."""
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
            classes,
        )
