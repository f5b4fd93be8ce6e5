"""What every reader turns a folder into: clips to load one by one, classes, and the files that all of it comes from."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import IdList
from kinemic.data.corpus import Clip, Role
from kinemic.errors import DataError
from kinemic.motion import Statistics
from kinemic.progress import Progress, ProgressCallback, silent

MIN_FRAMES: Mapping[str, int] = {"source": 40, "target": 16}  # METHOD section 1; 20 fps
MAX_FRAMES = 196


@dataclass(frozen=True)
class Item:
    """One recording that is not read yet; it holds one clip, or one for each captioned stretch."""

    name: str
    load: Callable[[], list[Clip]]


@dataclass(frozen=True)
class Raw:
    """A data set as it lies there; nothing but lists is read until ``items`` is called and an item loaded.

    ``files`` are the inputs whose size and time tell whether a packed copy is still good; ``missing`` names clips that
    a list names and that are not there. ``notes`` is filled by ``clips``.
    """

    path: Path
    role: Role
    files: tuple[Path, ...]
    total: int
    items: Callable[[], Iterable[Item]]
    classes: tuple[str, ...] = ()
    class_captions: tuple[tuple[str, ...], ...] = ()
    statistics: Callable[[], Statistics | None] = lambda: None
    missing: tuple[str, ...] = ()
    least: int = 0  # frames of features; 0 is the role's minimum
    sides: Mapping[str, frozenset[str]] = field(default_factory=dict)  # subjects by published list
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def shortest(self) -> int:
        """Frames of features that a clip needs at least."""
        return self.least or MIN_FRAMES[self.role]

    def clips(self, progress: ProgressCallback = silent) -> Iterator[Clip]:
        """Yield the clips: shorter than the role's minimum dropped, longer than 196 frames cropped, both counted."""
        least = self.shortest
        self.notes.update(too_short=0, cropped=0, missing=len(self.missing), missing_first=list(self.missing[:3]))
        every = max(self.total // 200, 1)
        for done, item in enumerate(self.items()):
            if done % every == 0:
                progress(Progress("read clips", done, self.total))
            for clip in item.load():
                frames = len(clip.features_TF)
                self.notes["too_short"] += frames < least
                self.notes["cropped"] += frames > MAX_FRAMES
                if frames > MAX_FRAMES:
                    segments = tuple((a, s, min(e, MAX_FRAMES)) for a, s, e in clip.segments if s < MAX_FRAMES)
                    clip = dataclasses.replace(clip, features_TF=clip.features_TF[:MAX_FRAMES], segments=segments)
                if frames >= least:
                    yield clip
        progress(Progress("read clips", self.total, self.total))


def need_folder(path: Path, what: str) -> Path:
    """Return ``path`` where it is a folder. Raises DataError saying what was expected there."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected {what}")
    return path


def load_array(path: Path) -> NDArray[Any]:
    """Read one npy file. Raises DataError for a missing or corrupt one."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable npy file ({_short(error)}); fetch or make it again") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array (npy), got an archive (npz)")
    return array


def load_arrays(path: Path, keys: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read some arrays of an npz file. Raises DataError for a missing or corrupt file, and for a key that it lacks."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            lacking = [key for key in keys if key not in archive.files]
            if lacking:
                raise DataError(f"{path}: no array {lacking[0]!r}; expected {', '.join(keys)}")
            return {key: archive[key] for key in keys}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable npz file ({_short(error)}); fetch or make it again") from error


def load_features(path: Path) -> NDArray[np.float32]:
    """Read a clip's (T, 263) features. Raises DataError, naming file and value, for another shape, NaN or infinity."""
    from kinemic.data.packing import check_clip

    array = load_array(path)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: expected floating point features, got {array.dtype}")
    features = array.astype(np.float32)
    try:
        check_clip(Clip(path.stem, features), 0)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return features


def read_lines(path: Path, what: str) -> list[str]:
    """Return the non-empty lines of a text file, stripped. Raises DataError where it is missing or not text."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as text ({_short(error)}); expected {what}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file holds. Raises DataError where it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected {what}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not valid JSON ({_short(error)}); expected {what}") from error


def read_ids(ids: IdList) -> tuple[str, ...]:
    """Return the clip ids of a list. Raises DataError for a missing file or key, and for a list that is none."""
    if ids.key is None:
        return tuple(read_lines(ids.file, "one clip id a line"))
    node = read_json(ids.file, "lists of clip ids")
    for done, part in enumerate(parts := ids.key.split(".")):
        if not isinstance(node, dict) or part not in node:
            known = ", ".join(sorted(node)[:10]) if isinstance(node, dict) else "no keys, it is a value"
            at = ".".join(parts[:done]) or "the top"
            raise DataError(f"{ids.file}: no key {ids.key!r}; at {at} it has {known}")
        node = node[part]
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        raise DataError(f"{ids.file}: expected a list of clip ids at {ids.key!r}, got {type(node).__name__}")
    return tuple(node)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
