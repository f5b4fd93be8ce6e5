"""What every reader turns a folder into: clips to load one by one, classes, and the files that all of it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinemic.config import IdList, OnBad, RecordingsReader
from kinemic.data.convert import MAX_FRAMES
from kinemic.data.corpus import Clip, Role
from kinemic.data.packing import check_clip
from kinemic.documents import parse_json
from kinemic.errors import DataError, one_line
from kinemic.motion import Statistics
from kinemic.progress import Progress, ProgressCallback, silent

MIN_FRAMES: Mapping[str, int] = {"source": 40, "target": 16}  # METHOD section 1; 20 fps
LONG_FRAMES = 210  # 10 s, and some: sets at 20 fps are cut to that; many longer clips tell of another frame rate


@dataclass(frozen=True)
class ReadClip:
    """A clip as it is packed, at most 196 frames, and how many frames at 20 fps it had before it was cropped."""

    clip: Clip
    frames: int


@dataclass(frozen=True)
class BadClip:
    """A clip, recording or line that can't be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Item:
    """One recording that is not read yet; it holds one clip, or one for each captioned stretch."""

    name: str
    load: Callable[[], list[ReadClip]]


@dataclass(frozen=True)
class Raw:
    """A data set as it lies there; nothing but lists is read until ``read`` or ``clips`` is called.

    ``files`` are the inputs whose size and time tell whether a packed copy is still good; ``missing`` names clips that
    a list names and that are not there; ``without`` names clips to leave out. ``notes`` is filled by ``clips``.
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
    on_bad: OnBad = "stop"
    without: frozenset[str] = frozenset()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def shortest(self) -> int:
        """Frames of features that a clip needs at least."""
        return self.least or MIN_FRAMES[self.role]

    def read(self, progress: ProgressCallback = silent) -> Iterator[ReadClip | BadClip]:
        """Yield every clip, or why it can't be used: the one pass that checking and packing share."""
        names: set[str] = set()
        every = max(self.total // 200, 1)
        for done, item in enumerate(self.items()):
            if done % every == 0:
                progress(Progress("read clips", min(done, self.total), self.total))
            if item.name not in self.without:
                yield from self._read(item, names)
        progress(Progress("read clips", self.total, self.total))

    def clips(self, progress: ProgressCallback = silent) -> Iterator[Clip]:
        """Yield the clips to pack and note what became of the others.

        Raises DataError, after the last clip, where some can't be used and ``on_bad`` is stop.
        """
        notes = {"too_short": 0, "cropped": 0, "long": 0, "missing": len(self.missing)}
        self.notes.update(notes, missing_first=list(self.missing[:3]), bad=[], left_out=sorted(self.without))
        for read in self.read(progress):
            if isinstance(read, BadClip):
                self.notes["bad"].append([read.name, read.reason])
                continue
            self.notes["too_short"] += read.frames < self.shortest
            self.notes["cropped"] += read.frames > MAX_FRAMES
            self.notes["long"] += read.frames > LONG_FRAMES
            if read.frames >= self.shortest:
                yield read.clip
        bad = self.notes["bad"]
        if bad and self.on_bad == "stop":
            raise DataError(
                f"{bad[0][1]} ({len(bad)} of {self.total} clips can't be used: `kinemic data check` names them all, "
                "`on_bad: drop` leaves them out)"
            )

    def _read(self, item: Item, names: set[str]) -> Iterator[ReadClip | BadClip]:
        try:
            loaded = item.load()
        except DataError as error:
            yield BadClip(_printable(item.name), str(error))
            return
        for read in loaded:
            name = read.clip.name
            if name in self.without:
                continue
            problem = "" if read.frames < self.shortest else self._problem(read.clip)
            if name in names:
                problem = f"clip {name}: the name comes twice; clip names must differ"
            names.add(name)
            yield BadClip(_printable(name), problem) if problem else read

    def _problem(self, clip: Clip) -> str:
        """Return why a clip can't be packed or used later, empty where it can."""
        if not clip.name.isprintable() or not clip.name:
            return f"clip {clip.name!r}: expected an id of printable characters"
        for text in (*clip.captions, clip.subject or ""):
            if not _is_unicode(text):
                return f"clip {clip.name}: {text[:60]!r} holds half a character (a lone surrogate); mend or drop it"
        if self.role == "source" and not any(caption.strip() for caption in clip.captions):
            return f"clip {clip.name}: no caption; every source clip needs at least one"
        try:
            check_clip(clip, len(self.classes))
        except DataError as error:
            return str(error)
        return ""


def left_out(reader: RecordingsReader) -> frozenset[str]:
    """Return the clips that a reader's ``drop`` lists. Raises DataError as ``read_ids`` does."""
    return frozenset(read_ids(reader.drop)) if reader.drop else frozenset()


def list_files(*lists: IdList | None) -> tuple[Path, ...]:
    """Return the files of the lists that are given."""
    return tuple(ids.file for ids in lists if ids is not None)


def need_folder(path: Path, what: str) -> Path:
    """Return ``path`` where it is a folder. Raises DataError saying what was expected there."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected {what}")
    return path


def read_lines(path: Path, what: str) -> list[str]:
    """Return the non-empty lines of a UTF-8 file, stripped. Raises DataError where it is missing or not text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected {what}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as text ({_short(error)}); expected {what}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file holds. Raises DataError where it is missing or not JSON."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected {what}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {_short(error)}; expected {what}") from error


def read_ids(ids: IdList) -> tuple[str, ...]:
    """Return the clip ids of a list; what follows a tab in a text file is a remark.

    Raises DataError for a missing file or key, and for a list that is none.
    """
    if ids.key is None:
        return tuple(line.split("\t")[0] for line in read_lines(ids.file, "one clip id a line"))
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
    return one_line(error, 120)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    """Return a name that a table and a list of one line a clip can hold."""
    return name if name.isprintable() else ascii(name)[1:-1]
