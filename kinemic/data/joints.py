"""Plain joint files: npz sets (``rel``, ``root``, ``start``, ``ids``; metres, 20 fps) and one JSON line a clip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinemic.config import JointsReader
from kinemic.data.corpus import Clip, Role
from kinemic.data.raw import MIN_FRAMES, Item, Raw, load_arrays, need_folder, read_ids, read_lines
from kinemic.errors import DataError
from kinemic.files import replacing, write_text
from kinemic.motion import joints_to_features
from kinemic.skeleton import NUM_JOINTS

Row = dict[str, Any]  # one line of clips.jsonl: id, set, label, subject, captions


def open_joints(reader: JointsReader, role: Role = "target") -> Raw:
    """List plain joint files. A class is a label; its captions are the captions of its clips, each once, sorted.

    As a source the clips go by their own captions alone, and labels are left out.
    Raises DataError for a missing file, a line that is not a clip, and an id of ``ids`` that no file holds.
    """
    root = need_folder(reader.path, "joint files (npz) and their JSON lines")
    paths = [root / file for file in reader.files]
    rows = _chosen(reader, read_rows(root / reader.clips))
    if role == "source":
        rows = {name: row | {"label": None} for name, row in rows.items()}
    captions: dict[str, set[str]] = {}
    for row in rows.values():
        if row.get("label"):
            captions.setdefault(row["label"], set()).update(row["captions"])
    classes = sorted(captions)
    lists = [reader.ids.file] if reader.ids else []
    return Raw(
        path=root,
        role=role,
        files=(*paths, root / reader.clips, *lists),
        total=len(rows),
        items=lambda: _items(paths, rows, {name: label for label, name in enumerate(classes)}),
        classes=tuple(classes),
        class_captions=tuple(tuple(sorted(captions[name])) for name in classes),
        least=MIN_FRAMES[role] - 1,  # the last frame only serves the velocities of the one before
    )


def read_rows(path: Path) -> dict[str, Row]:
    """Return the lines of a clips.jsonl by clip id. Raises DataError for a line without id, or with odd values."""
    rows: dict[str, Row] = {}
    for number, line in enumerate(read_lines(path, "one JSON line a clip"), 1):
        try:
            row = json.loads(line)
            name, captions = row["id"], row.setdefault("captions", [])
            good = isinstance(name, str) and isinstance(captions, list) and all(isinstance(c, str) for c in captions)
            good = good and all(isinstance(row.get(key, ""), str | None) for key in ("set", "label", "subject"))
        except (ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise DataError(
                f"{path}, line {number}: expected a JSON object with id and captions (set, label, subject: text or "
                f"null), got {line[:60]!r}"
            )
        rows[name] = row
    return rows


def _chosen(reader: JointsReader, rows: dict[str, Row]) -> dict[str, Row]:
    sets = {Path(file).stem for file in reader.files}
    here = {name: row for name, row in rows.items() if (row.get("set") or Path(reader.files[0]).stem) in sets}
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


def _items(paths: list[Path], rows: dict[str, Row], label_of: dict[str, int]) -> Iterator[Item]:
    left = dict(rows)
    for path in paths:
        for name, joints in read_set(path):
            if name in left:
                yield Item(name, partial(_load, path, name, joints, left.pop(name), label_of))
    if left:
        raise DataError(f"{paths[0].parent}: {len(left)} clips have a line but no joints, first {next(iter(left))}")


def read_set(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (clip id, joints (T, 22, 3)) of an npz set. Raises DataError where its arrays don't fit together."""
    z = load_arrays(path, ("rel", "root", "start", "ids"))
    rel, root, start, ids = z["rel"], z["root"], z["start"], z["ids"]
    fits = rel.ndim == 3 and rel.shape[1:] == (NUM_JOINTS, 3) and root.shape == (len(rel), 3)
    if not fits or start.shape != (len(ids) + 1,):
        shapes = ", ".join(f"{key} {array.shape}" for key, array in z.items())
        raise DataError(f"{path}: expected rel (frames, 22, 3), root (frames, 3), start (n + 1), ids (n), got {shapes}")
    if start[0] != 0 or start[-1] != len(rel) or (np.diff(start) < 0).any():
        raise DataError(f"{path}: start must rise from 0 to the {len(rel)} frames, got {start[0]} to {start[-1]}")
    for name, first, end in zip(ids, start[:-1], start[1:], strict=True):
        yield str(name), rel[first:end].astype(np.float32) + root[first:end, None].astype(np.float32)


@dataclass(frozen=True)
class JointClip:
    """One clip of joint files: its label as written, and its features (T - 1, 263)."""

    name: str
    label: str | None
    captions: tuple[str, ...]
    features: NDArray[np.float32]


def read_joints(folder: Path, files: Sequence[str], clips: str = "clips.jsonl") -> list[JointClip]:
    """Read all clips of joint files, of any length. Raises DataError as ``open_joints`` does."""
    reader = JointsReader(path=folder, files=tuple(files), clips=clips)
    raw = open_joints(reader, "target")
    loaded = [clip for item in raw.items() for clip in item.load()]
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


def _load(path: Path, name: str, joints: NDArray[np.float32], row: Row, label_of: dict[str, int]) -> list[Clip]:
    if not np.isfinite(joints).all():
        frame = int(np.argwhere(~np.isfinite(joints))[0, 0])
        raise DataError(f"{path}: clip {name}: NaN or infinite joints at frame {frame}; drop or repair the clip")
    try:
        features = joints_to_features(joints)
    except DataError as error:
        raise DataError(f"{path}: clip {name}: {error}") from error
    label = row.get("label")
    return [Clip(name, features, tuple(row["captions"]), label_of[label] if label else None, row.get("subject"))]
