"""Classical augmentation of the judge's inputs, the baseline to fear (METHOD section 7).

Shapes: N clips, T frames, J joints; coordinates are metres, y up, pelvis over the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; every clip draws its own.

    ``yaw``: degrees either way. ``scale``: share of the size either way. ``crop``: largest share of the clip that is
    cut away, split at random between its two ends. ``warp``: largest shift of the middle of the clip, as a share of its
    length (below 1/pi, so that time never runs backwards). ``jitter``: standard deviation in metres, every coordinate.
    """

    yaw: float = 30.0
    scale: float = 0.1
    crop: float = 0.2
    warp: float = 0.1
    jitter: float = 0.01


CLASSICAL = Augmentation()


def augment(x_NTJ3: Tensor, generator: torch.Generator, ranges: Augmentation = CLASSICAL) -> Tensor:
    """Return a changed copy of a batch of clips: cropped and warped in time, turned, scaled, jittered.

    All clips are changed at once. The generator's device draws; the result lies where ``x_NTJ3`` lies.
    """
    clips, frames = x_NTJ3.shape[:2]
    unit_5N = torch.rand((5, clips), generator=generator, device=generator.device)
    crop, start, warp, yaw, size = unit_5N.to(x_NTJ3)
    keep = 1.0 - ranges.crop * crop
    times_NT = _warped_times(frames, keep, (1.0 - keep) * start, ranges.warp * (2.0 * warp - 1.0))
    turned = _resampled(x_NTJ3, times_NT) @ _turns(math.radians(ranges.yaw) * (2.0 * yaw - 1.0))[:, None]
    noise = torch.randn(x_NTJ3.shape, generator=generator, device=generator.device).to(x_NTJ3)
    sizes_N111 = (1.0 + ranges.scale * (2.0 * size - 1.0))[:, None, None, None]
    changed: Tensor = turned * sizes_N111 + ranges.jitter * noise
    return changed


def _warped_times(frames: int, keep_N: Tensor, start_N: Tensor, warp_N: Tensor) -> Tensor:
    """Source frame (a real number) of each output frame; rising, inside the clip."""
    u_T = torch.linspace(0.0, 1.0, frames, device=keep_N.device, dtype=keep_N.dtype)
    warped_NT = u_T + warp_N[:, None] * torch.sin(math.pi * u_T)
    return (start_N[:, None] + keep_N[:, None] * warped_NT) * (frames - 1)


def _resampled(x_NTJ3: Tensor, times_NT: Tensor) -> Tensor:
    """Linear interpolation of every clip at its own times."""
    clips, frames = times_NT.shape
    low_NT = times_NT.long().clamp(0, max(frames - 2, 0))
    share_NT11 = (times_NT - low_NT)[..., None, None]
    rows = low_NT + frames * torch.arange(clips, device=low_NT.device)[:, None]
    flat = x_NTJ3.flatten(0, 1)
    low, high = flat[rows], flat[rows + (1 if frames > 1 else 0)]
    return torch.lerp(low, high, share_NT11.expand_as(low))


def _turns(angles_N: Tensor) -> Tensor:
    """Rotations about y (N, 3, 3), to be multiplied from the right onto row vectors."""
    cos, sin, zero, one = angles_N.cos(), angles_N.sin(), torch.zeros_like(angles_N), torch.ones_like(angles_N)
    return torch.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos], dim=-1).reshape(-1, 3, 3)
