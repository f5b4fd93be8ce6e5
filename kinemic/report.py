"""What a trial is given and what it reports, as plain values that travel between processes; no torch in here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from kinemic.documents import read_result

REPORTS: Final = "rung-*/report.json"  # in a trial's folder, one a report that need not be made again


@dataclass(frozen=True)
class TrialInputs:
    """Where a trial finds its inputs. The test split has no field here (METHOD section 6)."""

    source: Path  # packed source corpus
    trial_data: Path  # packed target clips of train and dev alone
    prior: Path  # prior checkpoint
    encoder: Path  # folder of a saved text encoder
    cache: Path  # folder of cached caption embeddings
    stages: Path | None = None  # folder of stages that trials share; None: each trial keeps its own


@dataclass(frozen=True)
class MiningRanges:
    """The largest ``top_k``, the ends of ``floor`` and the largest ``per_caption`` that are worth a trial.

    ``top_k``: clips that are at least four fifths of the way from the class's median similarity over the source to its
    best, the median over classes: with more, most classes take clips of other actions. ``floor``: from the similarity
    that the pools of all classes reach with that ``top_k``, where it changes nothing, to the median of the classes'
    best, where half of them mine nothing. ``per_caption``: clips of the commonest captions in any of these pools, where
    it limits nothing.
    """

    top_k: int
    per_caption: int
    floor_low: float
    floor_high: float


@dataclass(frozen=True)
class RungReport:
    """One scored rung of a trial: budget in steps, dev accuracies (0..1), losses, seconds by stage.

    A trial's first repetition is scored at every rung, each further one at the last rung alone. ``accuracies`` hold all
    that is known at the rung: repetition by repetition, one value per judge seed; ``losses`` and ``seconds`` are of
    this report's own repetition. ``reused`` holds what stages that were found ready had cost when they were made.
    ``diagnostics`` are what ``kinemic.diagnostics`` says of the generated clips, at the first repetition's last rung.
    ``log_likelihoods`` (mean log probability of the true class, nats a clip) and ``briers`` (squared error of the
    probabilities, summed over classes, mean over clips) are of the same judges in the same order, and ``..._ensemble``
    of their averaged probabilities; reports of before these were recorded have none.
    """

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
    repetition: int = 0
    repetitions: int = 1
    reused: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    log_likelihoods: tuple[float, ...] = ()
    briers: tuple[float, ...] = ()
    log_likelihood_ensemble: float | None = None
    brier_ensemble: float | None = None

    @property
    def step(self) -> int:
        """A number that no other report of the trial has, and that rises: the steps, then one more a repetition."""
        return self.steps + self.repetition

    @property
    def last(self) -> bool:
        """Whether the trial is over with this report."""
        return self.steps == self.total_steps and self.repetition == self.repetitions - 1

    def by_repetition(self, values: Sequence[float]) -> tuple[tuple[float, ...], ...]:
        """Return values that are one a judge seed, such as ``accuracies``, for each repetition so far."""
        judges = len(values) // (self.repetition + 1)
        return tuple(tuple(values[k * judges : (k + 1) * judges]) for k in range(self.repetition + 1))

    @property
    def dev_accuracy(self) -> float:
        """Mean dev accuracy over repetitions and judge seeds."""
        return mean(self.accuracies)

    @property
    def dev_accuracy_se(self) -> float | None:
        """Standard error of that mean, over repetitions, or over the judge seeds of the only one; None for one value.

        Judge seeds of one repetition share their generator, so they are no repetitions of their own.
        """
        repetitions = self.by_repetition(self.accuracies)
        return standard_error(repetitions[0] if len(repetitions) == 1 else [mean(each) for each in repetitions])

    def to_json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RungReport:
        """Read a report that ``to_json`` wrote. Raises ValueError, in one line, for anything else."""
        return read_result(text, cls)


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
