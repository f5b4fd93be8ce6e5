"""Training the judge on real and generated clips, and scoring it on dev, once per judge seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinemic.classify import Classifier, JudgeReport, judge, limit_generated, train_classifier
from kinemic.config import JudgeConfig
from kinemic.data.splits import TrialData
from kinemic.judge_profiles import PROFILES
from kinemic.motion import features_to_joints
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.store import StageStore, digest
from kinemic.synthesis import Synthetic

JUDGED = "judged"


def score_on(
    data: TrialData,
    synthetic: Synthetic | None,
    config: JudgeConfig,
    judge_seeds: Sequence[int],
    device: str,
    progress: ProgressCallback = silent,
) -> list[JudgeReport]:
    """Train the judge on real + generated clips once per seed and score it on dev; real clips always stay in."""
    return list(_scored(data, synthetic, config, judge_seeds, device, progress))


def score_kept(
    store: StageStore,
    data: TrialData,
    synthetic: Synthetic | None,
    config: JudgeConfig,
    judge_seeds: Sequence[int],
    device: str,
    progress: ProgressCallback = silent,
) -> tuple[list[JudgeReport], float]:
    """The same, but that judges of the same clips, profile and seed are trained once for all trials.

    Returns the reports, and the seconds that those found had cost.
    """
    setting = [asdict(PROFILES[config.profile]), config.augment, "logits"]  # what is kept of what a judge says of dev
    clips = [data.corpus.content_hash, data.train.tolist(), data.dev.tolist(), _fingerprint(synthetic)]
    keys = [digest(clips, setting, seed, device.partition(":")[0]) for seed in judge_seeds]
    found = [_read(store, key, config, data, device) for key in keys]
    missing = [seed for seed, report in zip(judge_seeds, found, strict=True) if report is None]
    fresh = _scored(data, synthetic, config, missing, device, progress) if missing else iter(())
    reports = []
    for key, report in zip(keys, found, strict=True):
        if report is None:
            report = next(fresh)
            _write(store, key, report)
        reports.append(report)
    return reports, sum(report.seconds for report in found if report)


def train_judges(
    data: TrialData,
    synthetic: Synthetic | None,
    config: JudgeConfig,
    judge_seeds: Sequence[int],
    device: str,
    progress: ProgressCallback = silent,
) -> list[Classifier]:
    """Train the judge on real + generated clips once per seed, where no clip is left to score it on."""
    joints, labels = _training_clips(data, synthetic, config)
    classes, real = len(data.corpus.classes), len(data.train)
    return [train_classifier(joints, labels, classes, config, seed, device, progress, real) for seed in judge_seeds]


def _scored(
    data: TrialData,
    synthetic: Synthetic | None,
    config: JudgeConfig,
    judge_seeds: Sequence[int],
    device: str,
    progress: ProgressCallback,
) -> Iterator[JudgeReport]:
    corpus, dev = data.corpus, data.dev
    joints, labels = _training_clips(data, synthetic, config)
    dev_joints = [corpus.joints(i) for i in dev]
    dev_labels, classes, real = corpus.labels[dev], len(corpus.classes), len(data.train)
    for n, seed in enumerate(judge_seeds):
        progress(Progress("classify", n, len(judge_seeds)))
        yield judge(joints, labels, dev_joints, dev_labels, classes, config, seed, device, real=real)
    progress(Progress("classify", len(judge_seeds), len(judge_seeds)))


def _training_clips(
    data: TrialData, synthetic: Synthetic | None, config: JudgeConfig
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """The real clips, then the generated ones, as joints, with their labels."""
    joints = [data.corpus.joints(i) for i in data.train]
    labels = data.corpus.labels[data.train]
    if synthetic is None:
        return joints, labels
    taken, _ = limit_generated(synthetic.labels, config.profile)
    made = [features_to_joints(synthetic.features[i]) for i in taken]
    return joints + made, np.concatenate([labels, synthetic.labels[taken]])


def _fingerprint(synthetic: Synthetic | None) -> str:
    found = hashlib.blake2b(digest_size=16)
    if synthetic is not None:
        found.update(np.ascontiguousarray(synthetic.labels).data)
        for clip in synthetic.features:
            found.update(len(clip).to_bytes(4, "little"))
            found.update(np.ascontiguousarray(clip).data)
    return found.hexdigest()


def _write(store: StageStore, key: str, report: JudgeReport) -> None:
    tensors = {f"model.{name}": value for name, value in report.classifier.model.state_dict().items()}
    tensors["logits"] = torch.from_numpy(report.logits)
    store.write(JUDGED, key, tensors, {"loss": report.loss, "seconds": report.seconds})


def _read(store: StageStore, key: str, config: JudgeConfig, data: TrialData, device: str) -> JudgeReport | None:
    labels, classes = data.corpus.labels[data.dev], len(data.corpus.classes)
    model = PROFILES[config.profile].size.build(classes, seed=0)

    def back(tensors: dict[str, Tensor], meta: dict[str, Any]) -> tuple[NDArray[np.float32], float, float]:
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        logits = tensors["logits"].numpy()
        if logits.shape != (len(labels), classes) or logits.dtype != np.float32:
            raise ValueError(f"logits are {logits.dtype} {logits.shape}, expected float32 {(len(labels), classes)}")
        return logits, float(meta["loss"]), float(meta["seconds"])

    kept = store.read(JUDGED, key, back)
    if kept is None:
        return None
    logits, loss, seconds = kept
    return JudgeReport(
        classifier=Classifier(model.to(device).eval(), config.profile, device, loss),
        profile=config.profile,
        logits=logits,
        labels=labels,
        loss=loss,
        seconds=seconds,
    )
