"""Generated clips in the layouts that others train on: plain joint files, HumanML3D folders, NTU-VIBE folders.

Legend: N clips, T frames, F = 263 features (de-normalised), J = 22 joints, metres, 20 fps. What is written here is read
again by the readers of the same names. Generated clips are for training, so lists of other parts stay empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinemic.data.joints import write_joints
from kinemic.data.raw import MIN_FRAMES
from kinemic.errors import DataError
from kinemic.motion import Statistics, features_to_joints

SetFormat = Literal["npz", "humanml3d", "ntu"]
LEAST_FRAMES: Mapping[SetFormat, int] = {
    "npz": MIN_FRAMES["target"],
    "humanml3d": MIN_FRAMES["source"],
    "ntu": MIN_FRAMES["target"],
}
Actions = Mapping[int, tuple[str, Sequence[str]]]  # A number - 1: class name and its captions


@dataclass(frozen=True)
class LabelledClips:
    """Clips of some classes: features (T, 263) and label of each; names and captions of the classes."""

    features: Sequence[NDArray[np.float32]]
    labels: Sequence[int]
    classes: Sequence[str]
    captions: Sequence[Sequence[str]]

    def too_short(self, layout: SetFormat) -> str | None:
        """Return a warning where readers of a layout will drop clips for being short."""
        least = LEAST_FRAMES[layout]
        short = sum(len(clip) < least for clip in self.features)
        if not short:
            return None
        return f"{short} of {len(self.features)} clips are shorter than {least} frames: readers of {layout} drop them"


def write_npz(folder: Path, clips: LabelledClips) -> None:
    """Write ``clips.npz`` and ``clips.jsonl``; see ``write_joints``."""
    joints = [features_to_joints(features) for features in clips.features]
    labels = [clips.classes[label] for label in clips.labels]
    write_joints(folder, joints, labels, [clips.captions[label] for label in clips.labels])


def write_humanml3d(folder: Path, clips: LabelledClips, statistics: Statistics) -> None:
    """Write features, joints (T, 22, 3), texts, lists, ``Mean.npy`` and ``Std.npy`` under six-digit names.

    ``statistics`` should be those of the source that the generator was adapted from: a model that was trained on that
    source goes on with them. Classes live on in the captions alone, as this layout has no labels.
    """
    names = [f"{n:06d}" for n in range(len(clips.features))]
    for name, features, label in zip(names, clips.features, clips.labels, strict=True):
        _write_recording(folder, name, features, features_to_joints(features), clips.captions[label])
    np.save(folder / "Mean.npy", statistics.mean_F.astype(np.float32))
    np.save(folder / "Std.npy", statistics.std_F.astype(np.float32))
    for part, listed in (("train", names), ("train_val", names), ("all", names), ("val", []), ("test", [])):
        _write_lines(folder / f"{part}.txt", listed)


def write_ntu(folder: Path, clips: LabelledClips, actions: Actions | None = None) -> None:
    """Write features, joints (T, 66), texts, lists and class descriptions under names with S, C, P, R and A codes.

    Setup and performer are 0, which no recording has, so that names never meet those of recordings. Classes take the A
    numbers of ``actions`` by their names, or 1, 2, ... in order. Raises DataError for a class that ``actions`` lacks.
    """
    actions = dict(enumerate(zip(clips.classes, clips.captions, strict=True))) if actions is None else actions
    number_of = {name: number for number, (name, _) in actions.items()}
    unknown = [name for name in clips.classes if name not in number_of]
    if unknown:
        raise DataError(
            f"class {unknown[0]!r} is no action of the given NTU metadata; leave it out, or correct its name"
        )
    numbers = [number_of[clips.classes[label]] for label in clips.labels]
    names = list(_ntu_names(numbers))
    for name, features, label in zip(names, clips.features, clips.labels, strict=True):
        joints = features_to_joints(features).reshape(len(features), -1)
        _write_recording(folder, name, features, joints, clips.captions[label])
    for lists in (folder / "splits" / "default" / "xsub", folder / "splits" / "fewshot" / "S0000" / "xsub"):
        for part, taken in (("train", len(names)), ("val", 0)):
            _write_lines(lists / f"{part}.txt", names[:taken])
            _write_lines(lists / f"{part}_y.txt", map(str, numbers[:taken]))
    meta = {"class_list": sorted(set(numbers)), "shots": max(map(numbers.count, set(numbers)), default=0)}
    _write_json(folder / "splits" / "fewshot" / "S0000" / "meta.json", meta)
    _write_actions(folder, actions)


def _ntu_names(numbers: Iterable[int]) -> Iterable[str]:
    """Names of clips by their actions: up to 999 replications (R) a camera (C), as each code has three digits."""
    seen: dict[int, int] = {}
    for number in numbers:
        before = seen.setdefault(number, 0)
        seen[number] += 1
        yield f"S000C{before // 999:03d}P000R{before % 999 + 1:03d}A{number + 1:03d}"


def _write_actions(folder: Path, actions: Actions) -> None:
    rows = [
        {"action": name, "tag": f"A{number + 1:03d}", "captions": list(captions)}
        for number, (name, captions) in sorted(actions.items())
    ]
    _write_json(folder / "ntu_metadata.json", {"actions": rows})
    # Read by line number, so that numbers which are not there need a line too.
    _write_lines(folder / "ntu_classes.txt", [actions.get(n, ("", ()))[0] for n in range(max(actions) + 1)])


def _write_recording(
    folder: Path, name: str, features: NDArray[np.float32], joints: NDArray[np.float32], captions: Sequence[str]
) -> None:
    for place, array in (("new_joint_vecs", features), ("new_joints", joints)):
        (folder / place).mkdir(exist_ok=True)
        np.save(folder / place / f"{name}.npy", array.astype(np.float32))
    _write_lines(folder / "texts" / f"{name}.txt", map(_text_line, captions))


def _text_line(caption: str) -> str:
    """One line ``caption#tokens#start#end`` of the whole clip; no tagger is at hand, so every word's kind is OTHER."""
    plain = " ".join(caption.replace("#", " ").split())  # readers split the line at every #
    tokens = " ".join(f"{word}/OTHER" for word in re.findall(r"\w+", plain.lower()))
    return f"{plain}#{tokens}#0.0#0.0"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
