"""Which device work runs on, what it used there, and the two things that need its driver beside torch's operations."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kinemic.errors import ConfigError


def resolve_device(name: str | None = None) -> str:
    """Return ``name``, or ``cuda:0`` where there is one and ``cpu`` elsewhere. Raises ConfigError for one not here."""
    if name is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).add_(1).item()  # a kernel: a GPU that this torch was not built for allocates as well
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    return name


def generator(device: torch.device | str, seed: int = 0) -> torch.Generator:
    """Return a seeded generator of a device; its numbers differ by the kind of device."""
    return torch.Generator(device).manual_seed(seed)


def to_host(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the CPU, without gradient. Waits for the device: once a training step at most."""
    return tensor.detach().cpu()


@contextmanager
def repeatable() -> Iterator[None]:
    """Let cuDNN take only convolutions that give the same numbers each time, as all else that a trial computes does."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def reset_peak_memory(device: str) -> None:
    """Start the peak of a CUDA device anew, so that a trial does not report an earlier one's; a process' can't be."""
    if device.startswith("cuda") and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: str) -> float:
    """Return the peak memory in MB: of the CUDA device since the last reset, else of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # Linux counts in kB, macOS in bytes
