"""After the search: the baselines, the published configuration and the best trial, run again on fresh seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna

from kinemic.documents import load_result
from kinemic.files import write_text
from kinemic.report import RungReport, mean, standard_error
from search.again import Result, Run, failure_lines, fresh_seeds, plan, run_all
from search.baselines import BEST, NONE, Contender, contenders
from search.config import SearchConfig
from search.folder import SearchFolder
from search.shares import Share
from search.statistics import repeated_difference
from search.trainable import Work

HEADING = "on dev: chosen on these clips"


@dataclass(frozen=True)
class ContenderRow:
    """One row of the table: mean dev accuracy (0..1) of every repetition, their mean and standard error."""

    key: str
    title: str
    accuracies: tuple[float, ...]
    failures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.accuracies and not self.failures:
            raise ValueError(f"{self.title} has neither accuracies nor failures")

    @property
    def mean(self) -> float:
        """Mean over the repetitions; NaN where all failed."""
        return mean(self.accuracies) if self.accuracies else float("nan")

    @property
    def se(self) -> float | None:
        """Standard error of that mean over the repetitions; None for fewer than two."""
        return standard_error(self.accuracies)


@dataclass(frozen=True)
class ContenderTable:
    """The table, with the number of fresh repetitions and of judge seeds in each."""

    rows: tuple[ContenderRow, ...]
    repetitions: int
    judge_seeds: int
    steps: int
    heading: str = HEADING
    judge: str = ""  # its profile; empty in tables of before it was kept

    def to_json(self) -> str:
        """Return the table as JSON; mean and standard error are written out."""
        data = asdict(self)
        for row, shown in zip(self.rows, data["rows"], strict=True):
            shown |= {"mean": row.mean if row.accuracies else None, "se": row.se}
        return json.dumps(data, indent=1)

    @property
    def verdict(self) -> str:
        """What the best trial gains over real clips, augmented alike, in a line: points and a 95 % interval.

        Empty for a table that lacks one of the two rows; repetitions of which a run failed make it no comparison.
        """
        best, none = (next((row for row in self.rows if row.key == key), None) for key in (BEST, NONE))
        if best is None or none is None:
            return ""
        said = f"best trial minus {none.title}"
        if best.failures or none.failures:
            return f"{said}: unknown, as runs failed"
        gap = repeated_difference(best.accuracies, none.accuracies)
        line = f"{said}: {100 * gap.value:+.1f} points [{100 * gap.low:.1f}, {100 * gap.high:.1f}]"
        return (
            line if gap.low > 0 else f"{line}; nothing is shown to help more than {none.title}, take that (source none)"
        )

    def metrics(self) -> dict[str, float]:
        """Return the rows as metrics of the search's own run."""
        means = {f"contender_{row.key}_dev_accuracy": row.mean for row in self.rows if row.accuracies}
        errors = {f"contender_{row.key}_dev_accuracy_se": row.se for row in self.rows if row.se is not None}
        return means | errors


def run_contenders(
    found: Sequence[Contender],
    config: SearchConfig,
    work: Work,
    share: Share,
    folder: Path,
    changed: Callable[[int, int], None] = lambda done, total: None,
) -> ContenderTable:
    """Run every contender on every repetition's fresh seeds; a run that fails leaves its row with fewer repetitions."""
    results = run_all(planned(found, config, folder), work, share, changed, patience=config.patience)
    rows = tuple(_row(contender, results[contender.key]) for contender in found)
    return ContenderTable(
        rows, config.contenders.seeds, config.judge_seeds, config.steps, judge=config.trial.judge.profile
    )


def planned(found: Sequence[Contender], config: SearchConfig, folder: Path) -> dict[str, list[Run]]:
    """Return the runs of every contender, one a repetition, each in its own folder below ``folder``."""
    judges = config.judge_seeds
    seeds = [fresh_seeds(config.sampler.seed, "contender", k, judges) for k in range(config.contenders.seeds)]
    return plan(found, seeds, folder)


def planned_of(study: optuna.Study, config: SearchConfig, folder: SearchFolder) -> dict[str, list[Run]]:
    """Return the runs of a search's contenders, as ``planned`` does. Raises KinemicError before a trial finished."""
    state = folder.state()
    found = contenders(study, config, state.space(config), state.source_clips)
    return planned(found, config, folder.contenders)


def store(table: ContenderTable, path: Path) -> None:
    """Write a table to the search's folder."""
    write_text(path, table.to_json())


def load(path: Path) -> ContenderTable | None:
    """Read a search's table, None where there is none yet. Raises DataError for a damaged file."""
    return load_result(path, ContenderTable, f"delete it, then `kinemic search contenders {path.parent.name}`")


def _row(contender: Contender, results: Sequence[Result]) -> ContenderRow:
    return ContenderRow(
        contender.key,
        contender.title,
        tuple(r.dev_accuracy for r in results if isinstance(r, RungReport)),
        failure_lines(results),
    )
