"""One trial: mine, adapt, synthesise, classify on dev, once per rung. Nothing here knows that it is being searched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kinemic.adapt import Adaptation
from kinemic.artifacts import write_artifacts, write_scores
from kinemic.baselines import baseline_clips
from kinemic.bundle import FILE_NAME, GeneratorBundle
from kinemic.classify import JudgeReport, judge, limit_generated
from kinemic.config import JudgeConfig, TrialConfig, TrialSeeds
from kinemic.data.splits import TrialData
from kinemic.device import peak_memory_mb, reset_peak_memory
from kinemic.files import write_text
from kinemic.judges import judge_file, save_judge
from kinemic.material import Material, mine_pools, start_adaptation
from kinemic.mining import MiningResult
from kinemic.motion import features_to_joints
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.report import RungReport, TrialInputs
from kinemic.synthesis import Synthetic
from kinemic.workdir import check, claim, identity


@dataclass
class Clock:
    """Seconds by stage, added up."""

    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, stage: str) -> _Lap:
        """Return a context that adds its duration to a stage."""
        return _Lap(self, stage)


@dataclass
class _Lap:
    clock: Clock
    stage: str
    start: float = 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock.seconds[self.stage] = self.clock.seconds.get(self.stage, 0.0) + time.perf_counter() - self.start


def run_trial(
    inputs: TrialInputs,
    config: TrialConfig,
    seeds: TrialSeeds,
    workdir: Path,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> Iterator[RungReport]:
    """Yield one report per rung; rungs that ``workdir`` already holds are yielded first and not run again.

    With ``synthesis.clips_per_class`` 0 the trial is the judge on real clips alone, with another ``synthesis.source``
    on those and the clips of a baseline, each as one report. A trial that stopped anywhere continues from its last
    whole rung with the same numbers. Raises DivergedError, DataError, CheckpointError, and ConfigError for a
    ``workdir`` of another trial: other settings, seeds or inputs.
    """
    mark = identity(inputs, config, seeds)
    check(workdir, mark)
    stored = stored_reports(workdir, config)
    yield from stored
    if stored and stored[-1].steps == stored[-1].total_steps:
        return
    reset_peak_memory(device)
    material = Material.open(inputs, device)
    claim(workdir, mark)
    if not config.adapts:
        yield _without_adapting(material, config, seeds, workdir, device, progress)
        return
    clock, mined = Clock(), None
    if config.loss.mines:
        with clock.time("mine"):
            mined = mine_pools(material, config.mining)
    with clock.time("load"):
        adaptation = start_adaptation(material, mined, config, seeds, device)
    if stored:
        adaptation.restore(_rung_folder(workdir, stored[-1].steps) / "adaptation.safetensors")
    for steps in config.adapt.rungs[len(stored) :]:
        yield _run_rung(material, mined, adaptation, steps, config, seeds, workdir, clock, progress)
        clock = Clock()


def stored_reports(workdir: Path, config: TrialConfig) -> list[RungReport]:
    """Return the reports of the rungs that are whole on disk, in order."""
    reports = []
    for steps in config.scored_rungs:
        file = _rung_folder(workdir, steps) / "report.json"
        if not file.exists():
            break
        reports.append(RungReport.from_json(file.read_text(encoding="utf-8")))
    return reports


def score(
    material: Material,
    synthetic: Synthetic | None,
    config: TrialConfig,
    judge_seeds: Sequence[int],
    device: str,
    progress: ProgressCallback = silent,
) -> list[JudgeReport]:
    """Train the judge on real + generated clips once per seed and score it on dev; see ``score_on``."""
    return score_on(material.data, synthetic, config.judge, judge_seeds, device, progress)


def score_on(
    data: TrialData,
    synthetic: Synthetic | None,
    config: JudgeConfig,
    judge_seeds: Sequence[int],
    device: str,
    progress: ProgressCallback = silent,
) -> list[JudgeReport]:
    """Train the judge on real + generated clips once per seed and score it on dev; real clips always stay in."""
    corpus, train, dev = data.corpus, data.train, data.dev
    joints = [corpus.joints(i) for i in train]
    labels = corpus.labels[train]
    if synthetic is not None:
        taken, _ = limit_generated(synthetic.labels, config.profile)
        joints += [features_to_joints(synthetic.features[i]) for i in taken]
        labels = np.concatenate([labels, synthetic.labels[taken]])
    dev_joints = [corpus.joints(i) for i in dev]
    dev_labels, classes, real = corpus.labels[dev], len(corpus.classes), len(train)
    reports = []
    for n, seed in enumerate(judge_seeds):
        progress(Progress("classify", n, len(judge_seeds)))
        reports.append(judge(joints, labels, dev_joints, dev_labels, classes, config, seed, device, real=real))
    progress(Progress("classify", len(judge_seeds), len(judge_seeds)))
    return reports


def _run_rung(
    material: Material,
    mined: MiningResult | None,
    adaptation: Adaptation,
    steps: int,
    config: TrialConfig,
    seeds: TrialSeeds,
    workdir: Path,
    clock: Clock,
    progress: ProgressCallback,
) -> RungReport:
    device = adaptation.device
    with clock.time("adapt"):
        losses = adaptation.run(steps, progress)
    with clock.time("synthesise"):
        bundle = generator_bundle(material, adaptation, config, seeds)
        synthetic = bundle.generate(None, config.synthesis.clips_per_class, seeds.generation, device, progress=progress)
    with clock.time("classify"):
        verdicts = score(material, synthetic, config, seeds.judge, device, progress)
    report = _report(material, config, mined, synthetic, verdicts, steps, losses, clock, device)
    folder = _rung_folder(workdir, steps)
    adaptation.save(folder / "adaptation.safetensors")
    if steps == report.total_steps:
        bundle.save(workdir / FILE_NAME)
        write_artifacts(workdir / "artifacts", material, mined, bundle, synthetic, verdicts)
        _keep_judges(workdir, material, config, seeds, verdicts)
    write_text(folder / "report.json", report.to_json())  # last: a rung is whole once its report is there
    return report


def _report(
    material: Material,
    config: TrialConfig,
    mined: MiningResult | None,
    made: Synthetic | None,
    verdicts: Sequence[JudgeReport],
    steps: int,
    losses: dict[str, float],
    clock: Clock,
    device: str,
) -> RungReport:
    return RungReport(
        rung=config.scored_rungs.index(steps),
        steps=steps,
        total_steps=config.adapt.rungs[-1],
        accuracies=tuple(v.accuracy for v in verdicts),
        losses=losses,
        seconds=dict(clock.seconds),
        pool_sizes=tuple(len(p.indices) for p in mined.pools) if mined else (),
        pool_fallbacks=mined.fallbacks if mined else 0,
        device=device,
        peak_memory_mb=peak_memory_mb(device),
        warnings=_warnings(mined, made, config),
    )


def _keep_judges(
    workdir: Path, material: Material, config: TrialConfig, seeds: TrialSeeds, verdicts: Sequence[JudgeReport]
) -> None:
    if config.judge.keep:
        for number, (seed, verdict) in enumerate(zip(seeds.judge, verdicts, strict=True)):
            save_judge(verdict.classifier, judge_file(workdir, number), material.data.corpus.classes, seed)


def _warnings(mined: MiningResult | None, made: Synthetic | None, config: TrialConfig) -> tuple[str, ...]:
    found = list(mined.warnings if mined else ())
    if made is not None:
        _, cut = limit_generated(made.labels, config.judge.profile)
        found += [*made.warnings, *([cut] if cut else [])]
    return tuple(found)


def generator_bundle(
    material: Material, adaptation: Adaptation, config: TrialConfig, seeds: TrialSeeds
) -> GeneratorBundle:
    """Return the adapted generator with everything that generation needs."""
    corpus = material.data.corpus
    return GeneratorBundle(
        model=adaptation.generator(),
        model_config=material.prior.config,
        statistics=material.prior.statistics,
        diffusion_steps=config.adapt.diffusion_steps,
        classes=corpus.classes,
        captions=corpus.class_captions,
        text=tuple(material.class_text()),
        lengths=tuple(tuple(n) for n in material.few_shot_lengths),
        trial=config,
        seeds=seeds,
        encoder_id=material.encoder.id,
    )


def _without_adapting(
    material: Material, config: TrialConfig, seeds: TrialSeeds, workdir: Path, device: str, progress: ProgressCallback
) -> RungReport:
    """Score the real clips alone, or with those of a baseline."""
    clock, steps = Clock(), config.adapt.rungs[-1]
    made, mined = None, None
    if config.synthesis.clips_per_class:
        with clock.time("synthesise"):
            made, mined = baseline_clips(material, config, seeds, device, progress)
    with clock.time("classify"):
        verdicts = score(material, made, config, seeds.judge, device, progress)
    report = _report(material, config, mined, made, verdicts, steps, {}, clock, device)
    write_scores(workdir / "artifacts", material.data.corpus.classes, verdicts)
    _keep_judges(workdir, material, config, seeds, verdicts)
    write_text(_rung_folder(workdir, steps) / "report.json", report.to_json())
    return report


def _rung_folder(workdir: Path, steps: int) -> Path:
    return workdir / f"rung-{steps}"
