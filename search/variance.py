"""How much of an accuracy is luck: variance components of nested seeds, and the differences that they hide.

Shapes: C configurations, A adaptation seeds, G generation seeds in each adaptation, J judge seeds in each generated
set, K runs, N dev clips; every configuration has the same seeds. Accuracies are shares, 0..1. Pure numpy and scipy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from search.statistics import DRAWS, LEVEL, smallest_detectable

Array = NDArray[np.float64]

SOURCES: Final = ("configuration", "adaptation", "generation", "judge")


@dataclass(frozen=True)
class Component:
    """The standard deviation that one source adds, 0 where the ANOVA estimate of its variance is below 0.

    ``paired`` is the part that does not cancel where configurations are compared on the same seeds.
    """

    source: str
    variance: float
    paired_variance: float
    sd: float
    paired_sd: float
    low: float  # 95 % interval of sd
    high: float


def components(accuracies_CAGJ: Array, rng: np.random.Generator) -> tuple[Component, ...]:
    """Return the component of each of ``SOURCES``; every size must be 2 or more.

    Mean squares of the nested design, each less that of the source below it. What a seed does to all configurations
    alike is taken out for ``paired``, and for the configurations, whose means share it. Intervals come from sums of
    squares drawn by their chi-squared distributions, as if all effects were normal.
    """
    squares, freedom = _squares(accuracies_CAGJ)
    own, paired = _variances(squares, freedom, accuracies_CAGJ)
    drawn = squares * freedom / rng.chisquare(freedom, size=(DRAWS, *freedom.shape))
    sds = np.sqrt(_variances(drawn, freedom, accuracies_CAGJ)[0].clip(0))
    low, high = np.quantile(sds, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    found = zip(SOURCES, own, paired, np.sqrt(own.clip(0)), np.sqrt(paired.clip(0)), low, high, strict=True)
    return tuple(Component(source, *map(float, numbers)) for source, *numbers in found)


def seed_standard_error(found: tuple[Component, ...], repetitions: int, judges: int) -> float:
    """Return the standard error of a difference of two configurations by their seeds, on the same seeds for both.

    A repetition is one adaptation, one generation and ``judges`` judge seeds. Estimates below 0 count as they are, so
    that the sum has no bias; it is cut at 0.
    """
    _, adaptation, generation, judge = (component.paired_variance for component in found)
    variance = (adaptation + generation + judge / judges) / repetitions
    return math.sqrt(2 * max(variance, 0.0))


def clip_standard_error(right_CKN: Array) -> float:
    """Return the standard error of a difference of two configurations by the choice of clips, the same for both.

    ``right_CKN`` says how often each of N dev clips was recognised, by configuration and run; the mean over runs still
    holds some of their luck, so this is a little too much. It is the root mean square over all pairs.
    """
    right_CN = right_CKN.mean(axis=1)
    one, other = np.triu_indices(len(right_CN), k=1)
    variances = (right_CN[one] - right_CN[other]).var(axis=1, ddof=1) / right_CN.shape[1]
    return math.sqrt(float(variances.mean()))


def most_clip_standard_error(accuracy: float, clips: int) -> float:
    """Return the most that it can be where it is not known which clips were recognised, sqrt(2 p (1 - p) / N).

    That of two accuracies on clips of their own. On the same clips it is less, the more both get right or wrong alike.
    """
    return math.sqrt(2 * accuracy * (1 - accuracy) / clips)


def detectable(*standard_errors: float) -> float:
    """Return the true difference that would be found 8 times in 10, from independent sources of error."""
    return smallest_detectable(math.hypot(*standard_errors))


def _squares(accuracies_CAGJ: Array) -> tuple[Array, Array]:
    """Sums of squares and degrees of freedom (2, S): of what configurations share, and of what they don't."""
    configurations, *seeds = accuracies_CAGJ.shape
    shared = accuracies_CAGJ.mean(axis=0)
    own = accuracies_CAGJ - shared
    between = math.prod(seeds) * float((own.mean(axis=(1, 2, 3)) ** 2).sum())
    squares = np.array([[0.0, *configurations * _nested(shared[None])], [between, *_nested(own)]])
    groups = np.cumprod([1, *seeds[:-1]]) * (np.array(seeds) - 1)
    # Nothing is shared between configurations as such; its freedom only has to be a number.
    return squares, np.array([[1, *groups], [configurations - 1, *(configurations - 1) * groups]])


def _nested(values_CAGJ: Array) -> Array:
    """Sums of squares of adaptations, generations and judges, each around the means of the source above it."""
    squares, means = [], values_CAGJ
    for level in (3, 2, 1):
        above = means.mean(axis=level)
        squares.append(values_CAGJ.size / means.size * float(((means - above[..., None]) ** 2).sum()))
        means = above
    return np.array(squares[::-1])


def _variances(squares_S: Array, freedom_S: Array, accuracies_CAGJ: Array) -> tuple[Array, Array]:
    """Variances (..., S) of one configuration and of those on the same seeds, of sums of squares (..., 2, S)."""
    paired = squares_S[..., 1, :] / freedom_S[1]
    own = squares_S.sum(axis=-2) / freedom_S.sum(axis=0)
    variances = _own_share(own, accuracies_CAGJ), _own_share(paired, accuracies_CAGJ)
    variances[0][..., 0] = variances[1][..., 0]
    return variances


def _own_share(mean_squares_S: Array, accuracies_CAGJ: Array) -> Array:
    """The variance of each source: its mean square less that of the source below, by how many values it holds for."""
    _, *seeds = accuracies_CAGJ.shape
    values = [math.prod(seeds[level:]) for level in range(len(SOURCES))]
    below = np.concatenate([mean_squares_S[..., 1:], np.zeros_like(mean_squares_S[..., :1])], axis=-1)
    share: Array = (mean_squares_S - below) / values
    return share
