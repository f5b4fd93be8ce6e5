"""Labels of clips by a trained classifier that was exported, and the clips that it is shown.

Legend: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinemic.errors import DataError
from kinemic.skeleton import NUM_JOINTS

if TYPE_CHECKING:
    from kinemic.config import Reader

Joints = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """What a classifier says of clips: ``probabilities`` (N, C) over ``classes``, which sum to 1 for each clip."""

    clips: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a clip: its name, the likeliest class, that class's probability, and those of all classes."""
        best_N = self.probabilities.argmax(axis=1)
        return [
            {
                "clip": name,
                "label": self.classes[best],
                "probability": float(each[best]),
                **{f"p({known})": float(p) for known, p in zip(self.classes, each, strict=True)},
            }
            for name, best, each in zip(self.clips, best_N, self.probabilities, strict=True)
        ]


def label_clips(model: Path, clips: dict[str, Joints], device: str = "cpu") -> Labels:
    """Label clips (T, 22, 3), metres, y up, by name, by the classifier in an exported folder.

    A clip may have any rate: a classifier resamples it. Raises CheckpointError for a folder without one, and DataError
    for clips that can't be used.
    """
    from kinemic.judges import load_classifier
    from kinemic.metrics import softmax

    if not clips:
        raise DataError("expected at least one clip to label, got none")
    classifier, classes = load_classifier(model, device)
    logits_NC, _ = classifier.score(list(clips.values()))
    return Labels(tuple(clips), classes, softmax(logits_NC))


def read_file(path: Path) -> dict[str, Joints]:
    """Return the clips of a file by name.

    An npz holds a set as ``kinemic generate`` writes it, an npy one clip (frames, 22, 3) or several of one length
    (clips, frames, 22, 3). Raises DataError for anything else.
    """
    from kinemic.data.arrays import load_array
    from kinemic.data.joints import read_set

    if path.suffix == ".npz":
        return {name: stored.joints() for name, stored in read_set(path)}
    if path.suffix != ".npy":
        raise DataError(f"{path}: expected clips as a folder, an npz set or an npy array of joints")
    array = np.asarray(load_array(path), dtype=np.float32)
    if array.ndim not in (3, 4) or array.shape[-2:] != (NUM_JOINTS, 3):
        raise DataError(f"{path}: expected joints (frames, {NUM_JOINTS}, 3) or clips of these, got {array.shape}")
    if array.ndim == 3:
        return {path.stem: array}
    return {f"{path.stem}-{i:05d}": clip for i, clip in enumerate(array)}


def read_data(reader: Reader) -> dict[str, Joints]:
    """Return the clips that a reader finds, by name. Raises DataError, and FirewallError for packed test clips."""
    from kinemic.config import CorpusReader
    from kinemic.data.prepare import open_packed
    from kinemic.data.readers import open_raw
    from kinemic.motion import features_to_joints

    if isinstance(reader, CorpusReader):
        corpus = open_packed(reader.path)
        return {name: corpus.joints(i) for i, name in enumerate(corpus.names)}
    return {clip.name: features_to_joints(clip.features_TF) for clip in open_raw(reader).clips()}


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a table of commas (``.csv``) or a JSON list (``.json``). Raises DataError for another ending."""
    import csv
    import io
    import json

    from kinemic.files import write_text

    if path.suffix == ".json":
        return write_text(path, json.dumps(rows, indent=1, ensure_ascii=False))
    if path.suffix != ".csv":
        raise DataError(f"{path}: expected a file ending in .csv or .json")
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return write_text(path, text.getvalue())
