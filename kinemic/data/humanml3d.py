"""HumanML3D folders (Guo et al. 2022): ``new_joint_vecs/``, ``texts/``, split lists, ``Mean.npy`` and ``Std.npy``."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from kinemic.config import HumanML3DReader
from kinemic.data.corpus import Clip
from kinemic.data.raw import Item, Raw, load_array, load_features, need_folder, read_lines
from kinemic.errors import DataError
from kinemic.motion import Statistics
from kinemic.skeleton import FPS

Stretch = tuple[float, float]  # seconds; (0, 0) is the whole recording


def open_humanml3d(reader: HumanML3DReader) -> Raw:
    """List a HumanML3D folder as source clips; the statistics are its own. Raises DataError for what is missing."""
    root = need_folder(reader.path, "a HumanML3D folder")
    vectors = need_folder(root / "new_joint_vecs", "motion features, one npy file a recording")
    there = {file.stem for file in vectors.glob("*.npy")}
    if reader.split is None:
        listed, lists = sorted(there), []
    else:
        lists = [root / f"{reader.split}.txt"]
        listed = list(dict.fromkeys(read_lines(lists[0], "one clip id a line")))
    need_folder(root / "texts", "captions, one text file a recording")
    names = [name for name in listed if name in there]
    if not names:
        raise DataError(f"{vectors}: none of the {len(listed)} listed clips is there; check the folder and the list")
    statistics = [root / "Mean.npy", root / "Std.npy"]
    files = [path for n in names for path in (vectors / f"{n}.npy", root / "texts" / f"{n}.txt")]
    return Raw(
        path=root,
        role="source",
        files=(*lists, *statistics, *files),
        total=len(names),
        items=lambda: (Item(name, partial(load_recording, root, name)) for name in names),
        statistics=lambda: read_statistics(root),
        missing=tuple(name for name in listed if name not in there),
    )


def load_recording(root: Path, name: str) -> list[Clip]:
    """Return the clips of one recording: the whole of it, and each captioned stretch as a clip of its own."""
    features = load_features(root / "new_joint_vecs" / f"{name}.npy")
    clips = []
    for (start, end), captions in read_captions(root / "texts" / f"{name}.txt").items():
        if (start, end) == (0.0, 0.0):
            clips.append(Clip(name, features, captions))
        else:
            part = features[int(start * FPS) : int(end * FPS)]
            clips.append(Clip(f"{name}@{start:g}-{end:g}", part, captions))
    return clips


def read_captions(path: Path) -> dict[Stretch, tuple[str, ...]]:
    """Read lines ``caption#tokens#start#end`` (seconds): captions by stretch, in the file's order.

    Raises DataError for a missing file, one without a caption, and a line of another form.
    """
    stretches: dict[Stretch, list[str]] = {}
    for number, line in enumerate(read_lines(path, "lines caption#tokens#start#end"), 1):
        caption, *rest = line.rsplit("#", 3)
        try:
            _, start, end = rest
            stretch = (_seconds(start), _seconds(end))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected caption#tokens#start#end, got {line[:60]!r}") from error
        if stretch != (0.0, 0.0) and not 0 <= stretch[0] < stretch[1]:
            raise DataError(f"{path}, line {number}: the stretch {start}..{end} s is empty")
        if caption.strip():
            stretches.setdefault(stretch, []).append(caption.strip())
    if not stretches:
        raise DataError(f"{path}: no caption in it; every clip needs at least one")
    return {stretch: tuple(captions) for stretch, captions in stretches.items()}


def read_statistics(root: Path) -> Statistics:
    """Return ``Mean.npy`` and ``Std.npy`` of a folder. Raises DataError where one is missing or of another width."""
    mean, std = (load_array(root / name).astype("float32") for name in ("Mean.npy", "Std.npy"))
    try:
        return Statistics(mean, std)
    except DataError as error:
        raise DataError(f"{root / 'Mean.npy'}, Std.npy: {error}") from error


def _seconds(text: str) -> float:
    value = float(text)
    return 0.0 if math.isnan(value) else value  # some published lines say nan where they mean the whole recording
