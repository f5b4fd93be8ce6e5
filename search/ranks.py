"""Whether an early rung ranks configurations as the last one does, counting luck that both share and not counting it.

Shapes: B bootstrap draws, C configurations, A repetitions, K ways of splitting them. Pure numpy and scipy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search.statistics import LEVEL

Array = NDArray[np.float64]

DRAWS: Final = 1000


@dataclass(frozen=True)
class Correlation:
    """A Spearman rank correlation with its 95 % interval by bootstrap over configurations; NaN where all are equal."""

    value: float
    low: float
    high: float


def same_seeds(early_CA: Array, last_CA: Array, rng: np.random.Generator) -> Correlation:
    """Return the correlation of two rungs' means over all repetitions; luck of a shared seed counts as agreement."""
    return _correlation(early_CA.mean(axis=1)[None], last_CA.mean(axis=1)[None], rng)


def other_seeds(early_CA: Array, last_CA: Array, rng: np.random.Generator) -> Correlation:
    """Return the mean correlation of one rung on some repetitions with another on the rest, over all even splits.

    With itself, a rung's is what seeds alone leave of it: no other rung can be expected to agree better.
    """
    repetitions = set(range(early_CA.shape[1]))
    sizes = {len(repetitions) // 2, (len(repetitions) + 1) // 2}
    ways = [list(some) for size in sorted(sizes) for some in combinations(sorted(repetitions), size)]
    early_KC = np.array([early_CA[:, some].mean(axis=1) for some in ways])
    last_KC = np.array([last_CA[:, sorted(repetitions - set(some))].mean(axis=1) for some in ways])
    return _correlation(early_KC, last_KC, rng)


def _correlation(one_KC: Array, other_KC: Array, rng: np.random.Generator) -> Correlation:
    configurations = one_KC.shape[1]
    drawn_BC = rng.integers(configurations, size=(DRAWS, configurations))
    values_B = _spearman(one_KC[:, drawn_BC], other_KC[:, drawn_BC])
    values_B = values_B[np.isfinite(values_B)]
    value = float(_spearman(one_KC, other_KC))
    if not len(values_B):
        return Correlation(value, np.nan, np.nan)
    low, high = np.quantile(values_B, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Correlation(value, float(low), float(high))


def _spearman(one_KC: Array, other_KC: Array) -> Array:
    """The mean over K of the rank correlations along C, (K, ..., C) to (...); NaN where one side is all ties."""
    one, other = (stats.rankdata(values, axis=-1) for values in (one_KC, other_KC))
    one, other = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (one, other))
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    values = np.full_like(scale, np.nan)
    np.divide((one * other).sum(axis=-1), scale, out=values, where=scale > 0)
    mean: Array = values.mean(axis=0)
    return mean
