"""A packed corpus: features of all clips in one memory-mapped array; names, captions, classes and subjects beside it.

Legend: N clips, T frames of one clip, J = 22 joints, F = 263 features (de-normalised), 20 fps. A folder holds
``features.npy`` (sum T, F) float32, ``offsets.npy`` (N + 1) int64, ``labels.npy`` (N) int64, ``statistics.npy``
(2, F), ``digests.npy`` (N, 4) uint64, and JSON files; those are parsed on first use, so that opening 23 000 clips takes
milliseconds. What is read is checked by its digest: small files as a whole, a clip's features when it is first read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinemic.data.arrays import map_array
from kinemic.digests import digest_bytes, digest_of
from kinemic.documents import parse_json, read_result, validate_result
from kinemic.errors import DataError
from kinemic.motion import Statistics, features_to_joints
from kinemic.skeleton import NUM_FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Role = Literal["source", "target", "trial", "test"]
Part = Literal["train", "dev", "test"]
Segment = tuple[str, int, int]  # action, first frame, frame after the last

VERSION = 2  # of the folder's layout; another one is packed anew
META, CLIPS, CAPTIONS = "corpus.json", "clips.json", "captions.json"
_ARRAYS = ("offsets.npy", "labels.npy", "statistics.npy")
_DIGESTS = "digests.npy"
SMALL_FILES = (*_ARRAYS, _DIGESTS, CLIPS, CAPTIONS)  # their digests are in META


Columns = TypeVar("Columns", "_Clips", "_Captions")


@dataclass(frozen=True)
class _Meta:
    clips: int
    frames: int
    role: Role
    classes: list[str]
    class_captions: list[list[str]]
    content_hash: str
    notes: dict[str, Any]
    files: dict[str, str]

    def __post_init__(self) -> None:
        if len(self.class_captions) != len(self.classes):
            raise ValueError(f"captions of {len(self.class_captions)} classes, not of {len(self.classes)}")


@dataclass(frozen=True)
class _Clips:
    names: list[str]
    subjects: list[str | None]
    parts: list[Part | None]
    segments: list[list[Segment]]


@dataclass(frozen=True)
class _Captions:
    captions: list[list[str]]


@dataclass(frozen=True)
class Clip:
    """One clip on its way into a corpus: features (T, 263), de-normalised; ``label`` is an index into the classes."""

    name: str
    features_TF: NDArray[np.float32]  # noqa: N815
    captions: tuple[str, ...] = ()
    label: int | None = None
    subject: str | None = None
    segments: tuple[Segment, ...] = ()
    part: Part | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Corpus:
    """An opened corpus. ``labels`` is -1 where a clip has no class; ``clip(i)`` is a view, nothing is copied.

    It pickles as its path, so that another process maps the same file instead of being sent the array.
    """

    path: Path
    meta: Mapping[str, Any]
    features: NDArray[np.float32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    statistics: Statistics

    @classmethod
    def open(cls, path: Path) -> Corpus:
        """Open a packed folder, read-only. Raises DataError for a missing, damaged or foreign folder."""
        meta = _read_meta(path)
        features = _map_array(path, "features.npy")
        offsets, labels, statistics = (_read_array(path, name, meta) for name in _ARRAYS)
        clips, frames = meta["clips"], meta["frames"]
        expected = ((frames, NUM_FEATURES), (clips + 1,), (clips,), (2, NUM_FEATURES))
        found = (features.shape, offsets.shape, labels.shape, statistics.shape)
        if found != expected or features.dtype != np.float32:
            raise _damaged(path, f"its arrays have shapes {found}, its {META} says {expected}")
        if not _are_within(offsets, frames) or not _are_within(labels, len(meta["classes"]) - 1, least=-1):
            raise _damaged(
                path, f"its offsets or labels do not fit its {frames} frames and {len(meta['classes'])} classes"
            )
        return cls(path, meta, features, offsets, labels, Statistics(statistics[0], statistics[1]))

    @classmethod
    def write(
        cls,
        path: Path,
        clips: Iterable[Clip],
        classes: Sequence[str],
        class_captions: Sequence[Sequence[str]],
        role: Role,
        statistics: Statistics | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Corpus:
        """Pack clips into a folder, atomically; a corpus that is there already is replaced.

        ``statistics`` None computes them from these clips. ``notes`` are kept as they are, outside the content hash.
        Raises DataError for a clip of the wrong width, with NaN or infinite values, or with a name that came before,
        for no clip at all, and for a folder there that is not a corpus.
        """
        from kinemic.data.packing import pack

        pack(path, clips, classes, class_captions, role, statistics, notes or {})
        return cls.open(path)

    def __repr__(self) -> str:
        return f"Corpus({self.path}, {self.role}, {len(self)} clips)"

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus.open, (self.path,)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def role(self) -> Role:
        """What the clips may be used for."""
        role: Role = self.meta["role"]
        return role

    @property
    def content_hash(self) -> str:
        """Hash over features, offsets, names, captions, labels, classes, subjects, segments, parts and statistics."""
        return str(self.meta["content_hash"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return tuple(self.meta["classes"])

    @property
    def class_captions(self) -> tuple[tuple[str, ...], ...]:
        """Captions of each class: its name phrased as one or more sentences."""
        return tuple(tuple(captions) for captions in self.meta["class_captions"])

    @property
    def notes(self) -> Mapping[str, Any]:
        """What happened while packing: counts of clips that were missing, too short or cropped."""
        notes: Mapping[str, Any] = self.meta["notes"]
        return notes

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each clip, (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the clips."""
        return tuple(self._clips.names)

    @cached_property
    def subjects(self) -> tuple[str | None, ...]:
        """Performer of each clip, where known."""
        return tuple(self._clips.subjects)

    @cached_property
    def parts(self) -> tuple[Part | None, ...]:
        """Part of the split of each clip; None outside trial and test data."""
        return tuple(self._clips.parts)

    @cached_property
    def segments(self) -> tuple[tuple[Segment, ...], ...]:
        """Where each action lies in each clip: (action, first frame, frame after the last); for generated clips."""
        return tuple(map(tuple, self._clips.segments))

    @cached_property
    def captions(self) -> tuple[tuple[str, ...], ...]:
        """Captions of each clip."""
        return tuple(map(tuple, self._read(CAPTIONS, _Captions).captions))

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """What copies of a clip's motion are known by, (N, 4): as it is, and three of it moved and turned in place."""
        found: NDArray[np.uint64] = _read_array(self.path, _DIGESTS, self.meta)
        return found

    def clip(self, index: int) -> NDArray[np.float32]:
        """Return clip ``index`` as a read-only view of the packed features, (T, 263).

        Raises DataError, the first time that it is read, where it is not what was packed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        features = self.features[self.offsets[index] : self.offsets[index + 1]]
        if not self._checked[index]:
            if digest_bytes(features) != self.digests[index, 0].tobytes():
                raise _damaged(self.path, f"clip {self.names[index]} is not what was packed")
            self._checked[index] = True
        return features

    def check(self, indices: Iterable[int]) -> None:
        """Read clips whose features will be taken from the packed array. Raises DataError as ``clip`` does."""
        for index in indices:
            self.clip(int(index))

    def joints(self, index: int) -> NDArray[np.float32]:
        """Return the joint positions of clip ``index``, (T, 22, 3), metres."""
        return features_to_joints(self.clip(index))

    def index_of(self, name: str) -> int:
        """Return the index of a clip. Raises DataError for a name that is not in the corpus."""
        if name not in self._index:
            raise DataError(f"{self.path}: no clip {name!r} among its {len(self)}")
        return self._index[name]

    @cached_property
    def _checked(self) -> NDArray[np.bool_]:
        return np.zeros(len(self), dtype=bool)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _clips(self) -> _Clips:
        return self._read(CLIPS, _Clips)

    def _read(self, file: str, model: type[Columns]) -> Columns:
        try:
            columns = read_result(_read_bytes(self.path, file, self.meta), model)
        except ValueError as error:
            raise _damaged(self.path, f"{file}: {error}") from error
        wrong = [name for name, values in vars(columns).items() if len(values) != len(self)]
        if wrong:
            raise _damaged(self.path, f"{file} does not list {len(self)} {wrong[0]}")
        return columns


def is_corpus(path: Path) -> bool:
    """Whether a folder looks like a packed corpus, of any version, damaged or not."""
    return (path / META).is_file() and (path / "features.npy").is_file()


def is_current(path: Path) -> bool:
    """Whether a folder is a corpus that this version packed, damaged or not."""
    try:
        return bool(parse_json((path / META).read_bytes())["corpus_version"] == VERSION)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest_of_meta(meta: Mapping[str, Any]) -> str:
    """Return the digest of what a corpus says of itself."""
    return digest_of(json.dumps({key: value for key, value in meta.items() if key != "digest"}, sort_keys=True))


def _read_array(path: Path, name: str, meta: Mapping[str, Any]) -> NDArray[Any]:
    _read_bytes(path, name, meta)
    return np.array(_map_array(path, name))


def _map_array(path: Path, name: str) -> NDArray[Any]:
    try:
        return map_array(path / name)
    except DataError as error:
        raise _damaged(path, str(error)) from error


def _are_within(numbers: NDArray[Any], most: int, least: int = 0) -> bool:
    return numbers.dtype == np.int64 and bool((numbers >= least).all() and (numbers <= most).all())


def _read_bytes(path: Path, name: str, meta: Mapping[str, Any]) -> bytes:
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise _damaged(path, str(error)) from error
    if digest_of(content) != meta["files"].get(name):
        raise _damaged(path, f"{name} is not what was packed")
    return content


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected a corpus that `kinemic data prepare` packed")
    try:
        meta: dict[str, Any] = parse_json((path / META).read_bytes())
        version = meta["corpus_version"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: not a packed corpus (no {META}); pack it with `kinemic data prepare`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{META}: {error}") from error
    if version != VERSION:
        raise DataError(f"{path}: packed as version {version}, this is version {VERSION}; pack it anew")
    if meta.get("digest") != digest_of_meta(meta):
        raise _damaged(path, f"{META} is not what was packed")
    try:
        return meta | vars(validate_result(meta, _Meta))
    except ValueError as error:
        raise _damaged(path, f"{META}: {error}") from error


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path}: damaged corpus ({' '.join(why.split())}); delete the folder and pack it anew")
