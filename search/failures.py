"""Why a trial failed, in one word that the study, MLflow and the status table share."""

from __future__ import annotations

from dataclasses import dataclass

from kinemic.errors import DivergedError, EmptyPoolError, InfrastructureError, KinemicError
from kinemic.faults import refusal
from kinemic.redaction import without_secrets

DIVERGED, OUT_OF_MEMORY, EMPTY_POOL = "diverged", "out of memory", "empty pool"
BAD_DATA, BUG, WORKER_LOST = "bad data", "bug", "worker lost"
INFRASTRUCTURE = "infrastructure"  # a fault of the machine: waited out, and never the end of a trial
MOST_LOSSES = 2  # how often what a dead worker ran is started again from the same rung


_NO_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Failure:
    """A failure's kind and one line about it, which goes into the study, into MLflow and into the report."""

    kind: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", without_secrets(self.message))


def classify(error: BaseException) -> Failure:
    """Return what kind of failure an exception of a trial is."""
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:500]
    if isinstance(error, InfrastructureError):
        return Failure(INFRASTRUCTURE, str(error)[:500])
    if refusal(error) is not None:
        return Failure(INFRASTRUCTURE, message)
    if isinstance(error, DivergedError):
        return Failure(DIVERGED, message)
    if isinstance(error, EmptyPoolError):
        return Failure(EMPTY_POOL, message)
    if isinstance(error, KinemicError):
        return Failure(BAD_DATA, message)
    if _is_out_of_memory(error):
        return Failure(OUT_OF_MEMORY, message)
    return Failure(BUG, message)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError is a RuntimeError; asked by name so that this module does not import torch. The CPU's
    # allocator, the CUDA driver, cuBLAS and cuDNN raise other RuntimeErrors.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)
