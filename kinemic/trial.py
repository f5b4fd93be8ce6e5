"""One trial: mine, adapt, synthesise, classify on dev, once per rung. Nothing here knows that it is being searched.

A trial has one view of the clips, its few shots and its dev clips; or, where dev is k-fold, one a fold, each adapted to
the other folds' shots and scored on its own, and what they say is pooled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kinemic.artifacts import write_artifacts, write_scores
from kinemic.bundle import FILE_NAME
from kinemic.classify import Classifier, limit_generated
from kinemic.config import TrialConfig, TrialSeeds
from kinemic.data.splits import TrialData
from kinemic.device import peak_memory_mb, reset_peak_memory
from kinemic.diagnostics import diagnose_trial
from kinemic.errors import CheckpointError, DataError
from kinemic.files import write_text
from kinemic.judges import CLASSIFIER, judge_file, save_judge
from kinemic.material import Material
from kinemic.metrics import brier_score, log_likelihood
from kinemic.mining import MiningResult
from kinemic.predictions import Predictions, of_all_classifiers, of_all_clips
from kinemic.progress import ProgressCallback, silent
from kinemic.report import RungReport, TrialInputs, mean
from kinemic.sources import synthetic_clips
from kinemic.stages import Clock, Stages
from kinemic.store import STAGES, StageStore
from kinemic.synthesis import Synthetic
from kinemic.workdir import check, claim, identity


def run_trial(
    inputs: TrialInputs,
    config: TrialConfig,
    seeds: Sequence[TrialSeeds],
    workdir: Path,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> Iterator[RungReport]:
    """Yield a report per rung, then one per further repetition; those that ``workdir`` holds come first, as they are.

    If its source adapts no generator, or no class has mined clips, a trial is scored at the last rung only. One that
    stopped anywhere continues from its last whole rung with the same numbers. Raises DivergedError, DataError,
    CheckpointError, and ConfigError for a ``workdir`` of another trial: other settings, seeds or inputs.
    """
    mark = identity(inputs, config, seeds)
    check(workdir, mark)
    reports = stored_reports(workdir, config, len(seeds))
    yield from reports
    if reports and reports[-1].last:
        return
    reset_peak_memory(device)
    material = Material.open(inputs, device)
    claim(workdir, mark)
    store = StageStore(inputs.stages or workdir / STAGES)
    yield from _Trial(material, config, tuple(seeds), workdir, store, device, progress).go_on(reports)


def stored_reports(workdir: Path, config: TrialConfig, repetitions: int) -> list[RungReport]:
    """Return the reports that are whole on disk, in order."""
    rungs = config.scored_rungs
    # A trial whose pools came out empty has nothing to adapt: its first report is of the last rung.
    return _stored(workdir, rungs, repetitions) or _stored(workdir, rungs[-1:], repetitions)


def _stored(workdir: Path, rungs: Sequence[int], repetitions: int) -> list[RungReport]:
    reports = []
    for repetition, steps in _schedule(rungs, repetitions):
        file = _folder(workdir, repetition, steps) / "report.json"
        try:
            report = RungReport.from_json(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # not there, or damaged: its rung is scored again
            break
        if report.rung != rungs.index(steps):
            break
        reports.append(report)
    return reports


@dataclass(frozen=True)
class _Scored:
    """What one rung of one repetition gave."""

    said: Predictions  # of the dev clips of all views
    losses: dict[str, float]
    mined: MiningResult | None
    made: Synthetic | None  # of the first view, as the judges
    judges: list[Classifier]


@dataclass(frozen=True)
class _Trial:
    material: Material
    config: TrialConfig
    seeds: tuple[TrialSeeds, ...]
    workdir: Path
    store: StageStore
    device: str
    progress: ProgressCallback

    def go_on(self, done: Sequence[RungReport]) -> Iterator[RungReport]:
        """Yield the reports that are missing, each when its files are written."""
        views = self._views(0)
        clock = Clock() if done else views[0].clock  # to know the rungs, it may have mined
        schedule = _schedule(views[0].rungs, len(self.seeds))
        for place, (repetition, steps) in enumerate(schedule[len(done) :], len(done)):
            if repetition > 0:
                views = self._views(repetition)
            elif place > 0 and place == len(done) and views[0].trains:  # where an earlier sitting stopped
                for stages in views:
                    stages.clock = Clock()  # its rung was reported before
                    stages.adapt(schedule[place - 1][1])
            for stages in views:
                stages.clock = clock
            yield self._keep(self._score(views, steps), views, repetition, steps, clock)
            clock = Clock()

    def _views(self, repetition: int) -> list[Stages]:
        return [self._stages(data, repetition) for data in self.material.data.views]

    def _stages(self, data: TrialData, repetition: int) -> Stages:
        material, seeds = replace(self.material, data=data), self.seeds[repetition]
        return Stages(material, self.config, seeds, self.store, self.device, Clock(), self.progress)

    def _score(self, views: Sequence[Stages], steps: int) -> _Scored:
        said, losses, clips, judges = [], [], [], list[list[Classifier]]()
        for stages in views:
            losses.append(stages.adapt(steps) if stages.trains else {})
            made = synthetic_clips(stages)
            reports = stages.judge(made)
            said.append(Predictions(np.stack([report.logits for report in reports]), reports[0].labels))
            judges.append([report.classifier for report in reports])
            clips.append(made)
        pooled, means = of_all_clips(said), {k: mean([each[k] for each in losses]) for k in losses[0]}
        return _Scored(pooled, means, views[0].pools, clips[0], judges[0])

    def _keep(self, scored: _Scored, views: Sequence[Stages], repetition: int, steps: int, clock: Clock) -> RungReport:
        folder = _folder(self.workdir, repetition, steps)
        said = of_all_classifiers([*self._earlier(repetition, steps), scored.said])
        said.save(folder / PREDICTIONS)
        diagnostics: dict[str, float] = {}
        if steps == self.config.adapt.rungs[-1]:
            write_scores(self.workdir / "artifacts", self.material.data.corpus.classes, said.confusions)
            if repetition == 0:
                self._finish(scored, views[0], steps, clock)
                diagnostics = self._diagnose(scored, views[0].material.data)
        report = RungReport(
            rung=views[0].rungs.index(steps),
            steps=steps,
            total_steps=self.config.adapt.rungs[-1],
            accuracies=said.accuracies,
            losses=scored.losses,
            seconds=dict(clock.seconds),
            pool_sizes=tuple(len(p.indices) for p in scored.mined.pools) if scored.mined else (),
            pool_fallbacks=scored.mined.fallbacks if scored.mined else 0,
            device=self.device,
            peak_memory_mb=peak_memory_mb(self.device),
            warnings=(*_warnings(scored, self.config), *self.store.damaged),
            repetition=repetition,
            repetitions=len(self.seeds),
            reused=dict(clock.reused),
            log_likelihoods=said.log_likelihoods,
            briers=said.briers,
            log_likelihood_ensemble=log_likelihood(said.ensemble, said.labels),
            brier_ensemble=brier_score(said.ensemble, said.labels),
            diagnostics=diagnostics,
        )
        write_text(folder / "report.json", report.to_json())  # last: a rung is whole once its report is there
        self.store.damaged.clear()
        return report

    def _earlier(self, repetition: int, steps: int) -> list[Predictions]:
        if repetition == 0:
            return []
        folder = _folder(self.workdir, repetition - 1, steps)
        try:
            return [Predictions.load(folder / PREDICTIONS)]
        except CheckpointError as error:
            raise DataError(f"{error}; or delete {folder}, and it is made again") from error

    def _diagnose(self, scored: _Scored, data: TrialData) -> dict[str, float]:
        """Return figures on the generated clips, and write how far they move by class and limb."""
        if scored.made is None:
            return {}
        figures, table = diagnose_trial(data, self.material.source, scored.made, scored.mined)
        write_text(self.workdir / "artifacts" / "motion.json", json.dumps(table, indent=1))
        return figures

    def _finish(self, scored: _Scored, first: Stages, steps: int, clock: Clock) -> None:
        """Write generator, pictures, classifier and, if wanted, all judges; with k folds, of all the shots."""
        data, stages, made, judges = self.material.data, first, scored.made, scored.judges
        wanted = stages.seeds.judge if self.config.judge.keep else stages.seeds.judge[:1]
        if data.folds is not None:
            stages = self._stages(data, 0)
            stages.clock = clock
            if stages.trains:
                stages.adapt(steps)
            made = synthetic_clips(stages)
            judges = stages.train_judges(made, wanted)
        bundle = stages.generator if stages.adapts else None
        if bundle is not None:
            bundle.save(self.workdir / FILE_NAME)
        write_artifacts(self.workdir / "artifacts", stages.material, stages.pools, made, bundle)
        save_judge(judges[0], self.workdir / CLASSIFIER, data.corpus.classes, wanted[0])
        if self.config.judge.keep:
            for number, (seed, judge) in enumerate(zip(wanted, judges, strict=True)):
                save_judge(judge, judge_file(self.workdir, number), data.corpus.classes, seed)


PREDICTIONS = "predictions.safetensors"  # of a rung, in its folder


def _schedule(rungs: Sequence[int], repetitions: int) -> list[tuple[int, int]]:
    """Repetition and steps of each report: the first repetition at every rung, the others at the last alone."""
    return [(0, steps) for steps in rungs] + [(repetition, rungs[-1]) for repetition in range(1, repetitions)]


def _folder(workdir: Path, repetition: int, steps: int) -> Path:
    return workdir / (f"rung-{steps}-repetition-{repetition}" if repetition else f"rung-{steps}")


def _warnings(scored: _Scored, config: TrialConfig) -> tuple[str, ...]:
    found = list(scored.mined.warnings if scored.mined else ())
    if scored.made is not None:
        _, cut = limit_generated(scored.made.labels, config.judge.profile)
        found += [*scored.made.warnings, *([cut] if cut else [])]
    return tuple(found)
