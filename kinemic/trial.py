"""One trial: mine, adapt, synthesise, classify on dev, once per rung. Nothing here knows that it is being searched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from kinemic.adapt import Adaptation
from kinemic.artifacts import write_artifacts, write_scores
from kinemic.bundle import FILE_NAME, GeneratorBundle
from kinemic.classify import JudgeReport, judge, limit_generated
from kinemic.clips import ClipSet
from kinemic.config import JudgeConfig, MiningConfig, TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.data.splits import TrialData, load_trial_data
from kinemic.device import peak_memory_mb, reset_peak_memory
from kinemic.files import write_text
from kinemic.mining import MiningResult, mine_corpus
from kinemic.motion import features_to_joints
from kinemic.prior import Prior, load_prior
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.report import RungReport, TrialInputs
from kinemic.synthesis import Synthetic
from kinemic.text import CachedEncoder, TextEncoder, load_encoder
from kinemic.workdir import check, claim, identity

MAX_FRAMES = 196  # longer clips are cropped, as in HumanML3D


@dataclass(frozen=True)
class Material:
    """The opened inputs of a trial."""

    data: TrialData
    source: Corpus
    prior: Prior
    encoder: TextEncoder

    @classmethod
    def open(cls, inputs: TrialInputs, device: str) -> Material:
        """Open and check every input. Raises FirewallError, DataError or CheckpointError."""
        data = load_trial_data(inputs.trial_data)
        encoder = CachedEncoder(load_encoder(inputs.encoder, device), inputs.cache)
        return cls(data, Corpus.open(inputs.source), load_prior(inputs.prior, encoder_id=encoder.id), encoder)

    @property
    def few_shot_lengths(self) -> list[list[int]]:
        """Frames of the few shots, by class: the only lengths that synthesis may know."""
        corpus, train = self.data.corpus, self.data.train
        return [
            [min(int(corpus.lengths[i]), MAX_FRAMES) for i in train if corpus.labels[i] == c]
            for c in range(len(corpus.classes))
        ]

    def class_text(self) -> list[torch.Tensor]:
        """Caption embeddings of each class, (prompts, E)."""
        return [torch.from_numpy(self.encoder.encode(list(c))) for c in self.data.corpus.class_captions]


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

    With ``synthesis.clips_per_class`` 0 the trial is the judge on real clips alone, as one report. A trial that stopped
    anywhere continues from its last whole rung with the same numbers. Raises DivergedError, DataError, CheckpointError,
    and ConfigError for a ``workdir`` of another trial: other settings, seeds or inputs.
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
    if config.synthesis.clips_per_class == 0:
        yield _real_only(material, config, seeds, workdir, device, progress)
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
    rungs = config.adapt.rungs if config.synthesis.clips_per_class else config.adapt.rungs[-1:]
    for steps in rungs:
        file = _rung_folder(workdir, steps) / "report.json"
        if not file.exists():
            break
        reports.append(RungReport.from_json(file.read_text(encoding="utf-8")))
    return reports


def mine_pools(material: Material, config: MiningConfig) -> MiningResult:
    """Mine the source for each class's soft positives by caption similarity (METHOD section 2)."""
    return mine_corpus(material.source, material.data.corpus.class_captions, material.encoder, config)


def start_adaptation(
    material: Material, mined: MiningResult | None, config: TrialConfig, seeds: TrialSeeds, device: str
) -> Adaptation:
    """Return the fine-tuning of the two streams at step 0, holding only the source clips that its pools name."""
    data, statistics = material.data, material.prior.statistics
    few_shot = ClipSet.build(data.corpus, data.train, statistics, material.encoder, MAX_FRAMES)
    pools: list[np.ndarray] = [pool.indices for pool in mined.pools] if mined else []
    used = np.unique(np.concatenate(pools)) if pools else np.empty(0, np.int64)
    source = ClipSet.build(material.source, used, statistics, material.encoder, MAX_FRAMES)
    local = [np.searchsorted(used, pool) for pool in pools]
    return Adaptation(material.prior, few_shot, source, local, config.loss, config.adapt, seeds.adaptation, device)


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
    total = config.adapt.rungs[-1]
    report = RungReport(
        rung=config.adapt.rungs.index(steps),
        steps=steps,
        total_steps=total,
        accuracies=tuple(v.accuracy for v in verdicts),
        losses=losses,
        seconds=dict(clock.seconds),
        pool_sizes=tuple(len(p.indices) for p in mined.pools) if mined else (),
        pool_fallbacks=sum(p.fallback for p in mined.pools) if mined else 0,
        device=device,
        peak_memory_mb=peak_memory_mb(device),
        warnings=_warnings(mined, synthetic, config),
    )
    folder = _rung_folder(workdir, steps)
    folder.mkdir(parents=True, exist_ok=True)
    adaptation.save(folder / "adaptation.safetensors")
    if steps == total:
        bundle.save(workdir / FILE_NAME)
        write_artifacts(workdir / "artifacts", material, mined, bundle, synthetic, verdicts)
    write_text(folder / "report.json", report.to_json())  # last: a rung is whole once its report is there
    return report


def _warnings(mined: MiningResult | None, synthetic: Synthetic, config: TrialConfig) -> tuple[str, ...]:
    _, cut = limit_generated(synthetic.labels, config.judge.profile)
    return (*(mined.warnings if mined else ()), *synthetic.warnings, *((cut,) if cut else ()))


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


def _real_only(
    material: Material,
    config: TrialConfig,
    seeds: TrialSeeds,
    workdir: Path,
    device: str,
    progress: ProgressCallback,
) -> RungReport:
    clock, steps = Clock(), config.adapt.rungs[-1]
    with clock.time("classify"):
        verdicts = score(material, None, config, seeds.judge, device, progress)
    report = RungReport(
        0, steps, steps, tuple(v.accuracy for v in verdicts), {}, clock.seconds, (), 0, device, peak_memory_mb(device)
    )
    write_scores(workdir / "artifacts", material.data.corpus.classes, verdicts)
    write_text(_rung_folder(workdir, steps) / "report.json", report.to_json())
    return report


def _rung_folder(workdir: Path, steps: int) -> Path:
    return workdir / f"rung-{steps}"
