"""Golden set i: Frechet distance, diversity, multimodality, top-k accuracy against the published code's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kinemic import metrics


@pytest.fixture
def arrays(golden):
    return golden("i_metrics")


def test_frechet_distance_matches(arrays, assert_close):
    assert_close(metrics.frechet_distance(arrays["act_a"], arrays["act_b"]), arrays["f64.fid"])


def test_frechet_distance_matches_where_a_covariance_is_singular(arrays, assert_close):
    few = arrays["act_a"][: int(arrays["n_few"])]
    assert len(few) <= few.shape[1]  # else the set does not hold the singular case
    assert_close(metrics.frechet_distance(arrays["act_b"], few), arrays["f64.fid_singular"])


def test_diversity_matches_at_the_stored_pairs(arrays, assert_close):
    distance = metrics.mean_distance(arrays["act_a"], arrays["div_i1"], arrays["div_i2"])
    assert_close(distance, arrays["diversity"])


def test_diversity_of_few_clips_takes_all_pairs(arrays, assert_close):
    few = arrays["act_a"][: int(arrays["n_few"])]
    assert_close(metrics.diversity(few, times=len(few) + 1, seed=0), arrays["diversity_robust_few"])


def test_multimodality_matches_at_the_stored_pairs(arrays, assert_close):
    groups = arrays["mm"].swapaxes(0, 1)
    distance = metrics.mean_distance(groups, arrays["mm_i1"], arrays["mm_i2"])
    assert_close(distance, arrays["multimodality"])


def test_top_k_accuracy_matches(arrays, assert_close):
    expected = arrays["accuracy_top123_percent"]
    ks = tuple(range(1, len(expected) + 1))
    got = metrics.top_k_accuracy(arrays["logits"], arrays["gt"], ks)
    assert_close(100 * np.array(got), expected)
