"""Whether an exported model labels and generates, and what a judge makes of its clips; read without torch."""

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
class Labelled:
    """What the model's own classifier labels right (shares 0..1): of the few shots, and of the dev clips if any.

    It was trained on the few shots, and chosen on the dev clips. Both are None if the few shots were not at hand.
    """

    profile: str
    few_shots: float | None
    dev: float | None


@dataclass(frozen=True)
class BundleCheck:
    """What a check found: the number of generated clips, all of them finite, their frames, and a judge's verdict.

    ``frames`` is the least and the most, None of a model without a generator; ``verdict`` is None where the few shots
    were not at hand; ``labelled`` is None of a model without a classifier.
    """

    clips: int
    clips_per_class: int
    seed: int
    frames: tuple[int, int] | None
    verdict: Verdict | None
    labelled: Labelled | None = None

    def to_json(self) -> str:
        """Return the check as a JSON object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> BundleCheck:
        """Read a check that ``to_json`` wrote."""
        data = json.loads(text)
        verdict, labelled, frames = data.pop("verdict"), data.pop("labelled", None), data.pop("frames")
        return cls(
            **data,
            frames=frames and tuple(frames),
            verdict=verdict and Verdict(**verdict),
            labelled=labelled and Labelled(**labelled),
        )

    def line(self) -> str:
        """Return the check as one line for a person."""
        return "; ".join(filter(None, (self._of_classifier(), self._of_generator())))

    def _of_classifier(self) -> str:
        if self.labelled is None:
            return ""
        shares = {"few shots": self.labelled.few_shots, "dev clips": self.labelled.dev}
        known = [f"{share:.0%} of the {clips}" for clips, share in shares.items() if share is not None]
        found = f"labels {' and '.join(known)} right" if known else "loads; no clip to label is at hand"
        return f"classifier {self.labelled.profile} {found}"

    def _of_generator(self) -> str:
        if self.frames is None:
            return ""
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
    """Generate a few clips of every class, have them judged, and label the few shots, as far as all these are there.

    ``few_shots`` is the folder of the trial's clips. Generation reads ``model`` only. Raises CheckpointError for one
    that can't be loaded, DivergedError and DataError for clips that are not finite, FirewallError and DataError for
    clips that are not this model's few shots.
    """
    from kinemic.bundle import FILE_NAME as GENERATOR
    from kinemic.judges import CLASSIFIER

    labelled = _label(model, few_shots, device) if (model / CLASSIFIER).exists() else None
    if labelled is not None and not (model / GENERATOR).exists():
        return BundleCheck(0, clips_per_class, seed, None, None, labelled)
    return _generate(model, few_shots, clips_per_class, seed, device, progress, labelled)


def _label(model: Path, few_shots: Path | None, device: str) -> Labelled:
    from kinemic.data.splits import load_trial_data
    from kinemic.judges import load_classifier

    classifier, classes = load_classifier(model, device)
    if few_shots is None:
        return Labelled(classifier.profile, None, None)
    data = load_trial_data(few_shots)
    _check_classes(few_shots, data.corpus.classes, classes)

    def right(indices: np.ndarray[Any, np.dtype[np.int64]]) -> float | None:
        if len(indices) == 0:
            return None
        logits, _ = classifier.score([data.corpus.joints(i) for i in indices])
        if not np.isfinite(logits).all():
            raise DataError(f"{model}: the classifier gives NaN or infinity; export another trial")
        return float((logits.argmax(axis=1) == data.corpus.labels[indices]).mean())

    return Labelled(classifier.profile, right(data.train), right(data.dev))


def _generate(
    model: Path,
    few_shots: Path | None,
    clips_per_class: int,
    seed: int,
    device: str,
    progress: ProgressCallback,
    labelled: Labelled | None,
) -> BundleCheck:
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
    return BundleCheck(len(joints), clips_per_class, seed, (min(lengths), max(lengths)), verdict, labelled)


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
    _check_classes(few_shots, corpus.classes, bundle.classes)
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
        by_class={corpus.classes[c]: float(right[labels == c].mean()) for c in np.unique(labels)},
        recognised_dev=float((logits_real.argmax(axis=1) == corpus.labels[seen]).mean()) if held_out else None,
        chance=1 / len(corpus.classes),
        fid=frechet_distance(features_real, features),
        diversity=diversity(features, DIVERSITY_PAIRS, seed),
        diversity_real=diversity(features_real, DIVERSITY_PAIRS, seed),
    )


def _check_classes(few_shots: Path, found: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if found != classes:
        raise DataError(
            f"{few_shots}: has the classes {', '.join(found)}, the model {', '.join(classes)}; "
            "give the clips that it was adapted on"
        )
