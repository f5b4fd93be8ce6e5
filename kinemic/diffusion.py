"""Gaussian diffusion that predicts x0: schedules, forward process, posterior, samplers and guidance.

DDPM: Ho et al., arXiv 2006.11239. Cosine schedule and respacing: Nichol and Dhariwal, arXiv 2102.09672. DDIM: Song et
al., arXiv 2010.02502. Classifier-free guidance: Ho and Salimans, arXiv 2207.12598.
Schedules are float64 numpy arrays, cast to the clip's type when they are read.
Shapes: B batch, T frames, F features, E text dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, repeat
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinemic.models.mdm import MDM

Array = NDArray[np.floating[Any]]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, T, F), original diffusion steps (B,)) -> x0 (B, T, F)."""
Noise = Callable[[Tensor], Tensor]
"""x -> standard normal noise of the same shape, type and device."""
OnStep = Callable[[int, Tensor], None]
"""Called after each reverse step with the number of steps done and the new x."""


class Sampler(Protocol):
    """The one signature of every sampler: from noise ``x`` through the steps of ``schedule`` to a clean clip."""

    def __call__(
        self,
        denoise: Denoise,
        x_BTF: Tensor,
        schedule: Schedule,
        noise: Noise,
        *,
        eta: float = ...,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Return the sample, (B, T, F); ``eta`` scales the noise that each step adds."""
        ...


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a process: ``betas``, and for each of its steps the step of the process it was cut from."""

    betas: Array
    timestep_map: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Array:
        """Share of the signal's variance that is left after each step."""
        product: Array = np.cumprod(1.0 - self.betas)
        return product

    @cached_property
    def alphas_cumprod_prev(self) -> Array:
        """The same one step earlier; 1 before the first."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def posterior_variance(self) -> Array:
        """Variance of q(x_{t-1} | x_t, x0)."""
        variance: Array = self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        return variance

    @cached_property
    def posterior_log_variance_clipped(self) -> Array:
        """Its logarithm; the first is 0 and takes the second's value."""
        variance = np.append(self.posterior_variance[:2][-1], self.posterior_variance[1:])
        log_variance: Array = np.log(np.maximum(variance, 1e-20))  # a process of one step has variance 0
        return log_variance

    @cached_property
    def posterior_mean_coef1(self) -> Array:
        """Weight of x0 in the posterior mean."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Array:
        """Weight of x_t in the posterior mean."""
        weight: Array = (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)
        return weight

    def respaced(self, kept: Iterable[int]) -> Schedule:
        """Return the process that visits only the ``kept`` steps, at the same noise levels. Raises ValueError."""
        steps = np.array(sorted(set(kept)), dtype=np.int64)
        if len(steps) == 0 or steps[0] < 0 or steps[-1] >= len(self):
            raise ValueError(f"kept steps must be some of 0..{len(self) - 1}, got {steps.tolist()}")
        left = self.alphas_cumprod[steps]
        return Schedule(1.0 - left / np.append(1.0, left[:-1]), self.timestep_map[steps])

    def first(self, steps: int) -> Schedule:
        """Return the process up to a number of its steps, at the same noise levels."""
        return Schedule(self.betas[:steps], self.timestep_map[:steps])


def cosine_schedule(steps: int) -> Schedule:
    """Return the cosine schedule: abar(t) = cos((t + 0.008) / 1.008 * pi / 2)^2, betas at most 0.999."""
    edges = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return Schedule(np.minimum(1.0 - edges[1:] / edges[:-1], 0.999), np.arange(steps))


def space_timesteps(steps: int, sections: str | Sequence[int]) -> list[int]:
    """Choose the steps that a respaced process keeps, rising.

    ``sections`` are counts, one for each equal part of the process ("10", "5,10", [5, 10]), each spread over its part
    with both ends kept; or "ddimN": N steps at a whole-number stride from 0. Raises ValueError where impossible.
    """
    if isinstance(sections, str) and sections.startswith("ddim"):
        return _strided(steps, int(sections.removeprefix("ddim")))
    counts = [int(count) for count in sections.split(",")] if isinstance(sections, str) else list(sections)
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        size = steps // len(counts) + (index < steps % len(counts))
        if not 1 <= count <= size:
            raise ValueError(f"cannot keep {count} of {size} diffusion steps; give 1..{size}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Summed rather than multiplied: where a position falls on a half, this rounds as the published code does.
        kept += [start + round(position) for position in accumulate(repeat(stride, count - 1), initial=0.0)]
        start += size
    return kept


def _strided(steps: int, count: int) -> list[int]:
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise ValueError(f"no whole-number stride keeps exactly {count} of {steps} diffusion steps")


def at(values: Array, t_B: Tensor, like: Tensor) -> Tensor:
    """Return ``values[t]`` in the type of ``like``, shaped (B, 1, ...) to broadcast against it."""
    chosen = torch.from_numpy(values).to(like.device, like.dtype)[t_B]
    return chosen.view(-1, *[1] * (like.ndim - 1))


def q_sample(x0_BTF: Tensor, t_B: Tensor, noise_BTF: Tensor, schedule: Schedule) -> Tensor:
    """Noise clean clips to step t: sqrt(abar) x0 + sqrt(1 - abar) noise (DDPM, equation 4)."""
    signal = at(np.sqrt(schedule.alphas_cumprod), t_B, x0_BTF)
    return signal * x0_BTF + at(np.sqrt(1.0 - schedule.alphas_cumprod), t_B, x0_BTF) * noise_BTF


def q_posterior(x0_BTF: Tensor, x_BTF: Tensor, t_B: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (B, T, F), variance (B, 1, 1) and clipped log variance of q(x_{t-1} | x_t, x0) (DDPM, equation 7)."""
    mean = (
        at(schedule.posterior_mean_coef1, t_B, x_BTF) * x0_BTF + at(schedule.posterior_mean_coef2, t_B, x_BTF) * x_BTF
    )
    log_variance = at(schedule.posterior_log_variance_clipped, t_B, x_BTF)
    return mean, at(schedule.posterior_variance, t_B, x_BTF), log_variance


def generator_noise(generator: torch.Generator) -> Noise:
    """Return a noise function that draws from ``generator``."""

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)

    return noise


def ddpm_sample(
    denoise: Denoise,
    x_BTF: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    eta: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by ancestral steps with the posterior's own variance (DDPM, algorithm 2); ``x`` is standard normal noise.

    ``eta`` scales the noise that is added (1: DDPM). Noise is drawn after every step but the last.
    """
    scale = eta * np.exp(0.5 * schedule.posterior_log_variance_clipped)
    for done, t in enumerate(reversed(range(len(schedule))), start=1):
        x0_BTF = denoise(x_BTF, _steps(schedule, t, x_BTF))
        x_BTF = schedule.posterior_mean_coef1[t] * x0_BTF + schedule.posterior_mean_coef2[t] * x_BTF
        if t > 0 and eta > 0:
            x_BTF = x_BTF + scale[t] * noise(x_BTF)
        if on_step is not None:
            on_step(done, x_BTF)
    return x_BTF


def ddim_sample(
    denoise: Denoise,
    x_BTF: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    eta: float = 0.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by DDIM steps (DDIM, equation 12); ``eta`` 0 is deterministic and draws no noise."""
    left, before = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    sigma = eta * np.sqrt((1.0 - before) / (1.0 - left)) * np.sqrt(1.0 - left / before)
    for done, t in enumerate(reversed(range(len(schedule))), start=1):
        x0_BTF = denoise(x_BTF, _steps(schedule, t, x_BTF))
        eps_BTF = (x_BTF - math.sqrt(left[t]) * x0_BTF) / math.sqrt(1.0 - left[t])
        x_BTF = math.sqrt(before[t]) * x0_BTF + math.sqrt(1.0 - before[t] - sigma[t] ** 2) * eps_BTF
        if t > 0 and eta > 0:
            x_BTF = x_BTF + sigma[t] * noise(x_BTF)
        if on_step is not None:
            on_step(done, x_BTF)
    return x_BTF


def _steps(schedule: Schedule, t: int, x_BTF: Tensor) -> Tensor:
    return torch.full((len(x_BTF),), int(schedule.timestep_map[t]), device=x_BTF.device)


def conditional(
    model: MDM, text_BE: Tensor, lengths_B: Tensor | None = None, action_B: Tensor | None = None
) -> Denoise:
    """Return the denoiser of ``model`` under one fixed condition a clip."""

    def denoise(x_BTF: Tensor, t_B: Tensor) -> Tensor:
        x0_BTF: Tensor = model(x_BTF, t_B, text_BE, lengths_B, action_B)[0]
        return x0_BTF

    return denoise


def guided(
    model: MDM,
    scale: float | Tensor,
    text_BE: Tensor,
    lengths_B: Tensor | None = None,
    action_B: Tensor | None = None,
) -> Denoise:
    """Return the denoiser with classifier-free guidance: x0 = uncond + scale (cond - uncond).

    ``scale`` is one number or one a clip (B,). Both halves run in one forward pass of 2 B clips; scale 1 runs the
    conditional half alone, where uncond cancels.
    """
    if isinstance(scale, float | int) and scale == 1:
        return conditional(model, text_BE, lengths_B, action_B)
    B = len(text_BE)
    text = torch.cat((text_BE, text_BE))
    lengths = None if lengths_B is None else torch.cat((lengths_B, lengths_B))
    action = None if action_B is None else torch.cat((action_B, action_B))
    drop = torch.arange(2 * B, device=text.device) >= B
    weight = scale.to(text.device).view(-1, 1, 1) if isinstance(scale, Tensor) else float(scale)

    def denoise(x_BTF: Tensor, t_B: Tensor) -> Tensor:
        x0 = model(torch.cat((x_BTF, x_BTF)), torch.cat((t_B, t_B)), text, lengths, action, drop)[0]
        with_condition, without = x0.chunk(2)
        mixed: Tensor = without + weight * (with_condition - without)
        return mixed

    return denoise
