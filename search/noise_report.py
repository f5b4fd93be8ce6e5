"""What the noise of a search is, from its measured runs: components, rungs with a verdict on each, differences.

Shapes: R rungs, C configurations, A adaptation seeds, G generation seeds in each, J judge seeds in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from kinemic.config import Frozen
from kinemic.documents import load_result
from kinemic.errors import KinemicError
from kinemic.report import RungReport
from kinemic.seeding import numpy_generator
from search import ranks
from search.config import SearchConfig
from search.goal import Objective, goals
from search.ranks import Array, Correlation
from search.replay import Replayed, replay
from search.space import Scalar
from search.variance import (
    Component,
    clip_standard_error,
    components,
    detectable,
    most_clip_standard_error,
    seed_standard_error,
)

Worth = Literal["yes", "no", "unknown"]

AGREES: Final = 0.5  # rank correlation above which a rung ranks as the last one does
RARELY: Final = 0.1  # how often the best configuration may be lost
REPETITIONS: Final = (1, 2, 3, 5, 10)


class Design(Frozen):
    """How much is run: every configuration on every adaptation seed, generation seed in it and judge seed in that."""

    configurations: int = Field(default=8, ge=3)
    adaptations: int = Field(default=3, ge=2)
    generations: int = Field(default=2, ge=2)
    judges: int = Field(default=2, ge=2)


@dataclass(frozen=True)
class Measured:
    """A configuration with its searched values, and the rungs' reports of each run, adaptation by adaptation."""

    key: str
    title: str
    values: Mapping[str, Scalar]
    runs: tuple[tuple[RungReport, ...], ...]


class Configuration(Frozen):
    """One configuration: its searched values, and its accuracies (R, A, G, J)."""

    title: str
    values: dict[str, Scalar]
    accuracies: list[list[list[list[float]]]]


class Pruning(Frozen):
    """What the search's pruner does at some rungs; ``worth`` says whether to prune there, ``reason`` why."""

    rungs: tuple[int, ...]
    replayed: Replayed
    worth: Worth
    reason: str


class Rung(Frozen):
    """How a rung ranks configurations by the goal, beside the last one on the same seeds and on others."""

    steps: int
    mean_accuracy: float
    same_seeds: Correlation
    other_seeds: Correlation


class Detectable(Frozen):
    """The smallest true difference that is found 8 times in 10 by so many repetitions of both configurations.

    By the seeds alone it holds for these very dev clips; ``with_clips`` for others like them.
    """

    repetitions: int
    by_seeds: float
    with_clips: float


class Noise(Frozen):
    """All of it; accuracies, deviations and differences are shares, 0..1."""

    search: str
    judge: str
    pruner: str
    objective: Objective = "accuracy"  # by which rungs rank configurations
    design: Design
    dev_clips: int
    judge_seeds: int  # of a repetition of the search, as in ``detectable``
    repetitions: int  # of a trial of the search
    configurations: tuple[Configuration, ...]
    failures: tuple[str, ...]
    components: tuple[Component, ...]
    rungs: tuple[Rung, ...]
    pruning: tuple[Pruning, ...]
    clips: Literal["known", "bound"]  # which were recognised, or the most that ``with_clips`` can be
    detectable: tuple[Detectable, ...]
    settings: dict[str, Any] = Field(default_factory=dict)  # what its runs hang on, as they were measured


def settings_of(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that what is measured hangs on: data, text, prior, trial and space."""
    return config.model_dump(mode="json", include={"data", "text", "prior", "trial", "space"})


def load(path: Path) -> Noise | None:
    """Read what was measured of a search, None where nothing was. Raises DataError for a file that can't be read."""
    return load_result(path, Noise, "delete it, or measure again")


def report_of(
    config: SearchConfig,
    design: Design,
    found: Sequence[Measured],
    failures: tuple[str, ...],
    dev_clips: int,
    right_CKN: Array | None,
) -> Noise:
    """Return what configurations that ran on every seed say. Raises KinemicError for fewer than three of them.

    ``right_CKN`` says how often each dev clip was recognised, None where that is not known.
    """
    if len(found) < 3:
        raise KinemicError(
            f"{len(found)} configurations ran on every seed, and 3 are the fewest that can be ranked; "
            f"{len(failures)} failed, first {failures[0]}"
        )
    accuracies, reached = (_measured(found, config, design, objective) for objective in ("accuracy", config.objective))
    if right_CKN is None:
        clips = most_clip_standard_error(float(accuracies[-1].mean()), dev_clips)
    else:
        clips = clip_standard_error(right_CKN)
    parts = components(accuracies[-1], numpy_generator(config.sampler.seed, "noise", "components"))
    rungs = _rungs(config, accuracies, reached)
    return Noise(
        search=config.name,
        judge=config.trial.judge.profile,
        pruner=config.pruner.kind,
        objective=config.objective,
        design=design,
        dev_clips=dev_clips,
        judge_seeds=config.judge_seeds,
        repetitions=len(config.seeds),
        configurations=tuple(
            Configuration(title=each.title, values=dict(each.values), accuracies=accuracies[:, c].tolist())
            for c, each in enumerate(found)
        ),
        failures=failures,
        components=parts,
        rungs=rungs,
        pruning=_pruning(config, design, found, rungs),
        clips="bound" if right_CKN is None else "known",
        detectable=_detectable(config, parts, clips),
        settings=settings_of(config),
    )


def verdict(replayed: Replayed, rung: Correlation, last: Correlation, configurations: int) -> tuple[Worth, str]:
    """Return whether pruning at a rung is worth it, and why, from its ranks on other seeds and those of the last one.

    It takes an interval wholly above or below ``AGREES`` to say so; few configurations seldom give one.
    """
    measured = f"from {configurations} configurations"
    agreement = f"rank correlation with the last rung on other seeds {shown(rung)}"
    if not last.low > 0:
        return "unknown", f"{measured}: seeds move them as much as settings do (last rung with itself {shown(last)})"
    if replayed.stopped == 0:
        return "unknown", f"{measured}: the pruner stops none of them; measure more"
    effect = f"it saves {replayed.saved:.0%} of the compute and loses the best in {replayed.lost:.0%} of the replays"
    if replayed.saved <= 0:
        return "no", f"scoring there costs more than it saves ({replayed.saved:.0%} of the compute)"
    if rung.high < AGREES:
        return "no", f"{agreement}; {effect}"
    if replayed.lost >= max(replayed.stopped, RARELY):
        return "no", f"{effect}, no better than stopping {replayed.stopped:.0%} of the trials at random"
    if rung.low > AGREES and replayed.lost <= RARELY:
        return "yes", f"{agreement}; {effect}"
    return "unknown", f"{measured}: {agreement}; {effect}"


def shown(correlation: Correlation) -> str:
    """Return a correlation with its interval; ``?`` where all are tied."""
    if np.isnan(correlation.low):
        return "?"
    return f"{correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]"


def _measured(found: Sequence[Measured], config: SearchConfig, design: Design, objective: Objective) -> Array:
    rungs = range(len(config.trial.adapt.rungs))
    values = [[[goals(run[rung], objective) for run in each.runs] for each in found] for rung in rungs]
    return np.array(values).reshape(len(rungs), len(found), design.adaptations, design.generations, design.judges)


def _rungs(config: SearchConfig, accuracies_RCAGJ: Array, goals_RCAGJ: Array) -> tuple[Rung, ...]:
    means_RCA = goals_RCAGJ.mean(axis=(3, 4))
    rng = numpy_generator(config.sampler.seed, "noise", "ranks")
    return tuple(
        Rung(
            steps=steps,
            mean_accuracy=float(accuracies_CAGJ.mean()),
            same_seeds=ranks.same_seeds(means_CA, means_RCA[-1], rng),
            other_seeds=ranks.other_seeds(means_CA, means_RCA[-1], rng),
        )
        for steps, means_CA, accuracies_CAGJ in zip(config.trial.adapt.rungs, means_RCA, accuracies_RCAGJ, strict=True)
    )


def _pruning(
    config: SearchConfig, design: Design, found: Sequence[Measured], rungs: Sequence[Rung]
) -> tuple[Pruning, ...]:
    """Pruning at each rung alone, and at all of them where there are several."""
    if config.pruner.kind == "none":
        return ()
    steps = [rung.steps for rung in rungs]
    early = [(step,) for step in steps[:-1]] + ([tuple(steps[:-1])] if len(steps) > 2 else [])
    group = design.generations
    instances = [
        [[each.runs[a * group + g] for each in found] for g in range(group)] for a in range(design.adaptations)
    ]
    rng = numpy_generator(config.sampler.seed, "noise", "replay")
    made = []
    for some in early:
        replayed = replay(instances, config, (*some, steps[-1]), rng)
        first = next(rung for rung in rungs if rung.steps == some[0])
        worth, reason = verdict(replayed, first.other_seeds, rungs[-1].other_seeds, len(found))
        made.append(Pruning(rungs=some, replayed=replayed, worth=worth, reason=reason))
    return tuple(made)


def _detectable(config: SearchConfig, parts: tuple[Component, ...], clips: float) -> tuple[Detectable, ...]:
    made = []
    for repetitions in sorted({*REPETITIONS, len(config.seeds)}):
        by_seeds = seed_standard_error(parts, repetitions, config.judge_seeds)
        values = detectable(by_seeds), detectable(by_seeds, clips)
        made.append(Detectable(repetitions=repetitions, by_seeds=values[0], with_clips=values[1]))
    return tuple(made)
