"""The judge: a skeleton classifier trained on few real clips and generated ones, scored on dev (METHOD section 5).

Shapes: N clips, T frames, J = 22 joints, C classes, D feature width. Metres, y up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kinemic.augment import augment
from kinemic.config import JudgeConfig, JudgeProfile
from kinemic.device import repeatable, to_host
from kinemic.errors import DataError, DivergedError
from kinemic.judge_inputs import judge_inputs
from kinemic.judge_profiles import PROFILES, Network
from kinemic.metrics import accuracy, confusion_matrix, per_class_accuracy
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.seeding import derive_seed

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_SCORING_BATCH: Final = 256  # clips at a time where nothing is learned


@dataclass(frozen=True)
class JudgeReport:
    """How well a judge recognised dev after its last update, never at its best.

    ``classifier`` is the judge itself; ``logits`` (N, C) what it says of the dev clips, whose classes are ``labels``
    (N,); ``loss`` the mean of its last batches; ``seconds`` of training and scoring.
    """

    classifier: Classifier
    profile: JudgeProfile
    logits: Floats
    labels: Indices
    loss: float
    seconds: float

    @property
    def confusion(self) -> Indices:
        """Counts (C, C), rows the truth."""
        return confusion_matrix(self.labels, self.logits.argmax(axis=1), self.logits.shape[1])

    @property
    def accuracy(self) -> float:
        """Share of the dev clips that were recognised, 0..1."""
        return accuracy(self.confusion)

    @property
    def per_class(self) -> npt.NDArray[np.float64]:
        """The same by class, (C,); NaN for a class without dev clips."""
        return per_class_accuracy(self.confusion)


@dataclass(frozen=True)
class Classifier:
    """A trained judge; ``loss`` is the mean of its last batches."""

    model: Network
    profile: JudgeProfile
    device: str
    loss: float

    @torch.inference_mode()
    def score(self, joints: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return logits (N, C) and pooled features (N, D) of clips (T, 22, 3); the features serve FID and diversity."""
        x_NTJ3 = torch.from_numpy(judge_inputs(joints, PROFILES[self.profile].frames))
        features_ND = torch.cat([self.model.features(x.to(self.device)) for x in torch.split(x_NTJ3, _SCORING_BATCH)])
        return to_host(self.model.fc_cls(features_ND)).numpy(), to_host(features_ND).numpy()


def judge(
    train_joints: Sequence[Floats],
    train_labels: Sequence[int] | Indices,
    dev_joints: Sequence[Floats],
    dev_labels: Sequence[int] | Indices,
    classes: int,
    config: JudgeConfig,
    seed: int,
    device: str = "cpu",
    progress: ProgressCallback = silent,
    real: int | None = None,
) -> JudgeReport:
    """Train a judge on ``train`` and score it on ``dev`` after the last epoch.

    Clips are joints (T, 22, 3) in metres. The caller puts the real clips and then the generated ones into ``train``;
    ``real`` says how many are real (None: all).
    Raises DataError for clips or labels that can't be used, DivergedError for a loss that is not finite.
    """
    start = time.perf_counter()
    truth = _checked_labels(dev_labels, len(dev_joints), classes, "dev")
    classifier = train_classifier(train_joints, train_labels, classes, config, seed, device, progress, real)
    logits, _ = classifier.score(dev_joints)
    return JudgeReport(
        classifier=classifier,
        profile=config.profile,
        logits=logits,
        labels=truth,
        loss=classifier.loss,
        seconds=time.perf_counter() - start,
    )


@repeatable()
def train_classifier(
    joints: Sequence[Floats],
    labels: Sequence[int] | Indices,
    classes: int,
    config: JudgeConfig,
    seed: int,
    device: str = "cpu",
    progress: ProgressCallback = silent,
    real: int | None = None,
) -> Classifier:
    """Train a judge as its profile says; the first ``real`` clips are real (None: all).

    With ``config.augment`` every batch is changed anew (``kinemic.augment``). Raises DataError and DivergedError.
    """
    profile = PROFILES[config.profile]
    y_N = torch.from_numpy(_checked_labels(labels, len(joints), classes, "train", least=2)).to(device)
    x_NTJ3 = torch.from_numpy(judge_inputs(joints, profile.frames)).to(device)
    generator = torch.Generator().manual_seed(derive_seed(seed, "judge"))
    model = profile.size.build(classes, derive_seed(seed, "judge weights")).to(device)
    updates, done, loss = profile.batches.updates(len(joints)), 0, math.nan
    optimiser, schedule = profile.optimiser.start(model, updates)
    for batches in profile.batches.rounds(len(joints), len(joints) if real is None else real, generator):
        losses = []
        for batch in batches:
            clips = batch.to(device)
            x = augment(x_NTJ3[clips], generator) if config.augment else x_NTJ3[clips]
            losses.append(_step(model, optimiser, x, y_N[clips]))
            schedule.step()
        done += len(losses)
        loss = _finite(torch.stack(losses).mean(), done)
        progress(Progress("classify", done, updates, {"loss": loss}))
    return Classifier(model.eval(), config.profile, device, loss)


def limit_generated(labels: Indices, profile: JudgeProfile) -> tuple[Indices, str | None]:
    """Return which generated clips a profile takes, in order, and a warning where it leaves some out.

    ``labels`` (N,) are the classes of the generated clips. Of a class that has more than ``max_generated_per_class``,
    as many stay, evenly spread, so that a mixture of sources stays one.
    """
    most = PROFILES[profile].max_generated_per_class
    if most is None or len(labels) == 0 or np.bincount(labels).max() <= most:
        return np.arange(len(labels)), None
    kept = np.sort(np.concatenate([_spread(np.flatnonzero(labels == c), most) for c in np.unique(labels)]))
    return kept, (
        f"judge profile {profile!r} takes at most {most} generated clips a class: "
        f"{len(kept)} of {len(labels)} used; lower synthesis.clips_per_class or take another profile"
    )


def _spread(places: Indices, most: int) -> Indices:
    taken = min(len(places), most)
    return places[np.arange(taken) * len(places) // taken]


def _step(model: Network, optimiser: torch.optim.Optimizer, x_NTJ3: Tensor, labels_N: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(x_NTJ3), labels_N)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.detach()


def _finite(loss: Tensor, updates: int) -> float:
    value = to_host(loss).item()
    if not math.isfinite(value):
        raise DivergedError(f"judge: the loss is {value} after {updates} updates; check the generated clips")
    return value


def _checked_labels(labels: Any, clips: int, classes: int, part: str, least: int = 1) -> Indices:
    array = np.asarray(labels, np.int64)
    if array.shape != (clips,) or clips < least:
        raise DataError(f"judge: expected at least {least} {part} clips, one label each; got {clips}, {array.shape}")
    if array.min() < 0 or array.max() >= classes:
        raise DataError(f"judge: expected {part} labels in 0..{classes - 1}, got {array.min()}..{array.max()}")
    return array
