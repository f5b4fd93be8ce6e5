"""Racing: which trials get all repetitions. Shapes: M finished trials, R repetitions of each, K so far of another."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEAST_FREEDOM: Final = 4  # residual degrees of freedom, (M - 1)(R - 1), below which luck is not known yet
_ROUNDING: Final = 1e-9  # far below one clip of any dev set


def is_hopeless(ours_K: NDArray[np.float64], finished_MR: NDArray[np.float64], p_threshold: float) -> bool:
    """Return whether a trial is worse than the best finished one by more than luck, over the repetitions that it has.

    All values are means over judge seeds, which share a repetition's generator and so are no repetitions themselves; a
    repetition has the same seeds in every trial. The mean difference over K pairs is measured against a quantile
    (``p_threshold``, Student's) of its standard error. One to four pairs can't tell their own spread, so that is taken
    from all finished trials: what is left of their values after trial and repetition, as if alike everywhere.

    ``p_threshold`` is the chance to stop, at one look, a trial that is as good as a rival chosen beforehand. The best
    of many is partly lucky, and there are R - 1 looks. Simulated at 0.02, 2 to 5 repetitions, 3 to 20 finished trials:
    a trial truly as good as the best was stopped in 2 to 11 % of the races (14 % where hardly any trial is better than
    another), one better by the deviation of a repetition in 0.5 to 2.5 %, one that would have ended as the best in at
    most 0.3 %. Trials two deviations worse were spared 22 to 67 % of their further repetitions, four deviations worse
    60 to 96 %.
    """
    trials, repetitions = finished_MR.shape
    freedom = (trials - 1) * (repetitions - 1)
    if freedom < LEAST_FREEDOM:
        return False
    by_trial, by_repetition = finished_MR.mean(axis=1, keepdims=True), finished_MR.mean(axis=0)
    left = finished_MR - by_trial - by_repetition + finished_MR.mean()
    deviation = math.sqrt(float((left**2).sum()) / freedom)
    best = finished_MR[int(by_trial.argmax())]
    pairs = len(ours_K)
    worse = float((best[:pairs] - ours_K).mean())
    luck = float(stats.t.ppf(1 - p_threshold, freedom)) * deviation * math.sqrt(2 / pairs)
    return worse > luck + _ROUNDING
