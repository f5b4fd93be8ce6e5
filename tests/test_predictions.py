"""What is said of a set of classifiers' predictions: per classifier and averaged, over folds and repetitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinemic import checkpoint
from kinemic.errors import CheckpointError
from kinemic.metrics import brier_score, log_likelihood
from kinemic.predictions import Predictions, of_all_classifiers, of_all_clips


def predictions(clips: int, seed: int, classifiers: int = 2) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(
        rng.normal(size=(classifiers, clips, 3)).astype(np.float32), rng.integers(3, size=clips).astype(np.int64)
    )


def test_a_fold_counts_by_its_clips() -> None:
    small, large = predictions(2, 0), predictions(6, 1)
    pooled = of_all_clips([small, large])
    for name in ("accuracies", "log_likelihoods", "briers"):
        expected = (2 * np.array(getattr(small, name)) + 6 * np.array(getattr(large, name))) / 8
        assert getattr(pooled, name) == pytest.approx(tuple(expected)), name
    assert sum(confusion.sum() for confusion in pooled.confusions) == 2 * 8


def test_averaged_probabilities_are_over_all_classifiers_of_all_repetitions() -> None:
    first, second = predictions(5, 0), predictions(5, 0)
    second = Predictions(second.logits[:, ::-1] * 3.0, second.labels)
    both = of_all_classifiers([first, second])
    assert both.briers == (*first.briers, *second.briers)
    np.testing.assert_allclose(both.ensemble, (first.ensemble + second.ensemble) / 2)
    # Jensen's inequality: what is averaged is better than the average.
    assert brier_score(both.ensemble, both.labels) < np.mean(both.briers)
    assert log_likelihood(both.ensemble, both.labels) > np.mean(both.log_likelihoods)


def test_predictions_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    made = predictions(4, 2)
    made.save(tmp_path / "said.safetensors")
    assert Predictions.load(tmp_path / "said.safetensors").log_likelihoods == made.log_likelihoods
    checkpoint.save(tmp_path / "other.safetensors", {}, {})
    with pytest.raises(CheckpointError, match=r"other\.safetensors: expected logits \(K, N, C\) and labels"):
        Predictions.load(tmp_path / "other.safetensors")
