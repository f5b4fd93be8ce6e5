"""The judge: an ST-GCN trained on few real clips and generated ones, scored on dev (METHOD section 5).

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
from kinemic.metrics import accuracy, confusion_matrix, per_class_accuracy
from kinemic.models.stgcn import STGCN
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.seeding import derive_seed

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

LEARNING_RATE: Final = 0.1
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 5e-4
_SCORING_BATCH = 256  # clips at a time where nothing is learned


@dataclass(frozen=True)
class Profile:
    """One fixed size of the judge, and how it is trained.

    ``widened`` are the stages that double the width and halve the frames. ``least_updates`` adds epochs where few clips
    give few batches; 0 is off. It counts the batches of the real clips alone: a real clip is then seen equally often
    whatever is generated beside it. Were the updates of all clips held equal, generated ones would starve the real.
    """

    base_channels: int
    stages: int
    widened: tuple[int, ...]
    frames: int
    repeat: int
    epochs: int
    batch_size: int = 64
    least_updates: int = 0
    max_generated_per_class: int | None = None


PROFILES: Final[dict[JudgeProfile, Profile]] = {
    "published": Profile(64, 10, (5, 8), frames=100, repeat=4, epochs=20),
    # Not METHOD's batches of 64: they are 20 updates for 50 clips, after which the batch-norm statistics that scoring
    # uses still lag (UTD dev, 10 classes, 5 shots: accuracy 0.10). This size was chosen there: 0.81 over 2 seeds.
    "small": Profile(
        16, 6, (5,), frames=48, repeat=1, epochs=20, batch_size=16, least_updates=300, max_generated_per_class=20
    ),
    # Its first stage already halves the frames; small batches, because it is updates that 100 clips lack. 200 of them
    # are few (real only: 0.70, after 600 0.73), more would not fit into the demo's minutes.
    "demo": Profile(8, 3, (1, 2), frames=32, repeat=1, epochs=12, batch_size=16, least_updates=200),
    # A dry run: whether every part works with these data, in a tenth of a second. Its accuracy means nothing.
    "smoke": Profile(8, 2, (1, 2), frames=16, repeat=1, epochs=1, batch_size=16, least_updates=40),
}


@dataclass(frozen=True)
class JudgeReport:
    """How well a judge recognised dev after its last epoch, never its best.

    ``classifier`` is the judge itself; ``logits`` (N, C) what it says of the dev clips, whose classes are ``labels``
    (N,); ``loss`` the last epoch's mean; ``seconds`` of training and scoring.
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
    """A trained judge; ``loss`` is the mean of its last epoch."""

    model: STGCN
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
    """Train a judge of the config's profile: SGD with Nesterov momentum, learning rate 0.1 along a cosine to 0.

    The first ``real`` clips are real (None: all); how often every clip is seen goes by their number alone.
    With ``config.augment`` every batch is changed anew (``kinemic.augment``). Raises DataError and DivergedError.
    """
    profile = PROFILES[config.profile]
    y_N = torch.from_numpy(_checked_labels(labels, len(joints), classes, "train", least=2)).to(device)
    x_NTJ3 = torch.from_numpy(judge_inputs(joints, profile.frames)).to(device)
    generator = torch.Generator().manual_seed(derive_seed(seed, "judge"))
    model = new_model(profile, classes, derive_seed(seed, "judge weights")).to(device)
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    sizes = _batch_sizes(len(joints) * profile.repeat, profile.batch_size)
    epochs = _epochs(len(joints) if real is None else real, profile)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(sizes))
    loss = math.nan
    for epoch in range(epochs):
        losses = []
        for batch in torch.split(torch.randperm(sum(sizes), generator=generator), sizes):
            clips = batch.to(device) % len(joints)
            x = augment(x_NTJ3[clips], generator) if config.augment else x_NTJ3[clips]
            losses.append(_step(model, optimiser, x, y_N[clips]))
            schedule.step()
        loss = _finite(torch.stack(losses).mean(), epoch)
        progress(Progress("classify", epoch + 1, epochs, {"loss": loss}))
    return Classifier(model.eval(), config.profile, device, loss)


def new_model(profile: Profile, classes: int, seed: int) -> STGCN:
    """Return an untrained judge of a profile's size."""
    return STGCN(
        profile.base_channels,
        profile.stages,
        classes,
        inflate_stages=profile.widened,
        down_stages=profile.widened,
        seed=seed,
    )


def limit_generated(labels: Indices, profile: JudgeProfile) -> tuple[Indices, str | None]:
    """Return which generated clips a profile takes, in order, and a warning where it leaves some out.

    ``labels`` (N,) are the classes of the generated clips; the first ``max_generated_per_class`` of each class stay.
    """
    most = PROFILES[profile].max_generated_per_class
    if most is None or len(labels) == 0 or np.bincount(labels).max() <= most:
        return np.arange(len(labels)), None
    kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:most] for c in np.unique(labels)]))
    return kept, (
        f"judge profile {profile!r} takes at most {most} generated clips a class: "
        f"{len(kept)} of {len(labels)} used; lower synthesis.clips_per_class or take another profile"
    )


def _step(model: STGCN, optimiser: torch.optim.Optimizer, x_NTJ3: Tensor, labels_N: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(x_NTJ3), labels_N)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.detach()


def _batch_sizes(clips: int, size: int) -> list[int]:
    """Clips in each batch of an epoch, at most ``size``, all alike: batch norm suffers from a small last one."""
    count = math.ceil(clips / size)
    return [clips // count + (n < clips % count) for n in range(count)]


def _epochs(real: int, profile: Profile) -> int:
    batches = len(_batch_sizes(real * profile.repeat, profile.batch_size))
    return max(profile.epochs, math.ceil(profile.least_updates / batches))


def _finite(loss: Tensor, epoch: int) -> float:
    value = to_host(loss).item()
    if not math.isfinite(value):
        raise DivergedError(f"judge: the loss of epoch {epoch + 1} is {value}; check the generated clips")
    return value


def _checked_labels(labels: Any, clips: int, classes: int, part: str, least: int = 1) -> Indices:
    array = np.asarray(labels, np.int64)
    if array.shape != (clips,) or clips < least:
        raise DataError(f"judge: expected at least {least} {part} clips, one label each; got {clips}, {array.shape}")
    if array.min() < 0 or array.max() >= classes:
        raise DataError(f"judge: expected {part} labels in 0..{classes - 1}, got {array.min()}..{array.max()}")
    return array
