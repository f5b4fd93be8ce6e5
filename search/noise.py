"""Before a search: how much of an accuracy is luck, whether early rungs can be trusted, what difference can be seen.

Shapes: C configurations, K runs of each, N dev clips.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray

from kinemic.config import TrialConfig, TrialSeeds
from kinemic.data.splits import TrialData, load_trial_data
from kinemic.errors import ConfigError
from kinemic.files import write_text
from kinemic.mining_ranges import ranges_of
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.reading import with_values
from kinemic.report import RungReport, TrialInputs
from kinemic.seeding import derive_seed
from search import study as studies
from search.again import Run, failure_lines, fresh_seeds, plan, run_all
from search.baselines import Contender
from search.config import SamplerConfig, SearchConfig
from search.folder import SearchFolder
from search.known_rows import first_rows
from search.lock import sole
from search.noise_report import Design, Measured, Noise, report_of
from search.patience import patiently
from search.resources import connected, kills_as_ctrl_c, share
from search.runner import Prepared, prepare
from search.sitting import tidy
from search.space import Domain, Scalar, resolve_space, suggest
from search.trainable import RunTrial, Work

_TRIES: Final = 5  # draws for each configuration that is wanted, where a space repeats itself


def measure(
    config: SearchConfig,
    runs: Path,
    design: Design,
    *,
    run_trial: RunTrial | None = None,
    prepared: Prepared | None = None,
    progress: ProgressCallback = silent,
    say: Callable[[str], None] = lambda line: None,
) -> Noise:
    """Run configurations of a search's space on nested seeds and say what is noise; runs that are done are kept.

    Writes ``noise.json`` into the search's folder. ``say`` is told the cost before anything runs and the time once it
    is known. Raises KinemicError where fewer than three configurations ran on every seed.
    """
    folder = SearchFolder((runs / config.name).resolve())
    if cost := config.data.split.cost(again=design.configurations * design.adaptations * design.generations):
        say(cost)
    inputs, source_clips = prepared or prepare(config, runs, progress)
    space = resolve_space(config.space, source_clips, config.trial.judge.profile, ranges_of(inputs))
    found = draw(config, space, source_clips, design.configurations)
    keep = {"judge.keep": config.data.split.folds is None}  # what a judge makes of each clip is asked at the end
    keeping = [replace(contender, config=with_values(contender.config, keep)) for contender, _ in found]
    rows = plan(keeping, seeds(config.sampler.seed, design), _place(folder, inputs))
    work = Work(inputs, config.trial, config.seeds, folder.trials, run_trial)
    with sole(folder.path), kills_as_ctrl_c():
        failures = patiently(lambda: _run(config, design, rows, work, progress, say), config.patience)
    whole = [
        Measured(contender.key, contender.title, values, tuple(tuple(_reports(run)) for run in rows[contender.key]))
        for contender, values in found
        if contender.key not in failures
    ]
    data = load_trial_data(inputs.trial_data)
    right_CKN = recognised([rows[each.key] for each in whole], data)
    dev_clips = sum(len(view.dev) for view in data.views)
    noise = report_of(config, design, whole, tuple(failures.values()), dev_clips, right_CKN)
    write_text(folder.noise_file, noise.model_dump_json(indent=1))
    return noise


def draw(
    config: SearchConfig, space: Mapping[str, Domain], source_clips: int, count: int
) -> list[tuple[Contender, dict[str, Scalar]]]:
    """Return up to ``count`` different configurations with their searched values: the published one, then blind draws.

    Those of sources that adapt nothing are passed over. Raises ConfigError for a space that has fewer than three.
    """
    sampler = SamplerConfig(kind="random", seed=derive_seed(config.sampler.seed, "noise"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    _, published = next(first_rows(space, source_clips, config.trial))  # of all known rows
    studies.enqueue(study, space, published)
    found: dict[TrialConfig, tuple[Contender, dict[str, Scalar]]] = {}
    for number in range(_TRIES * count):
        study.sampler = studies.make_sampler(sampler, number)
        trial = study.ask()
        values = suggest(trial, space, studies.fixed_values(trial))
        drawn, key = studies.trial_config(config, values), f"configuration_{len(found)}"
        if not drawn.adapts:  # it has no rungs to be compared
            continue
        title = "published configuration" if number == 0 else f"configuration {len(found)}"
        found.setdefault(drawn, (Contender(key, title, drawn), values))
        if len(found) == count:
            break
    if len(found) < 3:
        raise ConfigError(
            f"space: {len(found)} configurations were found in it, and 3 are the fewest to rank; widen it"
        )
    return list(found.values())


def seeds(seed: int, design: Design) -> list[TrialSeeds]:
    """Return the seeds of every configuration's runs, adaptation by adaptation; no trial of a search has any of them.

    Every adaptation has generation seeds of its own, and every generation judge seeds: the design is nested.
    """
    found = []
    for a in range(design.adaptations):
        own = [fresh_seeds(seed, f"noise {a}", g, design.judges) for g in range(design.generations)]
        found += [each.model_copy(update={"adaptation": own[0].adaptation}) for each in own]
    return found


def recognised(rows: Sequence[Sequence[Run]], data: TrialData) -> NDArray[np.float64] | None:
    """Return how often the judges that were kept recognise each dev clip, (C, K, N) over rows and their runs.

    None where judges were not kept: of k-fold dev, or of trials other than the method's own.
    """
    from kinemic.device import resolve_device
    from kinemic.judges import judge_file, load_judge  # torch

    files = [[[judge_file(run.workdir, j) for j in range(len(run.seeds.judge))] for run in row] for row in rows]
    if data.folds is not None or not all(path.exists() for row in files for run in row for path in run):
        return None
    joints, labels, device = [data.corpus.joints(i) for i in data.dev], data.corpus.labels[data.dev], resolve_device()

    def right(path: Path) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = load_judge(path, device).score(joints)[0].argmax(axis=1) == labels
        return found

    return np.array([[np.mean([right(path) for path in run], axis=0) for run in row] for row in files])


def _run(
    config: SearchConfig,
    design: Design,
    rows: Mapping[str, list[Run]],
    work: Work,
    progress: ProgressCallback,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Run what is not done; returns, for configurations that failed, the first failure of each."""
    with connected(config.resources.address):
        part = share(config.resources)
        costs = _Costs([run for row in rows.values() for run in row], part.max_concurrent, progress, say)
        costs.begin(design)
        try:
            results = run_all(rows, work, part, costs, patience=config.patience)
        finally:
            tidy(config, work.inputs)
    failures = {key: failure_lines(row) for key, row in results.items()}
    return {key: f"{key}: {lines[0]}" for key, lines in failures.items() if lines}


@dataclass
class _Costs:
    """Follows the runs: says how many there are, and once a few are through how long the others will take."""

    jobs: Sequence[Run]
    concurrent: int
    progress: ProgressCallback
    say: Callable[[str], None]

    def begin(self, design: Design) -> None:
        """Say what is about to be run."""
        self._ready = sum(any(report.last for report in _reports(run)) for run in self.jobs)
        self._start, self._estimated = time.monotonic(), False
        runs, steps = len(self.jobs), self.jobs[0].config.scored_rungs
        by_seeds = design.adaptations * design.generations
        self.say(
            f"{runs // by_seeds} configurations x {design.adaptations} adaptation x {design.generations} generation "
            f"seeds = {runs} runs of {steps[-1]} steps, {self._ready} of them done; each is judged at {len(steps)} "
            f"rungs by {design.judges} seeds; {self.concurrent} at a time"
        )

    def __call__(self, done: int, total: int) -> None:
        """Take how many runs are done."""
        self.progress(Progress("runs", done, total))
        fresh = done - self._ready
        if not self._estimated and fresh >= self.concurrent and done < total:
            left = (time.monotonic() - self._start) / fresh * (total - done)
            self.say(f"about {max(left / 60, 1):.0f} minutes left, by the first {fresh} runs")
            self._estimated = True


def _place(folder: SearchFolder, inputs: TrialInputs) -> Path:
    """Where the runs on these inputs lie: their names tell the settings, and data may change before a search starts."""
    names = "/".join(path.name for path in (inputs.source, inputs.trial_data, inputs.prior, inputs.encoder))
    return folder.noise / hashlib.blake2b(names.encode(), digest_size=4).hexdigest()


def _reports(run: Run) -> list[RungReport]:
    from kinemic.trial import stored_reports  # torch

    return stored_reports(run.workdir, run.config, repetitions=1)
