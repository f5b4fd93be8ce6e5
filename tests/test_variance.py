"""Variance components: on data whose sources are known, each gets what is its own, and differences are as foretold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.statistics import smallest_detectable
from search.variance import (
    SOURCES,
    Component,
    clip_standard_error,
    components,
    detectable,
    most_clip_standard_error,
    seed_standard_error,
)

Array = NDArray[np.float64]


def accuracies(
    rng: np.random.Generator,
    deviations: tuple[float, ...],
    shared: tuple[float, ...] = (0.0, 0.0, 0.0),
    shape: tuple[int, ...] = (8, 3, 2, 2),
) -> Array:
    """Return accuracies (C, A, G, J) with a part of each source, and of each seed for all configurations alike."""
    parts: Array = np.full(shape, 0.5)
    for level, deviation in enumerate(deviations, start=1):
        parts = parts + rng.normal(0, deviation, shape[:level] + (1,) * (4 - level))
    for level, deviation in enumerate(shared, start=2):
        parts = parts + rng.normal(0, deviation, (1, *shape[1:level]) + (1,) * (4 - level))
    return parts


def found(count: int, deviations: tuple[float, ...], shared: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[Array]:
    """Return variance and paired variance of each source, (2, S), of simulated data sets."""
    rng = np.random.default_rng(0)
    sets = [components(accuracies(rng, deviations, shared), rng) for _ in range(count)]
    return [np.array([[c.variance for c in s], [c.paired_variance for c in s]]) for s in sets]


@pytest.mark.parametrize("source", range(len(SOURCES)), ids=SOURCES)
def test_a_source_alone_is_found_and_nothing_is_laid_at_the_others(source: int) -> None:
    own = 0.05
    deviations = tuple(own if level == source else 0.002 for level in range(4))
    own_variances = np.mean(found(60, deviations), axis=0)[0] / own**2
    expected = np.array([level == source for level in range(4)], float)
    # A mean of 60 over at least 7 degrees of freedom is off by at most 0.07; a source taken for its neighbour by 0.17.
    assert own_variances == pytest.approx(expected, abs=0.16)


def test_estimates_of_all_sources_at_once_have_no_bias() -> None:
    deviations = (0.05, 0.03, 0.02, 0.01)
    variances = np.mean(found(200, deviations), axis=0)
    assert np.sqrt(variances) == pytest.approx(np.array([deviations] * 2), rel=0.12)


def test_what_a_seed_does_to_all_alike_is_noise_of_one_but_not_of_a_comparison() -> None:
    variances = np.mean(found(200, (0.05, 0.02, 0.02, 0.01), shared=(0.04, 0.0, 0.02)), axis=0)
    assert np.sqrt(variances[1]) == pytest.approx([0.05, 0.02, 0.02, 0.01], rel=0.12)
    assert np.sqrt(variances[0]) == pytest.approx([0.05, np.hypot(0.02, 0.04), 0.02, np.hypot(0.01, 0.02)], rel=0.12)


def test_the_interval_of_a_deviation_holds_it_about_95_times_in_100() -> None:
    rng, deviations = np.random.default_rng(0), (0.05, 0.03, 0.02, 0.01)
    sets = [components(accuracies(rng, deviations), rng) for _ in range(150)]
    held = [[c.low <= true <= c.high for c, true in zip(s, deviations, strict=True)] for s in sets]
    assert np.mean(held, axis=0) == pytest.approx(np.full(4, 0.95), abs=0.045)  # 150 draws: deviation 0.018


def test_an_estimate_below_0_is_shown_as_0_and_kept() -> None:
    rng = np.random.default_rng(0)
    negative = [c for _ in range(20) for c in components(accuracies(rng, (0.0, 0.0, 0.0, 0.05)), rng) if c.variance < 0]
    assert negative
    assert {c.sd for c in negative} == {0.0}


def known(adaptation: float, generation: float, judge: float) -> tuple[Component, ...]:
    deviations = zip(SOURCES, (0.0, adaptation, generation, judge), strict=True)
    return tuple(Component(source, 0.0, sd**2, 0.0, sd, 0.0, 0.0) for source, sd in deviations)


def test_the_error_of_a_difference_is_that_of_simulated_differences() -> None:
    rng, deviations = np.random.default_rng(0), (0.04, 0.02, 0.03)
    both = accuracies(rng, (0.0, *deviations), shared=(0.1, 0.0, 0.1), shape=(2 * 2000, 3, 1, 2))
    ours, theirs = both.mean(axis=(1, 2, 3)).reshape(2, -1)
    assert seed_standard_error(known(*deviations), 3, 2) == pytest.approx((ours - theirs).std(), rel=0.05)


def recognised(rng: np.random.Generator, clips: int, alike: float) -> Array:
    """Return what 3 configurations with 40 runs make of clips, whose difficulty is alike for all of them or not."""
    own, shared = rng.random((3, 1, clips)), rng.random((1, 1, clips))
    return (rng.random((3, 40, clips)) < alike * shared + (1 - alike) * own).astype(float)


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_the_error_by_clips_is_that_of_other_clips_and_less_where_configurations_are_alike(alike: float) -> None:
    rng, clips = np.random.default_rng(0), 50
    sets = [recognised(rng, clips, alike) for _ in range(150)]
    spread = np.std([x.mean(axis=(1, 2))[0] - x.mean(axis=(1, 2))[1] for x in sets])
    assert np.mean([clip_standard_error(x) for x in sets]) == pytest.approx(spread, rel=0.15)
    assert clip_standard_error(recognised(rng, 2000, 1.0)) < 0.3 * clip_standard_error(recognised(rng, 2000, 0.0))


def test_clips_add_at_most_their_binomial_error() -> None:
    rng, clips = np.random.default_rng(0), 50
    apart = (rng.random((2, 4000, clips)) < 0.8).mean(axis=2)
    assert most_clip_standard_error(0.8, clips) == pytest.approx((apart[0] - apart[1]).std(), rel=0.05)


def test_errors_of_seeds_and_of_clips_add_as_variances() -> None:
    assert detectable(0.03, 0.04) == pytest.approx(smallest_detectable(0.05))
