"""What the records of the effect say: means over draws, and paired differences with Student's t intervals.

A draw of the few shots is one observation: seeds inside it are averaged first. Draw 0 is that on which settings were
chosen, so it is left out of every mean and shown apart. Of a generated corpus one search is run: there an observation
is an adaptation seed. Differences are of equal seeds only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy import stats

from benchmarks.effect_records import Place, Record
from kinemic.report import mean, standard_error
from search.statistics import LEVEL

CHOSEN_ON = 0  # the draw
GENERATED = "generated-"  # what the target of a generated corpus begins with, before its seed


@dataclass(frozen=True)
class Estimate:
    """A mean over observations, with its Student's t interval of 95 %, infinite for one; shares, -1..1."""

    value: float
    low: float
    high: float
    count: int

    @property
    def points(self) -> str:
        """A difference in points, with its interval where there is one."""
        text = f"{100 * self.value:+.1f}"
        return text if self.count < 2 else f"{text} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent observations with its interval."""
    value, error = mean(values), standard_error(values)
    reach = math.inf if error is None else float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return Estimate(value, value - reach, value + reach, len(values))


class Results:
    """The records of rows, by place, without the draw that settings were chosen on."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._all: dict[Place, list[Record]] = {}
        for record in records:
            self._all.setdefault(record.place, []).append(record)

    def groups(self, generated: bool) -> list[tuple[str, int]]:
        """Return target and shots of everything that is recorded of people, or of generated corpora."""
        found = {(p.target, p.shots) for p in self._all if p.target.startswith(GENERATED) == generated}
        return sorted(found)

    def rows(self, target: str, shots: int) -> set[str]:
        """Return the rows that are recorded."""
        return {place.row for place in self._all if place[:2] == (target, shots)}

    def accuracy(self, place: Place) -> Estimate | None:
        """Return a row's accuracy; None where it has none."""
        return self._over(place, {r.key[3:]: r.accuracy for r in self._of(place)})

    def difference(self, place: Place, reference: str) -> Estimate | None:
        """Return a row's accuracy minus that of another at the same target, shots and seeds; None without any."""
        theirs = {r.key[3:]: r.accuracy for r in self._of(place._replace(row=reference))}
        ours = {r.key[3:]: r.accuracy for r in self._of(place)}
        return self._over(place, {seeds: ours[seeds] - theirs[seeds] for seeds in ours.keys() & theirs.keys()})

    def chosen_on(self, place: Place) -> float | None:
        """Return a row's mean accuracy on the draw that settings were chosen on."""
        found = [r.accuracy for r in self._all.get(place, ()) if r.draw == CHOSEN_ON]
        return mean(found) if found else None

    def curve(self, target: str, row: str) -> dict[int, Estimate]:
        """Return a row's accuracy by shots."""
        found = {shots: self.accuracy(Place(target, shots, row)) for of, shots in self.groups(False) if of == target}
        return {shots: accuracy for shots, accuracy in found.items() if accuracy}

    def _of(self, place: Place) -> list[Record]:
        records = self._all.get(place, [])
        return records if place.target.startswith(GENERATED) else [r for r in records if r.draw != CHOSEN_ON]

    def _over(self, place: Place, values: Mapping[tuple[int, int, int], float]) -> Estimate | None:
        by = 1 if place.target.startswith(GENERATED) else 0  # the adaptation seed, or the draw
        observed: dict[int, list[float]] = {}
        for seeds, value in values.items():
            observed.setdefault(seeds[by], []).append(value)
        return estimate([mean(observed[each]) for each in sorted(observed)]) if observed else None


def worth(curve: Mapping[int, Estimate], accuracy: float) -> float:
    """Return how many real shots a class give an accuracy, by linear interpolation of means over shots.

    Infinite beyond the largest number of shots of the curve; the smallest number for what is below all.
    """
    points = [(shots, curve[shots].value) for shots in sorted(curve)]
    if accuracy <= points[0][1]:
        return float(points[0][0])
    for (fewer, low), (more, high) in pairwise(points):
        if accuracy <= high:
            return fewer + (more - fewer) * (accuracy - low) / (high - low)
    return math.inf
