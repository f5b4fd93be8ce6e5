"""What is claimed of test scores: intervals that hold the truth as often as they say, on data whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from search.statistics import Estimate, estimate, paired_difference

Scores = NDArray[np.float64]


def scores(
    rng: np.random.Generator, seed_sd: float, clip_sd: float, repetitions: int = 3, clips: int = 50, truth: float = 0.1
) -> Scores:
    """Return scores (K, 2, N) of a known mean, made of a part of each repetition and a part of each clip."""
    parts = rng.normal(0, seed_sd, (repetitions, 1, 1)) + rng.normal(0, clip_sd, (1, 1, clips))
    return truth + np.broadcast_to(parts, (repetitions, 2, clips)).clip(-0.8, 0.8)


def simulated(count: int, truth: float = 0.1, **kind: float) -> Iterator[Estimate]:
    rng = np.random.default_rng(5)
    for n in range(count):
        yield estimate(scores(rng, truth=truth, **kind), seed=n, draws=500)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind",
    [
        {"seed_sd": 0.0, "clip_sd": 0.2},
        {"seed_sd": 0.02, "clip_sd": 0.2},
        {"seed_sd": 0.1, "clip_sd": 0.02},
    ],
    ids=["clips alone", "mostly clips", "mostly seeds"],
)
def test_an_interval_holds_the_truth_about_95_times_in_100(kind: dict[str, float]) -> None:
    held = [found.low <= 0.1 <= found.high for found in simulated(300, **kind)]
    assert 0.91 <= np.mean(held) <= 0.985  # 300 draws of 0.95 have a deviation of 0.0126


def test_three_repetitions_need_more_than_the_normal_quantile() -> None:
    held = [abs(found.value - 0.1) <= 1.96 * found.se for found in simulated(300, seed_sd=0.1, clip_sd=0.02)]
    assert np.mean(held) < 0.9


@pytest.mark.parametrize(
    ("kind", "se", "freedom"),
    [
        ({"seed_sd": 0.0, "clip_sd": 0.2}, 0.2 / np.sqrt(50), np.inf),
        ({"seed_sd": 0.1, "clip_sd": 0.0}, 0.1 / np.sqrt(3), 2),  # three repetitions are all that tells
    ],
)
def test_the_smallest_detectable_difference_is_found_8_times_in_10(
    kind: dict[str, float], se: float, freedom: float
) -> None:
    planned = Estimate(0.0, se, 0.0, 0.0, freedom).smallest_detectable
    found = [not e.is_noise for e in simulated(300, truth=planned, **kind)]
    assert 0.72 <= np.mean(found) <= 0.88


def test_the_deviation_is_that_of_the_clips_where_seeds_agree() -> None:
    x = scores(np.random.default_rng(0), 0.0, 0.2, clips=200)
    assert estimate(x, 0).se == pytest.approx(x[0, 0].std(ddof=1) / np.sqrt(200), rel=0.05)


def test_the_deviation_is_that_of_the_repetitions_where_clips_agree() -> None:
    x = scores(np.random.default_rng(0), 0.1, 0.0)
    assert estimate(x, 0).se == pytest.approx(stats.sem(x[:, 0, 0]), rel=0.05)


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(1)
    shared = scores(rng, 0.05, 0.3)
    ours, theirs = (0.5 + shared + rng.normal(0, 0.03, shared.shape) > 0.5 for _ in range(2))
    apart = np.hypot(estimate(ours, 0).se, estimate(theirs, 0).se)
    assert paired_difference(ours, theirs, 0).se < 0.6 * apart
    shuffled = theirs[:, :, rng.permutation(theirs.shape[2])]
    assert paired_difference(ours, shuffled, 0).se > 0.8 * apart


def test_a_difference_has_the_sign_of_what_is_better() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.random((3, 2, 200)) < 0.8, rng.random((3, 2, 200)) < 0.5
    gap = paired_difference(ours, theirs, 0)
    assert gap.value == pytest.approx(ours.mean() - theirs.mean())
    assert 0 < gap.low < gap.value < gap.high
    assert not gap.is_noise
    assert paired_difference(theirs, ours, 0).value == -gap.value


def test_shares_stay_shares_and_equal_rows_are_noise() -> None:
    right = np.ones((3, 2, 20), dtype=bool)
    assert estimate(right, 0) == Estimate(1.0, 0.0, 1.0, 1.0)
    assert paired_difference(right, right, 0).is_noise
    right[0, 0, :3] = False
    assert estimate(right, 0).high == 1.0


def test_the_same_seed_gives_the_same_interval() -> None:
    x = scores(np.random.default_rng(0), 0.1, 0.2)
    assert estimate(x, 4) == estimate(x, 4)
    assert estimate(x, 4) != estimate(x, 5)
