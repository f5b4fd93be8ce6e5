"""A search over the analytic trial as its own process, to be killed: ``python -m tests.faults.driver FILE RUNS``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ray import cloudpickle

from kinemic.config import TrialConfig, TrialSeeds
from kinemic.progress import ProgressCallback
from kinemic.report import RungReport, TrialInputs
from search import runner
from search.config import load
from search.confirm import confirm
from search.folder import SearchFolder
from tests import analytic, judged

COMPUTED = "computed.txt"  # one line a rung that was computed and stored, in the folder of searches: trial and steps


def run_slowly(
    inputs: TrialInputs,
    config: TrialConfig,
    seeds: tuple[TrialSeeds, ...],
    workdir: Path,
    device: str,
    progress: ProgressCallback,
) -> Iterator[RungReport]:
    """Yield the analytic trial's reports, slowly enough to be killed in the middle; the new ones are accounted for."""
    rungs = config.adapt.rungs
    reports = judged.keeping(inputs, config, seeds, workdir, device, progress)
    for steps in rungs:
        stored = (workdir / f"rung-{steps}" / "report.json").exists()
        report = next(reports)
        if not stored:
            with (workdir.parents[2] / COMPUTED).open("a", encoding="utf-8") as account:
                account.write(f"{workdir.parent.name}/{workdir.name} {steps}\n")
        time.sleep(0.05 if len(rungs) > 1 else 0.3)  # runs again have one rung
        yield report


def main(file: Path, runs: Path) -> None:
    """Start the search of a file, or go on with it; then confirm it, if the file names a test split."""
    for module in (analytic, judged):
        cloudpickle.register_pickle_by_value(module)
    config = load(file)
    if SearchFolder(runs / config.name).started:
        opened = runner.reopen(config.name, runs, check_inputs=False)
    else:
        opened = runner.start(config, runs, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS))
    runner.go_on(opened, runs, run_trial=run_slowly)
    if config.confirm:
        confirm(opened, runs, run_trial=run_slowly)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
