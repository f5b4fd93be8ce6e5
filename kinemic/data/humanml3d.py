"""HumanML3D folders (Guo et al. 2022): ``new_joint_vecs/``, ``texts/``, split lists, ``Mean.npy`` and ``Std.npy``."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import numpy as np

from kinemic.config import HumanML3DReader
from kinemic.data.arrays import load_array
from kinemic.data.convert import read_features
from kinemic.data.corpus import Clip
from kinemic.data.raw import Item, Raw, ReadClip, left_out, list_files, need_folder, read_lines
from kinemic.errors import DataError
from kinemic.motion import Statistics
from kinemic.skeleton import FPS

# Where the tokens begin: at the first # that nothing but word/KIND follows; a # may be a word of either part.
_TOKENS = re.compile(r"#(?=#?[^#\s]*/[A-Z]+(?:\s+\S*/[A-Z]+)*\s*$)")

Stretch = tuple[float, float]  # seconds
LONGEST_S = 1e6  # no recording is longer, and an infinite one has no frame number
WHOLE: Stretch = (0.0, 0.0)


def open_humanml3d(reader: HumanML3DReader) -> Raw:
    """List a HumanML3D folder as source clips. Raises DataError for what is missing.

    The statistics are the folder's own; at another frame rate than 20 those are of other velocities, so that they are
    computed anew.
    """
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
    statistics = [root / "Mean.npy", root / "Std.npy"] if reader.fps == FPS else []
    files = [path for n in names for path in (vectors / f"{n}.npy", root / "texts" / f"{n}.txt")]
    return Raw(
        path=root,
        role="source",
        files=(*lists, *statistics, *files, *list_files(reader.drop)),
        total=len(names),
        items=lambda: (Item(name, partial(load_recording, root, name, reader.fps)) for name in names),
        statistics=lambda: read_statistics(root) if statistics else None,
        missing=tuple(name for name in listed if name not in there),
        on_bad=reader.on_bad,
        without=left_out(reader),
    )


def load_recording(root: Path, name: str, fps: float = FPS) -> list[ReadClip]:
    """Return the clips of one recording: the whole of it, and each captioned stretch as a clip of its own."""
    clips = []
    for stretch, captions in read_captions(root / "texts" / f"{name}.txt").items():
        part, clip_name = (None, name) if stretch == WHOLE else (stretch, f"{name}@{stretch[0]:g}-{stretch[1]:g}")
        features, frames = read_features(root / "new_joint_vecs" / f"{name}.npy", fps, part)
        clips.append(ReadClip(Clip(clip_name, features, captions), frames))
    return clips


def read_captions(path: Path) -> dict[Stretch, tuple[str, ...]]:
    """Read lines ``caption#tokens#start#end`` (seconds): captions by stretch, in the file's order.

    Raises DataError for a missing file, one without a caption, and a line of another form.
    """
    stretches: dict[Stretch, list[str]] = {}
    for number, line in enumerate(read_lines(path, "lines caption#tokens#start#end"), 1):
        try:
            told, start, end = line.rsplit("#", 2)
            caption, _ = _TOKENS.split(told, maxsplit=1) if _TOKENS.search(told) else told.split("#")
            stretch = (_seconds(start), _seconds(end))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected caption#tokens#start#end, got {line[:60]!r}") from error
        if stretch != WHOLE and not 0 <= stretch[0] < stretch[1]:
            raise DataError(f"{path}, line {number}: the stretch {start}..{end} s is empty")
        if caption.strip():
            stretches.setdefault(stretch, []).append(caption.strip())
    if not stretches:
        raise DataError(f"{path}: no caption in it; every clip needs at least one")
    return {stretch: tuple(captions) for stretch, captions in stretches.items()}


def read_statistics(root: Path) -> Statistics:
    """Return ``Mean.npy`` and ``Std.npy`` of a folder. Raises DataError where one is missing or of another width."""
    arrays = [load_array(root / name) for name in ("Mean.npy", "Std.npy")]
    try:
        with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, which is refused
            return Statistics(*(np.array(array, dtype=np.float32) for array in arrays))
    except DataError as error:
        raise DataError(f"{root / 'Mean.npy'}, Std.npy: {error}") from error


def _seconds(text: str) -> float:
    value = float(text)
    if abs(value) > LONGEST_S:
        raise ValueError(text)
    return 0.0 if math.isnan(value) else value  # some published lines say nan where they mean the whole recording
