"""What a trial is given and what it reports, as plain values that travel between processes; no torch in here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrialInputs:
    """Where a trial finds its inputs. The test split has no field here (METHOD section 6)."""

    source: Path  # packed source corpus
    trial_data: Path  # packed target clips of train and dev alone
    prior: Path  # prior checkpoint
    encoder: Path  # folder of a saved text encoder
    cache: Path  # folder of cached caption embeddings


@dataclass(frozen=True)
class RungReport:
    """One scored rung of a trial: budget in steps, dev accuracy (0..1) per judge seed, losses, seconds by stage."""

    rung: int
    steps: int
    total_steps: int
    accuracies: tuple[float, ...]
    losses: dict[str, float]
    seconds: dict[str, float]
    pool_sizes: tuple[int, ...]
    pool_fallbacks: int
    device: str
    peak_memory_mb: float
    warnings: tuple[str, ...] = ()  # settings that were clamped or ignored, pools that fell back

    @property
    def dev_accuracy(self) -> float:
        """Mean dev accuracy over the judge seeds."""
        return mean(self.accuracies)

    @property
    def dev_accuracy_se(self) -> float | None:
        """Standard error of that mean; None with one seed, where nothing is known of it."""
        return standard_error(self.accuracies)

    def to_json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RungReport:
        """Read a report that ``to_json`` wrote."""
        data: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return cls(**data)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean (sample deviation, n - 1); None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    m = mean(values)
    return math.sqrt(math.fsum((v - m) ** 2 for v in values) / (n - 1) / n)


def shown(value: float | None, digits: int) -> str:
    """Return a number as tables show it; ``?`` where it is unknown."""
    return "?" if value is None else f"{value:.{digits}f}"
