"""What a confirmation may claim: accuracies and paired differences with intervals over clips and seeds.

Shapes: K repetitions (adaptation and generation seeds), J judge seeds in each, N test clips. Pure numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from kinemic.seeding import numpy_generator

Scores = NDArray[Any]

LEVEL: Final = 0.95
POWER: Final = 0.8
DRAWS: Final = 2000
_AS_GOOD_AS_KNOWN: Final = 200.0  # degrees of freedom; beyond, Student's t is the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean with the standard error and the 95 % interval of its bootstrap; shares, 0..1 or -1..1.

    ``freedom`` is how many degrees of freedom the standard error has.
    """

    value: float
    se: float
    low: float
    high: float
    freedom: float = np.inf

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0, so that a difference may be none."""
        return self.low <= 0.0 <= self.high

    @property
    def smallest_detectable(self) -> float:
        """The true difference that the interval would tell from 0 8 times in 10."""
        return smallest_detectable(self.se, self.freedom)


def smallest_detectable(se: float, freedom: float = np.inf) -> float:
    """Return the true difference that a t test at the 5 % level would find 8 times in 10, from its standard error.

    2.8 standard errors where those are known well, 5.7 where three repetitions are all that tells (2 degrees of
    freedom).
    """
    needed = stats.t.ppf((1 + LEVEL) / 2, freedom)
    if freedom > _AS_GOOD_AS_KNOWN:
        return float(needed + stats.norm.ppf(POWER)) * se
    return float(brentq(lambda errors: stats.nct.sf(needed, freedom, errors) - POWER, 0.0, 10 * needed)) * se


def estimate(scores_KJN: Scores, seed: int, draws: int = DRAWS) -> Estimate:
    """Return the mean of scores with its interval, by a hierarchical bootstrap over repetitions and clips; K >= 2.

    Every draw takes N clips, the same for every seed, and K - 1 repetitions (with K their own number would shrink the
    variance), whose judge seeds go with them. The interval is the mean -+ Student's quantile of the draws' deviation;
    its degrees of freedom follow the share of the variance that lies between repetitions, because three of them know
    little of their own spread. Simulated at K = 3, where seeds matter much it held the truth in 91..94 % of data sets
    (the draws' own percentiles: 79..92 %), elsewhere in 95 % and more, since a draw of both counts their noise twice.
    """
    scores = np.asarray(scores_KJN, np.float64)
    repetitions = scores.shape[0]
    value, se = float(scores.mean()), float(_resampled(scores, draws, numpy_generator(seed, "bootstrap")).std(ddof=1))
    between = float(scores.mean(axis=(1, 2)).var(ddof=1)) / repetitions
    share = between / se**2 if se > 0 else 0.0
    freedom = (repetitions - 1) / min(share, 1.0) ** 2 if share > 0 else np.inf
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * se
    least = 0.0 if scores.min() >= 0 else -1.0
    return Estimate(value, se, max(value - reach, least), min(value + reach, 1.0), freedom)


def paired_difference(ours_KJN: Scores, theirs_KJN: Scores, seed: int) -> Estimate:
    """Return the mean of ours - theirs with its interval; each draw takes the same seeds and clips of both."""
    return estimate(np.asarray(ours_KJN, np.float64) - np.asarray(theirs_KJN, np.float64), seed)


def repeated_difference(ours_K: Sequence[float] | Scores, theirs_K: Sequence[float] | Scores) -> Estimate:
    """Return the mean of ours - theirs over K >= 2 repetitions at equal seeds, with Student's interval."""
    gaps_K = np.asarray(ours_K, np.float64) - np.asarray(theirs_K, np.float64)
    freedom = len(gaps_K) - 1
    value, se = float(gaps_K.mean()), float(gaps_K.std(ddof=1)) / float(np.sqrt(len(gaps_K)))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * se
    return Estimate(value, se, value - reach, value + reach, freedom)


def _resampled(scores_KJN: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of resampled scores, (draws,): clips by how often each is drawn, then repetitions of those means."""
    repetitions, _, clips = scores_KJN.shape
    counts_BN = rng.multinomial(clips, np.full(clips, 1 / clips), size=draws)
    means_BK = counts_BN @ scores_KJN.mean(axis=1).T / clips
    drawn_BK = rng.integers(repetitions, size=(draws, repetitions - 1))
    drawn: NDArray[np.float64] = np.take_along_axis(means_BK, drawn_BK, axis=1).mean(axis=1)
    return drawn
