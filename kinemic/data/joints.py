"""Plain joint files: npz sets (``rel``, ``root``, ``start``, ``ids``) and one JSON line a clip.

``rel`` (frames, joints, 3) is relative to ``root`` (frames, 3), the pelvis; clip i is ``start[i]`` to ``start[i + 1]``.
What a reader's ``joints``, ``units``, ``up`` and ``fps`` say is brought onto 22 joints, metres, y up, 20 fps.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kinemic.config import JointsReader
from kinemic.data.arrays import load_arrays, need_floats
from kinemic.data.convert import JOINTS_OF, frames_needed, joint_features
from kinemic.data.corpus import Clip, Role
from kinemic.data.raw import (
    MIN_FRAMES,
    Item,
    Raw,
    ReadClip,
    left_out,
    list_files,
    need_folder,
    read_ids,
    read_lines,
)
from kinemic.documents import parse_json
from kinemic.errors import DataError
from kinemic.files import replacing, write_text
from kinemic.skeleton import NUM_JOINTS


@dataclass(frozen=True)
class Row:
    """A line of clips.jsonl, or why it can't be used; one without an id goes by its place in the file."""

    id: str
    set: str | None = None
    label: str | None = None
    subject: str | None = None
    captions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class StoredClip:
    """A clip as an npz set holds it: joints (T, J, 3) relative to the pelvis, and the pelvis (T, 3)."""

    rel: NDArray[np.floating]
    root: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.rel)

    def joints(self, frames: int | None = None) -> NDArray[np.float32]:
        """Return the joints of the first ``frames`` frames, or of all, float32 (T, J, 3)."""
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused by who reads it
            joints: NDArray[np.float32] = self.rel[:frames].astype(np.float32) + self.root[:frames, None].astype(
                np.float32
            )
        return joints


def open_joints(reader: JointsReader, role: Role = "target") -> Raw:
    """List plain joint files. A class is a label; its captions are the captions of its clips, each once, sorted.

    As a source the clips go by their own captions alone, and labels are left out.
    Raises DataError for a missing file, and an id of ``ids`` that no file holds.
    """
    root = need_folder(reader.path, "joint files (npz) and their JSON lines")
    paths = [root / file for file in reader.files]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise DataError(f"{absent[0]}: no such file; expected joints (npz)")
    rows = _chosen(reader, read_rows(root / reader.clips))
    if role == "source":
        rows = {name: replace(row, label=None) for name, row in rows.items()}
    captions: dict[str, set[str]] = {}
    for row in rows.values():
        if row.label:
            captions.setdefault(row.label, set()).update(row.captions)
    classes = sorted(captions)
    return Raw(
        path=root,
        role=role,
        files=(*paths, root / reader.clips, *list_files(reader.ids, reader.drop)),
        total=len(rows),
        items=lambda: _items(reader, paths, rows, {name: label for label, name in enumerate(classes)}),
        classes=tuple(classes),
        class_captions=tuple(tuple(sorted(captions[name])) for name in classes),
        least=MIN_FRAMES[role] - 1,  # the last frame only serves the velocities of the one before
        on_bad=reader.on_bad,
        without=left_out(reader),
    )


def read_rows(path: Path) -> dict[str, Row]:
    """Return the lines of a clips.jsonl by clip id. Raises DataError where there is no such file of text.

    A line that can't be used is kept with the reason, and so is an id that two lines describe.
    """
    rows: dict[str, Row] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, "one JSON line a clip"), 1):
        row = _read_row(line, path, number)
        if row.id in first:
            twice = f"{path}: lines {first[row.id]} and {number} both describe clip {row.id}; keep one"
            row = Row(row.id, rows[row.id].set, problem=twice)
        rows[row.id] = row
        first.setdefault(row.id, number)
    return rows


def _read_row(line: str, path: Path, number: int) -> Row:
    """Return what a line says, or a row that says what is wrong with it."""
    why = ""
    try:
        found = parse_json(line)
    except ValueError as error:
        found, why = None, f" ({' '.join(str(error).split())[:80]})"
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    name, captions = fields.get("id"), fields.get("captions", [])
    group, label, subject = (fields.get(key) for key in ("set", "label", "subject"))
    good = isinstance(name, str) and isinstance(captions, list) and all(isinstance(c, str) for c in captions)
    if good and all(isinstance(text, str | None) for text in (group, label, subject)):
        return Row(str(name), group, label, subject, tuple(captions))
    problem = (
        f"{path}, line {number}: expected a JSON object with id and captions (set, label, subject: text or null), "
        f"got {line[:60]!r}{why}"
    )
    known = name if isinstance(name, str) else f"{path.name}, line {number}"
    return Row(known, group if isinstance(group, str) else None, problem=problem)


def _chosen(reader: JointsReader, rows: dict[str, Row]) -> dict[str, Row]:
    sets = {Path(file).stem for file in reader.files}
    here = {name: row for name, row in rows.items() if (row.set or Path(reader.files[0]).stem) in sets}
    if reader.ids is not None:
        listed = dict.fromkeys(read_ids(reader.ids))
        unknown = [name for name in listed if name not in here]
        if unknown:
            files = ", ".join(reader.files)
            raise DataError(f"{reader.ids.file}: {len(unknown)} listed clips are not in {files}, first {unknown[0]}")
        here = {name: here[name] for name in listed}
    if not here:
        raise DataError(f"{reader.path / reader.clips}: no clip of the sets {', '.join(sorted(sets))}")
    return here


def _items(reader: JointsReader, paths: list[Path], rows: dict[str, Row], label_of: dict[str, int]) -> Iterator[Item]:
    left = dict(rows)
    for path in paths:
        try:
            clips = read_set(path, JOINTS_OF[reader.joints])
        except DataError as error:
            own = [name for name, row in left.items() if (row.set or paths[0].stem) == path.stem]
            for name in own or [path.name]:
                left.pop(name, None)
                yield Item(name, partial(_refuse, str(error)))
            continue
        for name, stored in clips:
            if name in left:
                yield Item(name, partial(_load, reader, path, name, stored, left.pop(name), label_of))
            elif name in rows:
                yield Item(name, partial(_refuse, f"{path}: clip {name} comes twice; keep one"))
    for name, row in left.items():
        yield Item(name, partial(_refuse, row.problem or f"{paths[0].parent}: clip {name} has a line but no joints"))


def read_set(path: Path, joints: int = NUM_JOINTS) -> list[tuple[str, StoredClip]]:
    """Return the clips of an npz set with their ids. Raises DataError where its arrays don't fit together."""
    z = load_arrays(path, ("rel", "root", "start", "ids"))
    rel, root, start, ids = z["rel"], z["root"], z["start"], z["ids"]
    fits = rel.ndim == 3 and rel.shape[1:] == (joints, 3) and root.shape == (len(rel), 3)
    if not fits or ids.ndim != 1 or start.shape != (len(ids) + 1,):
        shapes = ", ".join(f"{key} {array.shape}" for key, array in z.items())
        others = ", ".join(f"{name} has {count}" for name, count in JOINTS_OF.items())
        raise DataError(
            f"{path}: expected rel (frames, {joints}, 3), root (frames, 3), start (n + 1), ids (n), got {shapes}; "
            f"of the reader's `joints`, {others}"
        )
    need_floats(path, "rel", rel)
    need_floats(path, "root", root)
    for key, array, kind, expected in (("start", start, np.integer, "whole numbers"), ("ids", ids, np.str_, "texts")):
        if not np.issubdtype(array.dtype, kind):
            raise DataError(f"{path}: {key} holds {array.dtype} values, expected {expected}")
    places = [int(frame) for frame in start]
    if places[0] != 0 or places[-1] != len(rel) or any(b < a for a, b in itertools.pairwise(places)):
        raise DataError(f"{path}: start must rise from 0 to the {len(rel)} frames, got {places[0]} to {places[-1]}")
    return [
        (str(name), StoredClip(rel[first:end], root[first:end]))
        for name, first, end in zip(ids, places[:-1], places[1:], strict=True)
    ]


@dataclass(frozen=True)
class JointClip:
    """One clip of joint files: its label as written, and its features (T - 1, at most 196, 263)."""

    name: str
    label: str | None
    captions: tuple[str, ...]
    features: NDArray[np.float32]


def read_joints(folder: Path, files: Sequence[str], clips: str = "clips.jsonl") -> list[JointClip]:
    """Read all clips of joint files, the short ones too. Raises DataError where one can't be used."""
    reader = JointsReader(path=folder, files=tuple(files), clips=clips)
    raw = open_joints(reader, "target")
    loaded = [read.clip for item in raw.items() for read in item.load()]
    return [
        JointClip(c.name, None if c.label is None else raw.classes[c.label], c.captions, c.features_TF) for c in loaded
    ]


def write_joints(
    folder: Path,
    joints: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
    captions: Sequence[Sequence[str]],
    prefix: str = "clip",
) -> None:
    """Write clips (T, 22, 3), metres, 20 fps, as ``clips.npz`` and ``clips.jsonl``, which ``open_joints`` reads."""
    names = [f"{prefix}-{i:05d}" for i in range(len(joints))]
    roots = [clip[:, 0] for clip in joints]
    relative = [clip - clip[:, :1] for clip in joints]
    with replacing(folder / "clips.npz") as path:
        np.savez_compressed(
            path,
            rel=np.concatenate([np.zeros((0, NUM_JOINTS, 3), np.float32), *relative]),
            root=np.concatenate([np.zeros((0, 3), np.float32), *roots]),
            start=np.cumsum([0, *map(len, joints)], dtype=np.int64),
            ids=np.array(names, dtype=np.str_),
        )
    rows = zip(names, joints, labels, captions, strict=True)
    lines = [
        json.dumps({"id": n, "set": "clips", "frames": len(j), "label": label, "captions": list(texts)})
        for n, j, label, texts in rows
    ]
    write_text(folder / "clips.jsonl", "".join(f"{line}\n" for line in lines))


def _load(
    reader: JointsReader, path: Path, name: str, stored: StoredClip, row: Row, label_of: dict[str, int]
) -> list[ReadClip]:
    if row.problem:
        raise DataError(row.problem)
    try:
        features, frames = joint_features(stored.joints(frames_needed(reader.fps)), len(stored), reader)
    except DataError as error:
        raise DataError(f"{path}: clip {name}: {error}") from error
    label = label_of[row.label] if row.label else None
    return [ReadClip(Clip(name, features, row.captions, label, row.subject), frames)]


def _refuse(problem: str) -> NoReturn:
    raise DataError(problem)
