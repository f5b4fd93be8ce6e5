"""Options that say which clips to generate from an exported model, shared by every command that does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kinemic import __version__

if TYPE_CHECKING:
    from kinemic.bundle import GeneratorBundle
    from kinemic.config import SynthesisConfig
    from kinemic.progress import ProgressCallback
    from kinemic.synthesis import Synthetic

Command = TypeVar("Command", bound=Callable[..., Any])

model_option = click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Exported bundle: a folder or .safetensors file."
)
device_option = click.option("--device", default=None, help="Torch device.  [default: cuda:0 if there is one]")


def generation_options(command: Command) -> Command:
    """Add the model, its classes, how many clips and how they are sampled; ``Generation.open`` takes them."""
    for decorator in (
        device_option,
        click.option(
            "--sampling-steps", type=click.IntRange(1), default=None, help="Reverse steps.  [default: the bundle's]"
        ),
        click.option(
            "--guidance",
            type=click.FloatRange(0),
            default=None,
            help="Guidance scale, without unit; 1 is none.  [default: the bundle's]",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same clips."),
        click.option("-n", "--clips", type=click.IntRange(1), default=20, show_default=True, help="Clips per class."),
        click.option(
            "--action", "actions", multiple=True, help="Class to generate, repeatable.  [default: every class]"
        ),
        model_option,
    ):
        command = decorator(command)
    return command


@dataclass(frozen=True)
class Generation:
    """What the options ask for: a loaded model, its classes by index, and how they are sampled."""

    bundle: GeneratorBundle
    classes: list[int]
    clips: int
    seed: int
    device: str
    synthesis: SynthesisConfig

    @classmethod
    def open(
        cls,
        model: Path,
        actions: tuple[str, ...],
        clips: int,
        seed: int,
        guidance: float | None,
        sampling_steps: int | None,
        device: str | None,
    ) -> Generation:
        """Load the model and look its classes up. Raises CheckpointError and ConfigError."""
        from kinemic.bundle import GeneratorBundle
        from kinemic.device import resolve_device

        bundle = GeneratorBundle.load(model)
        classes = [bundle.class_index(action) for action in dict.fromkeys(actions)] or bundle.able
        changes = {"guidance": guidance, "sampling_steps": sampling_steps}
        synthesis = bundle.trial.synthesis.model_copy(update={k: v for k, v in changes.items() if v is not None})
        return cls(bundle, classes, clips, seed, resolve_device(device), synthesis)

    def run(self, progress: ProgressCallback) -> Synthetic:
        """Generate the clips, class by class."""
        return self.bundle.generate(self.classes, self.clips, self.seed, self.device, self.synthesis, progress)

    def to_json(self) -> str:
        """Return how the clips are made, as a JSON object to lie beside them."""
        how = {
            "kinemic": __version__,
            "classes": [self.bundle.classes[c] for c in self.classes],
            "clips_per_class": self.clips,
            "seed": self.seed,
            "synthesis": self.synthesis.model_dump(mode="json", exclude={"clips_per_class"}),
            "encoder_id": self.bundle.encoder_id,
            "caption_tokens": self.bundle.caption_tokens,
            "trial": self.bundle.trial.model_dump(mode="json"),
            "trial_seeds": self.bundle.seeds.model_dump(mode="json"),
        }
        return json.dumps(how, indent=1)
