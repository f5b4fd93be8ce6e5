"""The analytic trial with judges that are real files, so that a confirmation can score test clips by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kinemic.config import JudgeConfig, TrialConfig, TrialSeeds
from kinemic.progress import ProgressCallback
from kinemic.report import RungReport, TrialInputs
from kinemic.seeding import derive_seed
from tests import analytic
from tests.toy import TOY

JUDGE = "judge.safetensors"
CLASSES = TOY["data"]["split"]["classes"]


def keeping(
    inputs: TrialInputs,
    config: TrialConfig,
    seeds: tuple[TrialSeeds, ...],
    workdir: Path,
    device: str,
    progress: ProgressCallback,
) -> Iterator[RungReport]:
    """The analytic trial, and judges that are one trained judge with noise on its last weights."""
    if config.judge.keep and not any(workdir.glob("rung-*/report.json")):
        for number, seed in enumerate(seeds[0].judge):
            keep_judge(inputs, config, workdir, number, seed)
    yield from analytic.run_trial(inputs, config, seeds, workdir, device, progress)


def keep_judge(inputs: TrialInputs, config: TrialConfig, workdir: Path, number: int, seed: int) -> None:
    """Leave a judge of a run: the trained one, or an untrained one of another profile, with noise of the run's own."""
    import torch

    from kinemic.judge_profiles import PROFILES
    from kinemic.judges import judge_file, load_judge, save_judge

    judge, profile = load_judge(inputs.cache / JUDGE), config.judge.profile
    if profile != judge.profile:
        judge = replace(judge, model=PROFILES[profile].size.build(len(CLASSES), seed), profile=profile)
    weight = judge.model.fc_cls.weight.detach()
    rng = torch.Generator().manual_seed(derive_seed(seed, config.model_dump_json()))
    weight += weight.std() * torch.randn(weight.shape, generator=rng)
    save_judge(judge, judge_file(workdir, number), CLASSES, seed)


def train_judge(inputs: TrialInputs) -> None:
    """Leave a judge that has learned something beside the inputs."""
    from kinemic.classify import train_classifier
    from kinemic.data.splits import load_trial_data
    from kinemic.judges import save_judge

    data, config = load_trial_data(inputs.trial_data), JudgeConfig(profile="smoke")
    clips, labels = [data.corpus.joints(i) for i in data.train], data.corpus.labels[data.train]
    judge = train_classifier(clips, labels, len(data.corpus.classes), config, seed=0)
    save_judge(judge, inputs.cache / JUDGE, data.corpus.classes, seed=0)
