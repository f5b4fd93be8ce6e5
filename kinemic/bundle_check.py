"""Whether an exported model generates, and what a judge makes of its clips; a result is read without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinemic.errors import DataError
from kinemic.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from kinemic.bundle import GeneratorBundle

    Floats = np.ndarray[Any, np.dtype[np.float32]]

FILE_NAME = "check.json"
CLIPS_PER_CLASS = 4  # enough to see a class that fails, few enough for a laptop
DIVERSITY_PAIRS = 200


@dataclass(frozen=True)
class Verdict:
    """What one judge, trained on the real few shots alone, recognises (shares 0..1).

    ``recognised`` is of the generated clips, ``by_class`` the same by class, ``recognised_dev`` of the real dev clips
    (None where there are none): a judge that does not know those can't be asked about generated ones. ``chance`` is 1
    over the number of classes. ``fid`` is the Frechet distance of the generated clips from the real ones in the judge's
    pooled features, ``diversity`` and ``diversity_real`` the mean distance of two clips there (METHOD section 5). Real
    are the dev clips, or the few shots where there are none; with few clips a FID only compares with its like.
    """

    profile: str
    seed: int
    recognised: float
    by_class: dict[str, float]
    recognised_dev: float | None
    chance: float
    fid: float
    diversity: float
    diversity_real: float


@dataclass(frozen=True)
class BundleCheck:
    """What a check found: the number of generated clips, all of them finite, their frames, and a judge's verdict.

    ``frames`` is the least and the most; ``verdict`` is None where the few shots were not at hand.
    """

    clips: int
    clips_per_class: int
    seed: int
    frames: tuple[int, int]
    verdict: Verdict | None

    def to_json(self) -> str:
        """Return the check as a JSON object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> BundleCheck:
        """Read a check that ``to_json`` wrote."""
        data = json.loads(text)
        verdict = data.pop("verdict")
        data["frames"] = tuple(data["frames"])
        return cls(**data, verdict=verdict and Verdict(**verdict))

    def line(self) -> str:
        """Return the check as one line for a person."""
        made = f"{self.clips} clips generated, all finite, {self.frames[0]} to {self.frames[1]} frames; "
        if self.verdict is None:
            return made + "not judged, the few shots are not at hand"
        v = self.verdict
        dev = "" if v.recognised_dev is None else f"{v.recognised_dev:.0%} of the real dev clips, "
        judged = f"judge {v.profile} recognises {v.recognised:.0%} of them ({dev}chance {v.chance:.0%})"
        return f"{made}{judged}, FID {v.fid:.3g}, diversity {v.diversity:.3g} (real {v.diversity_real:.3g})"


def check_bundle(
    model: Path,
    few_shots: Path | None,
    clips_per_class: int = CLIPS_PER_CLASS,
    seed: int = 0,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> BundleCheck:
    """Generate a few clips of every class, and have them judged where the folder of the trial's clips is given.

    Generation reads ``model`` alone. Raises CheckpointError for a model that can't be loaded, DivergedError and
    DataError for clips that are not finite, FirewallError and DataError for clips that are not this model's few shots.
    """
    from kinemic.bundle import GeneratorBundle
    from kinemic.motion import features_to_joints

    bundle = GeneratorBundle.load(model)
    made = bundle.generate(None, clips_per_class, seed, device, progress=progress)
    joints = [features_to_joints(features) for features in made.features]
    for clip, label in zip(joints, made.labels, strict=True):
        if not np.isfinite(clip).all():
            raise DataError(f"{model}: a clip of {bundle.classes[label]!r} has joints that are not finite")
    lengths = [len(clip) for clip in joints]
    verdict = _judge(bundle, joints, made.labels, few_shots, device, progress) if few_shots else None
    return BundleCheck(len(joints), clips_per_class, seed, (min(lengths), max(lengths)), verdict)


def _judge(
    bundle: GeneratorBundle,
    joints: list[Floats],
    labels: np.ndarray[Any, np.dtype[np.int64]],
    few_shots: Path,
    device: str,
    progress: ProgressCallback,
) -> Verdict:
    """Train the trial's judge on the real few shots alone: one that had seen generated clips would know its own."""
    from kinemic.classify import train_classifier
    from kinemic.data.splits import load_trial_data
    from kinemic.metrics import diversity, frechet_distance

    data = load_trial_data(few_shots)
    corpus, config, seed = data.corpus, bundle.trial.judge, bundle.seeds.judge[0]
    if corpus.classes != bundle.classes:
        raise DataError(
            f"{few_shots}: has the classes {', '.join(corpus.classes)}, the model {', '.join(bundle.classes)}; "
            "give the clips that it was adapted on"
        )
    real = [corpus.joints(i) for i in data.train]
    judge = train_classifier(real, corpus.labels[data.train], len(corpus.classes), config, seed, device, progress)
    held_out = len(data.dev) > 0
    seen = data.dev if held_out else data.train
    logits, features = judge.score(joints)
    logits_real, features_real = judge.score([corpus.joints(i) for i in seen])
    right = logits.argmax(axis=1) == labels
    return Verdict(
        profile=config.profile,
        seed=seed,
        recognised=float(right.mean()),
        by_class={name: float(right[labels == c].mean()) for c, name in enumerate(corpus.classes)},
        recognised_dev=float((logits_real.argmax(axis=1) == corpus.labels[seen]).mean()) if held_out else None,
        chance=1 / len(corpus.classes),
        fid=frechet_distance(features_real, features),
        diversity=diversity(features, DIVERSITY_PAIRS, seed),
        diversity_real=diversity(features_real, DIVERSITY_PAIRS, seed),
    )
