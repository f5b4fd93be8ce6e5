"""Training a text-to-motion prior from a source corpus (Tevet et al., arXiv 2209.14916), resumable at any checkpoint.

Every random number of step n is drawn from a seed that (seed, n) name: a resumed run needs no random states.
Shapes: B batch, T frames, F features.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kinemic import __version__, checkpoint
from kinemic.clips import ClipSet, endless_passes
from kinemic.config import PretrainConfig
from kinemic.device import generator, to_host
from kinemic.diffusion import cosine_schedule, q_sample
from kinemic.errors import ConfigError, DivergedError
from kinemic.loading import Metadata, check_tensors, read_metadata
from kinemic.losses import length_mask, masked_mse
from kinemic.models.mdm import MDM
from kinemic.optimiser import Optimiser
from kinemic.prior import Prior, load_prior, save_prior
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.seeding import derive_seed

KIND = "pretraining"
BUCKET = 8  # batches that are sorted by length together, so that little of a batch is padding
GRAD_CLIP = 1.0
CURVE = 100  # steps to a point of the loss curve
_ADDED = ("optimiser", "schedule", "average")  # settings that came later: a recipe that leaves them out is what it was


def pretrain(
    clips: ClipSet,
    config: PretrainConfig,
    path: Path,
    encoder_id: str,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> Prior:
    """Train a prior on ``clips`` and write it to ``path``; return it, on the CPU.

    Steps are of the rate of ``learning_rate``; with ``average`` the prior has the running mean of the weights. Every
    ``checkpoint_every`` steps the state goes to a ``.partial.safetensors`` beside ``path``, from which a run that was
    killed continues with the same numbers. ``progress`` gets the loss of every step, and the prior's metadata the
    curve: its mean over each CURVE steps.
    Raises ConfigError where the text width doesn't fit, CheckpointError for a partial file of another recipe, and
    DivergedError for a loss that is not finite.
    """
    if clips.text.shape[1] != config.model.text_dim:
        raise ConfigError(
            f"prior.pretrain.model.text_dim is {config.model.text_dim}, the caption embeddings have "
            f"{clips.text.shape[1]} numbers; set it to {clips.text.shape[1]}"
        )
    run = _Run(clips.on_device(device), config, device)
    partial = path.with_suffix(".partial.safetensors")
    identity = _identity(clips, config, encoder_id)
    if partial.exists():
        run.restore(partial, identity)
    while run.step < config.steps:
        loss = run.train_step()
        if run.step % config.checkpoint_every == 0 and run.step < config.steps:
            run.save(partial, identity)
        progress(Progress("pretrain", run.step, config.steps, {"loss": loss}))
    meta = {"pretrain": config.model_dump(mode="json"), "clips": len(clips), "losses": run.losses}
    model = run.averaged_model()
    save_prior(Prior(model, config.model, config.diffusion_steps, clips.statistics, encoder_id, meta), path)
    partial.unlink(missing_ok=True)
    return load_prior(path)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Return the rate of step ``step`` (from 0): up over the first 5 % of the steps, then by ``config.schedule``.

    ``trapezoid`` is level, then falls over the last 30 %: on held-out generated clips (width 64, 400 steps) it gave a
    denoising error of 0.42, a constant rate 0.43 and half a cosine 0.46 (one seed). ``cosine`` is half a cosine to 0.
    """
    warm_up, left = max(1, config.steps // 20), config.steps - step
    if config.schedule == "cosine":
        falling = (1 - math.cos(math.pi * min(1.0, left / max(1, config.steps - warm_up)))) / 2
    else:
        falling = left / max(1, config.steps * 3 // 10)
    return config.learning_rate * min(1.0, (step + 1) / warm_up, falling)


def bucketed(clips: ClipSet, step: int, config: PretrainConfig) -> Tensor:
    """Return the clips of batch ``step``: of BUCKET batches' worth of clips, those of neighbouring length, (B,)."""
    size = config.batch_size
    group, place = divmod(step, BUCKET)
    chosen = endless_passes(len(clips), group * BUCKET * size, BUCKET * size, config.seed)
    by_length = chosen[clips.lengths[chosen].clamp_max(config.max_frames).argsort(stable=True)]
    order = torch.randperm(BUCKET, generator=torch.Generator().manual_seed(derive_seed(config.seed, "bucket", group)))
    return by_length.view(BUCKET, size)[order[place]]


def recipe(config: PretrainConfig) -> dict[str, Any]:
    """Return the settings that a prior depends on; one of _ADDED only where it is not at its default."""
    default = [name for name in _ADDED if getattr(config, name) == PretrainConfig.model_fields[name].default]
    return config.model_dump(mode="json", exclude={"checkpoint_every", *default})


class _PartialMetadata(Metadata):
    step: int = Field(ge=1)
    losses: list[float] = Field(default_factory=list)


class _Run:
    """Model, optimiser, step count and loss curve of a pretraining under way."""

    def __init__(self, clips: ClipSet, config: PretrainConfig, device: str) -> None:
        self.clips, self.config, self.device, self.step = clips, config, device, 0
        self.model = MDM(config.model, seed=derive_seed(config.seed, "model")).to(device).train()
        self.optimiser = Optimiser(self.model, config.optimiser)
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()} if config.average else {}
        self.schedule = cosine_schedule(config.diffusion_steps)
        self.draws, self.noise = torch.Generator(), generator(device)
        self.losses: list[float] = []  # the mean of every CURVE steps; the last point may stand for fewer

    def train_step(self) -> float:
        """Take one optimiser step; return its loss."""
        config = self.config
        rng = self.draws.manual_seed(derive_seed(config.seed, "data", self.step))
        self.model.dropout_source.seek(config.seed, self.step)
        batch = self.clips.batch(bucketed(self.clips, self.step, config), rng, config.max_frames)
        t_B = torch.randint(config.diffusion_steps, (config.batch_size,), generator=rng).to(self.device)
        drop_B = (torch.rand(config.batch_size, generator=rng) < config.condition_dropout).to(self.device)
        self.noise.manual_seed(derive_seed(config.seed, "noise", self.step))
        noise_BTF = torch.randn(batch.x_BTF.shape, generator=self.noise, device=self.device)
        x_t_BTF = q_sample(batch.x_BTF, t_B, noise_BTF, self.schedule)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=config.precision == "bf16"):
            x0_BTF, _ = self.model(x_t_BTF, t_B, batch.text_BE, batch.lengths_B, None, drop_B)
        loss = masked_mse(x0_BTF, batch.x_BTF, length_mask(batch.lengths_B, x0_BTF.shape[1])).mean()
        self._update(loss)
        value: float = to_host(loss).item()
        if not math.isfinite(value):
            raise DivergedError(f"pretraining diverged: loss became {value} at step {self.step}; lower learning_rate")
        self._add_to_curve(value)
        return value

    def averaged_model(self) -> MDM:
        """Return the model with the running mean of its weights, with the last ones where none is kept."""
        if not self.average:
            return self.model
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average)
        return model

    @torch.no_grad()
    def _update_average(self) -> None:
        """Follow the weights at the decay of ``average``, faster at first, where they move far."""
        if self.average:
            decay = min(self.config.average, self.step / (self.step + 10))
            torch._foreach_lerp_(list(self.average.values()), list(self.model.parameters()), 1 - decay)

    def _update(self, loss: Tensor) -> None:
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP, foreach=True)
        self.optimiser.step(learning_rate(self.config, self.step))
        self.step += 1
        self._update_average()

    def _add_to_curve(self, loss: float) -> None:
        before = (self.step - 1) % CURVE if self.losses else 0  # a run of an earlier version goes on without any
        mean = self.losses.pop() if before else 0.0
        self.losses.append(mean + (loss - mean) / (before + 1))

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write everything that the rest of the run depends on."""
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.state().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        done = {"step": self.step, "losses": self.losses}
        checkpoint.save(path, tensors, {**identity, **done, "version": __version__})

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        """Go on from a saved step. Raises CheckpointError for a damaged one, or of another recipe or corpus."""
        tensors, meta = checkpoint.load(path)
        checkpoint.require(meta, identity, path)
        done = read_metadata(meta, _PartialMetadata, path, KIND)
        expected: dict[str, Tensor] = {f"model.{name}": p for name, p in self.model.named_parameters()}
        expected |= {f"optimiser.{name}": value for name, value in self.optimiser.expected().items()}
        expected |= {f"average.{name}": p for name, p in self.average.items()}
        check_tensors(tensors, expected, path)
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"model.{name}"])
            for name, value in self.average.items():
                value.copy_(tensors[f"average.{name}"])
        self.optimiser.load({name.removeprefix("optimiser."): value for name, value in tensors.items()})
        self.step, self.losses = done.step, list(done.losses)


def _identity(clips: ClipSet, config: PretrainConfig, encoder_id: str) -> dict[str, Any]:
    return {
        "kind": KIND,
        "recipe": recipe(config),
        "encoder_id": encoder_id,
        "clips": len(clips),
        "frames": int(clips.lengths.sum()),
    }
