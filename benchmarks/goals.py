"""Which goal, measured under a search's own seeds, tells best how accurate a configuration is under unseen seeds?

In a recorded table a search sees one seed pair, and each configuration's worth is its dev accuracy under the others.
For every goal: the rank correlation of goal and worth over configurations, and the regret, the worth of the table's
best minus that of the configuration which the goal puts first; means over the seed pairs that are seen, with 95 %
intervals by bootstrap over configurations, and the same of the difference to accuracy. Run: python -m benchmarks.goals
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.replay import Recorded
from benchmarks.table import FILE, Rung, Table
from kinemic.report import mean

Floats = NDArray[np.float64]

DRAWS: Final = 2000
FAILED: Final = -1e9  # of a run without a last rung
GOALS: Final[dict[str, Callable[[Rung], float]]] = {
    "accuracy": lambda rung: mean(rung.accuracies),
    "log_likelihood": lambda rung: mean(rung.log_likelihoods),
    "log_likelihood, ensemble": lambda rung: _known(rung.log_likelihood_ensemble),
    "log_likelihood, cooled": lambda rung: _known(rung.cooled),
    "brier": lambda rung: -mean(rung.briers),
    "brier, ensemble": lambda rung: -_known(rung.brier_ensemble),
}


def measured(recorded: Recorded, goal: Callable[[Rung], float]) -> tuple[Floats, Floats]:
    """Return goal and worth (S, C) by the seed pair that is seen and the configuration."""
    seen = [[recorded.run(n, seed) for n in recorded.configurations] for seed in recorded.seeds]
    values = [[FAILED if run.failure else goal(run.rungs[-1]) for run in runs] for runs in seen]
    worth = [[recorded.score(n, seed) for n in recorded.configurations] for seed in recorded.seeds]
    return np.array(values), np.array(worth)


def correlation(goal_SC: Floats, worth_SC: Floats) -> float:
    """Return the mean over seed pairs of Spearman's rank correlation; 0 for one whose goals are all equal."""
    pairs = zip(goal_SC, worth_SC, strict=True)
    return mean([float(stats.spearmanr(*pair).statistic) if np.ptp(pair, axis=1).all() else 0.0 for pair in pairs])


def regret(goal_SC: Floats, worth_SC: Floats) -> float:
    """Return the mean over seed pairs of what picking by the goal loses; of equals, the mean."""
    best = goal_SC == goal_SC.max(axis=1, keepdims=True)
    picked = [worth[first].mean() for worth, first in zip(worth_SC, best, strict=True)]
    return float((worth_SC.max(axis=1) - picked).mean())


def interval(values: Sequence[float]) -> str:
    """Return the 95 % interval of bootstrap draws."""
    low, high = np.quantile(values, (0.025, 0.975))
    return f"[{low:.3f}, {high:.3f}]"


def compared(found: Mapping[str, tuple[Floats, Floats]], rng: np.random.Generator) -> list[str]:
    """Return a line a goal: correlation and regret, and each minus that of accuracy, with intervals."""
    configurations = next(iter(found.values()))[0].shape[1]
    draws = [rng.integers(configurations, size=configurations) for _ in range(DRAWS)]
    titles = ("correlation", "minus that of accuracy", "regret", "minus that of accuracy")
    lines = [f"{'goal':<26}" + "".join(f"{title:>30}" for title in titles)]
    boot = {
        measure: {name: [measure(goal[:, d], worth[:, d]) for d in draws] for name, (goal, worth) in found.items()}
        for measure in (correlation, regret)
    }
    for name, (goal, worth) in found.items():
        cells = []
        for measure, drawn in boot.items():
            gap = measure(goal, worth) - measure(*found["accuracy"])
            gaps = [one - other for one, other in zip(drawn[name], drawn["accuracy"], strict=True)]
            cells += [f"{measure(goal, worth):.3f} {interval(drawn[name])}", f"{gap:+.3f} {interval(gaps)}"]
        lines.append(f"{name:<26}" + "".join(f"{cell:>30}" for cell in cells))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    recorded = Recorded(Table.model_validate_json(options.file.read_bytes()))
    print(f"{len(recorded.configurations)} configurations, {len(recorded.seeds)} seed pairs")
    found = {name: measured(recorded, goal) for name, goal in GOALS.items()}
    print(*compared(found, np.random.default_rng(0)), sep="\n")


def _known(value: float | None) -> float:
    assert value is not None, "recorded before probabilities were"
    return value


if __name__ == "__main__":
    main()
