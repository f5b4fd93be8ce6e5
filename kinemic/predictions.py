"""What trained classifiers say of labelled clips, and how good that is: accuracy, log-likelihood, Brier score.

Shapes: K classifiers, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kinemic import checkpoint
from kinemic.errors import CheckpointError
from kinemic.metrics import accuracy, brier_score, confusion_matrix, log_likelihood, softmax


@dataclass(frozen=True)
class Predictions:
    """Logits (K, N, C) of K classifiers on N clips, and the clips' classes (N,)."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def confusions(self) -> list[NDArray[np.int64]]:
        """Counts (C, C) of each classifier, rows the truth."""
        classes = self.logits.shape[-1]
        return [confusion_matrix(self.labels, logits.argmax(axis=1), classes) for logits in self.logits]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Share (0..1) of the clips that each classifier recognised."""
        return tuple(accuracy(confusion) for confusion in self.confusions)

    @property
    def log_likelihoods(self) -> tuple[float, ...]:
        """Mean log probability of the true class, nats a clip, of each classifier."""
        return tuple(log_likelihood(each, self.labels) for each in softmax(self.logits))

    @property
    def briers(self) -> tuple[float, ...]:
        """Brier score (0..2) of each classifier."""
        return tuple(brier_score(each, self.labels) for each in softmax(self.logits))

    @property
    def ensemble(self) -> NDArray[np.float64]:
        """The mean over the classifiers of their probabilities."""
        mean: NDArray[np.float64] = softmax(self.logits).mean(axis=0)
        return mean

    def save(self, path: Path) -> None:
        """Write them atomically."""
        tensors = {"logits": torch.from_numpy(self.logits), "labels": torch.from_numpy(self.labels)}
        checkpoint.save(path, tensors, {})

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what ``save`` wrote. Raises CheckpointError for anything else."""
        tensors, _ = checkpoint.load(path)
        if tensors.keys() != {"logits", "labels"} or tensors["logits"].ndim != 3:
            raise CheckpointError(f"{path}: expected logits (K, N, C) and labels, got {sorted(tensors)}")
        return cls(tensors["logits"].numpy(), tensors["labels"].numpy())


def of_all_clips(folds: Sequence[Predictions]) -> Predictions:
    """Return predictions of each fold's own clips as predictions of all of them; the k-th classifiers make one."""
    return Predictions(
        np.concatenate([fold.logits for fold in folds], axis=1), np.concatenate([fold.labels for fold in folds])
    )


def of_all_classifiers(parts: Sequence[Predictions]) -> Predictions:
    """Return predictions of the same clips by several sets of classifiers as those of one set."""
    return Predictions(np.concatenate([part.logits for part in parts]), parts[0].labels)
