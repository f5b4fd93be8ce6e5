"""What generated clips are like beside real ones: how far they move, how they differ, and whether they are copies.

None of it is a goal: clips that are recognised, or that move as real ones do, need not help a classifier.
Legend: N clips, T frames, J = 22 joints, D numbers of a clip as a classifier is shown it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from kinemic.data.corpus import Corpus
from kinemic.data.splits import TrialData
from kinemic.judge_inputs import judge_inputs
from kinemic.mining import MiningResult
from kinemic.motion import features_to_joints
from kinemic.motion_range import LIMBS, range_of_motion
from kinemic.report import mean
from kinemic.skeleton import NUM_JOINTS
from kinemic.synthesis import Synthetic

Floats = NDArray[np.float64]
Joints = NDArray[np.float32]
Rows = list[dict[str, Any]]

MINED: Final = 10  # clips of a pool that are looked at
FRAMES: Final = 48  # that clips are resampled to before they are compared
NEAR: Final = 0.15  # of a real class's range of motion: within it, the clips of a class move as far


@dataclass(frozen=True)
class Labelled:
    """Clips (T, 22, 3) in metres, each with its class."""

    clips: Sequence[Joints]
    labels: Sequence[int]

    def of(self, label: int) -> list[int]:
        """Return the indices of a class's clips."""
        return [i for i, each in enumerate(self.labels) if each == label]

    @cached_property
    def inputs(self) -> Floats:
        """The clips as a classifier is shown them."""
        seen = judge_inputs(self.clips, FRAMES) if self.clips else np.empty((0, FRAMES, NUM_JOINTS, 3))
        return np.asarray(seen, np.float64).reshape(len(self.clips), FRAMES * NUM_JOINTS * 3)


def diagnose_trial(
    data: TrialData, source: Corpus, made: Synthetic, mined: MiningResult | None
) -> tuple[dict[str, float], Rows]:
    """Return the figures of ``diagnose`` for a trial: clips that a model made against few shots, pools and dev clips.

    Of the pools it sees the best MINED clips each. Mined clips that were taken as they are count as mined only.
    """
    corpus = data.corpus
    shots, others = (_labelled(corpus, part, [int(corpus.labels[i]) for i in part]) for part in (data.train, data.dev))
    prompts = np.full(len(made.labels), -1) if made.prompts is None else made.prompts
    by_model = np.flatnonzero(prompts >= 0)
    joints = [features_to_joints(made.features[i]) for i in by_model]
    generated = Labelled(joints, made.labels[by_model].tolist())
    if mined is None:
        return diagnose(corpus.classes, shots, others, generated)
    best = [(int(i), label) for label, pool in enumerate(mined.pools) for i in pool.indices[:MINED]]
    pools = _labelled(source, [i for i, _ in best], [label for _, label in best])
    return diagnose(corpus.classes, shots, others, generated, pools)


def _labelled(corpus: Corpus, indices: Iterable[int], labels: list[int]) -> Labelled:
    return Labelled([corpus.joints(int(i)) for i in indices], labels)


def motion_table(classes: Sequence[str], kinds: Mapping[str, Labelled]) -> Rows:
    """Return a row for every class and limb (``motion_range.LIMBS``): the median range of motion of each kind of clips.

    Ranges are in metres. Of every kind but ``real``, a column ``KIND_over_real`` says how many times as far it moves.
    A class that has no clips of a kind has None there.
    """
    ranges = {kind: [range_of_motion(clip) for clip in clips.clips] for kind, clips in kinds.items()}
    rows = []
    for label, name in enumerate(classes):
        medians: dict[str, Floats | None] = {}
        for kind, clips in kinds.items():
            chosen = [ranges[kind][i] for i in clips.of(label)]
            medians[kind] = np.median(chosen, axis=0) if chosen else None
        for place, limb in enumerate(LIMBS):
            metres = {kind: None if m is None else float(m[place]) for kind, m in medians.items()}
            ratios = {f"{kind}_over_real": _over(value, metres["real"]) for kind, value in metres.items()}
            del ratios["real_over_real"]
            rows.append({"class": name, "limb": limb, **metres, **ratios})
    return rows


def class_ratios(table: Rows, kind: str) -> list[float]:
    """Return by class how many times as far as real clips those of ``kind`` move, all limbs together."""
    sums: dict[str, tuple[float, float]] = {}
    for row in table:
        if row.get(kind) is not None and row["real"] is not None:
            far, real = sums.get(row["class"], (0.0, 0.0))
            sums[row["class"]] = (far + row[kind], real + row["real"])
    return [far / real for far, real in sums.values() if real > 0]


def diagnose(
    classes: Sequence[str], shots: Labelled, others: Labelled, generated: Labelled, mined: Labelled | None = None
) -> tuple[dict[str, float], Rows]:
    """Return figures on generated clips, by name, and their ``motion_table``. What can't be known is left out.

    ``others`` are real clips beside the few shots, ``mined`` source clips of the pools. Over classes, the
    median of the first two and the mean of the others:

    - ``motion_range_generated_over_real``, ``motion_range_mined_over_real``: how far clips move, over real ones.
    - ``motion_range_classes_near_real``: share of the classes whose ratio is within NEAR of 1.
    - ``spread_generated_over_real``: mean distance of two clips of a class, over that of two real ones.
    - ``nearest_shot_generated_over_real``: median distance to the nearest few shot of the class, over that of
      ``others``. Near 0, clips are copies.
    - ``nearest_real_is_of_class``: share of the clips whose nearest real clip is of their class.

    Distances are Euclidean, between clips as a classifier is shown them.
    """
    real = Labelled([*shots.clips, *others.clips], [*shots.labels, *others.labels])
    table = motion_table(classes, {"real": real, "generated": generated} | ({} if mined is None else {"mined": mined}))
    spreads, copies = [], []
    for label in sorted(set(generated.labels)):
        few, rest, both, made = (part.inputs[part.of(label)] for part in (shots, others, real, generated))
        spreads.append(_over(_spread(made), _spread(both)))
        copies.append(_over(_nearest(made, few), _nearest(rest, few)))
    ratios = class_ratios(table, "generated")
    nearest = cdist(generated.inputs, real.inputs).argmin(axis=1)
    known: dict[str, Sequence[float | None]] = {
        "motion_range_generated_over_real": _median(ratios),
        "motion_range_mined_over_real": _median(class_ratios(table, "mined")),
        "motion_range_classes_near_real": [float(abs(ratio - 1) <= NEAR) for ratio in ratios],
        "spread_generated_over_real": spreads,
        "nearest_shot_generated_over_real": copies,
        "nearest_real_is_of_class": [
            float(real.labels[i] == k) for i, k in zip(nearest, generated.labels, strict=True)
        ],
    }
    return {name: mean(found) for name, values in known.items() if (found := _known(values))}, table


def _spread(x_ND: Floats) -> float | None:
    return float(pdist(x_ND).mean()) if len(x_ND) > 1 else None


def _nearest(x_ND: Floats, shots_ND: Floats) -> float | None:
    return float(np.median(cdist(x_ND, shots_ND).min(axis=1))) if len(x_ND) and len(shots_ND) else None


def _median(values: Sequence[float]) -> list[float]:
    return [statistics.median(values)] if values else []


def _over(value: float | None, real: float | None) -> float | None:
    return None if value is None or not real else value / real


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
