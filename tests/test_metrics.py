from __future__ import annotations

import math

import numpy as np
import pytest

from kinemic import metrics
from kinemic.errors import DataError


def _gaussian(rng, clips, width, shift=0.0):
    return rng.normal(size=(clips, width)) @ rng.normal(size=(width, width)) + shift


def test_frechet_distance_of_a_set_to_itself_is_zero():
    features = _gaussian(np.random.default_rng(0), 40, 6)
    assert metrics.frechet_distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_a_shift_is_its_squared_length():
    features = _gaussian(np.random.default_rng(1), 40, 6)
    shift = np.array([3.0, 0, 4.0, 0, 0, 0])
    assert metrics.frechet_distance(features, features + shift) == pytest.approx(25.0)


def test_frechet_distance_of_one_dimension_is_the_closed_form():
    rng = np.random.default_rng(2)
    a, b = 2.0 * rng.normal(size=(30, 1)), 5.0 * rng.normal(size=(50, 1)) + 1.0
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_is_symmetric_with_fewer_clips_than_dimensions():
    rng = np.random.default_rng(3)
    few, many = _gaussian(rng, 4, 9), _gaussian(rng, 60, 9)
    assert metrics.frechet_distance(few, many) == pytest.approx(metrics.frechet_distance(many, few))


@pytest.mark.parametrize(
    ("generated", "says"),
    [
        (np.zeros((5, 3)), "width"),
        (np.zeros((1, 4)), "at least 2"),
        (np.full((5, 4), np.nan), "finite"),
    ],
)
def test_frechet_distance_refuses_what_it_cannot_compare(generated, says):
    with pytest.raises(DataError, match=says):
        metrics.frechet_distance(np.zeros((5, 4)), generated)


def test_diversity_is_repeatable_and_depends_on_the_seed():
    features = _gaussian(np.random.default_rng(4), 50, 5)
    first = metrics.diversity(features, 20, seed=1)
    assert first == metrics.diversity(features, 20, seed=1)
    assert first != metrics.diversity(features, 20, seed=2)


def test_diversity_of_few_clips_is_the_mean_over_all_pairs():
    features = np.array([[0.0], [1.0], [3.0]])
    assert metrics.diversity(features, times=10, seed=0) == pytest.approx((1 + 3 + 2) / 3)


def test_multimodality_looks_inside_groups_only():
    apart = np.zeros((2, 4, 3))
    apart[1] += 100.0
    assert metrics.multimodality(apart, times=4, seed=0) == 0.0
    apart[0, 0] += 1.0
    assert metrics.multimodality(apart, times=4, seed=0) > 0.0


def test_multimodality_refuses_more_pairs_than_clips():
    with pytest.raises(DataError, match="at least 5"):
        metrics.multimodality(np.zeros((2, 4, 3)), times=5, seed=0)


def test_top_k_accuracy_counts_labels_among_the_k_highest():
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert metrics.top_k_accuracy(logits, np.array([0, 1, 2, 2]), (1, 2, 3)) == (0.5, 0.75, 1.0)


def test_confusion_has_true_classes_as_rows():
    confusion = metrics.confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 3)
    assert confusion.tolist() == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]
    recalled = metrics.per_class_accuracy(confusion)
    assert recalled[:2].tolist() == [0.5, 1.0]
    assert math.isnan(recalled[2])


def test_log_likelihood_and_brier_score_are_those_of_their_definitions():
    logits = np.log([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]]) + 5.0
    probabilities = metrics.softmax(logits)[0]
    np.testing.assert_allclose(probabilities, [[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
    labels = np.array([0, 2])
    assert metrics.log_likelihood(probabilities, labels) == pytest.approx((math.log(0.7) + math.log(0.25)) / 2)
    assert metrics.brier_score(probabilities, labels) == pytest.approx((0.14 + 0.875) / 2)


def test_a_certain_answer_is_the_best_or_the_worst_there_is():
    certain = metrics.softmax(np.array([[2000.0, 0.0], [0.0, 2000.0]], np.float32))
    assert (metrics.log_likelihood(certain, [0, 1]), metrics.brier_score(certain, [0, 1])) == (0.0, 0.0)
    assert metrics.brier_score(certain, [1, 0]) == 2.0
    assert -1000 < metrics.log_likelihood(certain, [1, 0]) < -500
