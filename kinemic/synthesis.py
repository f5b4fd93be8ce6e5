"""Generating clips of every class, from noise or from other clips, by an adapted generator or by a prior as it is.

METHOD section 5; editing: SDEdit, Meng et al., arXiv 2108.01073.
Shapes: B batch, T frames, F = 263 features, E text dim, C classes, N clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kinemic.config import SynthesisConfig
from kinemic.device import generator, to_host
from kinemic.diffusion import Schedule, cosine_schedule, ddim_sample, ddpm_sample, guided, q_sample, space_timesteps
from kinemic.errors import DataError, DivergedError
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.seeding import derive_seed, numpy_generator
from kinemic.skeleton import NUM_FEATURES

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Synthetic:
    """Generated clips, de-normalised features (T, 263) each, with their classes (N,), class by class.

    ``prompts`` (N,) says which caption of its class each clip was given; ``warnings`` what of the settings was changed.
    """

    features: list[Floats]
    labels: Indices
    prompts: Indices | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Clip:
    """One clip to be generated: everything that is drawn for it, from a seed of its own.

    ``start`` is the clip that is edited, normalised (frames, F); None generates from noise.
    """

    label: int
    prompt: int
    frames: int
    seed: int
    start: Floats | None = None


def synthesise(
    model: MDM,
    diffusion_steps: int,
    class_text: Sequence[Tensor | Floats],
    lengths_per_class: Sequence[Sequence[int]],
    config: SynthesisConfig,
    statistics: Statistics,
    seed: int,
    device: str = "cpu",
    progress: ProgressCallback = silent,
    classes: Sequence[int] | None = None,
) -> Synthetic:
    """Generate ``config.clips_per_class`` clips of each class (of ``classes``, where given).

    ``class_text`` holds the raw caption embeddings of each class (prompts, E), ``lengths_per_class`` the frames of its
    few-shot clips: a clip's length and prompt are drawn from them. Every clip has a seed of its own, so that neither
    the batch size nor the number of clips changes it. A model without action embeddings is given the text alone.
    Raises DataError for a class without lengths or prompts, DivergedError where the model's output is not finite.
    """
    wanted = range(len(class_text)) if classes is None else classes
    clips = [c for label in wanted for c in _plan(label, class_text, lengths_per_class, config.clips_per_class, seed)]
    schedule, warnings = sampling_schedule(diffusion_steps, config.sampling_steps)
    return _made(model, clips, class_text, schedule, config, statistics, device, progress, warnings)


def edit(
    model: MDM,
    diffusion_steps: int,
    class_text: Sequence[Tensor | Floats],
    clips: Mapping[int, Sequence[Floats]],
    config: SynthesisConfig,
    statistics: Statistics,
    seed: int,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> Synthetic:
    """Noise clips to ``config.strength`` of the sampling steps, and denoise them from there under their class (SDEdit).

    ``clips`` holds de-normalised features (T, 263) by class. Of T sampling steps, respaced as for generation,
    round(strength * T) are taken: at 0 a clip stays what it is, at 1 little of it is left. As with generated clips,
    neither the batch size nor the number of clips changes one. Raises DivergedError.
    """
    planned = []
    for label, starts in clips.items():
        for k, start in enumerate(starts):
            prompt = int(numpy_generator(seed, "edit", label, k).integers(len(class_text[label])))
            noise = derive_seed(seed, "edit noise", label, k)
            planned.append(_Clip(label, prompt, len(start), noise, statistics.normalise(start)))
    schedule, warnings = sampling_schedule(diffusion_steps, config.sampling_steps)
    last = schedule.first(round(config.strength * len(schedule)))
    return _made(model, planned, class_text, last, config, statistics, device, progress, warnings)


def _made(
    model: MDM,
    clips: Sequence[_Clip],
    class_text: Sequence[Tensor | Floats],
    schedule: Schedule,
    config: SynthesisConfig,
    statistics: Statistics,
    device: str,
    progress: ProgressCallback,
    warnings: tuple[str, ...],
) -> Synthetic:
    features: dict[int, Floats] = {}
    for batch in _batches(clips, config.batch_size):
        chosen = [clips[i] for i in batch]
        text_BE = torch.stack([torch.as_tensor(class_text[c.label][c.prompt]) for c in chosen])
        for i, clip in zip(batch, _sample(model, chosen, text_BE, schedule, config, device), strict=True):
            features[i] = statistics.denormalise(clip)
        progress(Progress("synthesise", len(features), len(clips)))
    labels = np.array([c.label for c in clips], np.int64)
    prompts = np.array([c.prompt for c in clips], np.int64)
    return Synthetic([features[i] for i in range(len(clips))], labels, prompts, warnings)


def sampling_schedule(diffusion_steps: int, sampling_steps: int) -> tuple[Schedule, tuple[str, ...]]:
    """Return the process to sample with, respaced for fewer steps, and a warning where the count was clamped."""
    schedule = cosine_schedule(diffusion_steps)
    if sampling_steps > diffusion_steps:
        warning = (
            f"sampling_steps {sampling_steps} is above the {diffusion_steps} diffusion steps; {diffusion_steps} used"
        )
        return schedule, (warning,)
    if sampling_steps == diffusion_steps:
        return schedule, ()
    # One step must be the last, where a clip is all noise; spacing would keep the first.
    kept = space_timesteps(diffusion_steps, [sampling_steps]) if sampling_steps > 1 else [diffusion_steps - 1]
    return schedule.respaced(kept), ()


def _plan(
    label: int, class_text: Sequence[Any], lengths_per_class: Sequence[Sequence[int]], count: int, seed: int
) -> Iterator[_Clip]:
    lengths, prompts = lengths_per_class[label], len(class_text[label])
    if len(lengths) == 0 or prompts == 0:
        raise DataError(
            f"synthesis: class {label} has {len(lengths)} few-shot clips and {prompts} captions; it needs one of each"
        )
    for k in range(count):
        rng = numpy_generator(seed, "clip", label, k)
        frames, prompt = int(lengths[int(rng.integers(len(lengths)))]), int(rng.integers(prompts))
        yield _Clip(label, prompt, frames, derive_seed(seed, "noise", label, k))


def _batches(clips: Sequence[_Clip], size: int) -> Iterator[list[int]]:
    """Indices of clips of like length together, so that little is padded; longest first, as it needs most memory."""
    order = sorted(range(len(clips)), key=lambda i: -clips[i].frames)
    return (order[start : start + size] for start in range(0, len(order), size))


class _ClipNoise:
    """Standard normal noise, every clip's from a generator of its own; 0 in the padding, which no frame attends to."""

    def __init__(self, clips: Sequence[_Clip], device: str) -> None:
        self._frames = [c.frames for c in clips]
        self._generators = [generator(device, c.seed) for c in clips]

    def __call__(self, x_BTF: Tensor) -> Tensor:
        noise_BTF = torch.zeros_like(x_BTF)
        for clip_TF, frames, draws in zip(noise_BTF, self._frames, self._generators, strict=True):
            clip_TF[:frames].normal_(generator=draws)
        return noise_BTF


@torch.inference_mode()
def _sample(
    model: MDM, clips: Sequence[_Clip], text_BE: Tensor, schedule: Schedule, config: SynthesisConfig, device: str
) -> list[Floats]:
    """Normalised features of one batch, each cropped to its length."""
    frames = [c.frames for c in clips]
    action_B = None if model.actions is None else torch.tensor([c.label for c in clips], device=device)
    denoise = guided(model, config.guidance, text_BE.to(device), torch.tensor(frames, device=device), action_B)
    noise = _ClipNoise(clips, device)
    start_BTF = _start(clips, schedule, noise, torch.empty((len(clips), max(frames), NUM_FEATURES), device=device))
    sampler = ddim_sample if config.sampler == "ddim" else ddpm_sample
    training = model.training
    model.eval()
    x_BTF = to_host(sampler(denoise, start_BTF, schedule, noise) if len(schedule) else start_BTF).numpy()
    model.train(training)
    if not all(np.isfinite(x[:n]).all() for x, n in zip(x_BTF, frames, strict=True)):
        raise DivergedError("synthesis: the generator gave NaN or infinity; lower guidance or the learning rate")
    return [x[:n] for x, n in zip(x_BTF, frames, strict=True)]


def _start(clips: Sequence[_Clip], schedule: Schedule, noise: _ClipNoise, like_BTF: Tensor) -> Tensor:
    """Return where sampling starts: noise, or the clips to be edited, noised to the first step of the schedule."""
    if all(clip.start is None for clip in clips):
        return noise(like_BTF)
    x0_BTF = torch.zeros_like(like_BTF)
    for row_TF, clip in zip(x0_BTF, clips, strict=True):
        row_TF[: clip.frames] = torch.as_tensor(clip.start, device=like_BTF.device)
    if len(schedule) == 0:
        return x0_BTF
    t_B = torch.full((len(clips),), len(schedule) - 1, device=like_BTF.device)
    return q_sample(x0_BTF, t_B, noise(like_BTF), schedule)
