"""NTU-VIBE folders, as the KineMIC authors publish them: few-shot lists, class names and captions, 263 features."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from kinemic.config import NTUReader
from kinemic.data.convert import read_features
from kinemic.data.corpus import Clip
from kinemic.data.humanml3d import read_captions
from kinemic.data.raw import Item, Raw, ReadClip, left_out, list_files, need_folder, read_json, read_lines
from kinemic.errors import DataError

NAME = re.compile(r"S(?P<setup>\d{3})C\d{3}P(?P<subject>\d{3})R\d{3}A(?P<action>\d{3})", re.ASCII)
_TAG = re.compile("A[0-9]{1,3}")
LISTS = ("train", "val", "incremental")  # the last, where it is there, holds the clips that the shots were drawn from


def open_ntu(reader: NTUReader) -> Raw:
    """List an NTU-VIBE folder: the clips that its lists name and that are there; the classes that its lists use.

    The performer is the P number of the name; the shipped lists split by setup (S), so performers recur on both sides.
    Raises DataError for a missing folder, list or class description.
    """
    root = need_folder(reader.path, "an NTU-VIBE folder")
    lists = need_folder(root / "splits" / "fewshot" / reader.shots / reader.task, "the lists train.txt and val.txt")
    vectors = need_folder(root / "new_joint_vecs", "motion features, one npy file a clip")
    by_list = {
        f"{name}.txt": read_labelled_list(lists / f"{name}.txt")
        for name in LISTS
        if name != "incremental" or (lists / "incremental.txt").is_file()
    }
    listed = {name: action for labels in by_list.values() for name, action in labels.items()}
    actions = read_actions(root / "ntu_metadata.json")
    numbers = sorted(set(listed.values()))
    unknown = [number for number in numbers if number not in actions]
    if unknown:
        raise DataError(f"{root / 'ntu_metadata.json'}: no action A{unknown[0] + 1:03d}, which the lists name")
    there = {file.stem for file in vectors.glob("*.npy")}
    names = sorted(name for name in listed if name in there)
    if not names:
        raise DataError(f"{vectors}: none of the {len(listed)} listed clips is there; check the folder and the lists")
    label_of = {number: label for label, number in enumerate(numbers)}
    files = [path for n in names for path in (vectors / f"{n}.npy", root / "texts" / f"{n}.txt")]
    return Raw(
        path=root,
        role="target",
        files=(*sorted(lists.glob("*.txt")), root / "ntu_metadata.json", *files, *list_files(reader.drop)),
        total=len(names),
        items=lambda: (Item(name, partial(_load, root, name, label_of[listed[name]], reader.fps)) for name in names),
        classes=tuple(actions[number][0] for number in numbers),
        class_captions=tuple(actions[number][1] for number in numbers),
        missing=tuple(sorted(name for name in listed if name not in there)),
        sides={name: frozenset(map(subject_of, by_list[name])) for name in ("train.txt", "val.txt")},
        on_bad=reader.on_bad,
        without=left_out(reader),
    )


def read_labelled_list(path: Path) -> dict[str, int]:
    """Return name -> action index (A number - 1) of a list and its ``_y.txt``; the index must fit the name."""
    names = read_lines(path, "one clip id a line")
    label_path = path.with_name(f"{path.stem}_y.txt")
    labels = read_lines(label_path, f"the labels of {path.name}")
    if len(names) != len(labels):
        raise DataError(f"{label_path}: {len(labels)} labels for the {len(names)} clips of {path.name}")
    for name, label in zip(names, labels, strict=True):
        if not re.fullmatch("[0-9]{1,6}", label) or int(label) != parse_name(name)["action"] - 1:
            raise DataError(f"{label_path}: label {label!r} of {name}, expected its A number - 1")
    return {name: int(label) for name, label in zip(names, labels, strict=True)}


def parse_name(name: str) -> dict[str, int]:
    """Return setup, subject and action of a name like S018C003P043R001A104. Raises DataError for another form."""
    match = NAME.match(name)
    if match is None:
        raise DataError(f"clip {name}: expected a name like S018C003P043R001A104")
    return {key: int(value) for key, value in match.groupdict().items()}


def subject_of(name: str) -> str:
    """Return the performer of a clip, P and three digits."""
    return f"P{parse_name(name)['subject']:03d}"


def read_actions(path: Path) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Return action index -> (class name, captions) of ``ntu_metadata.json``; the index is the A number - 1.

    Raises DataError for another form, and for an action that comes twice.
    """
    data: Any = read_json(path, "class names and captions")
    actions: dict[int, tuple[str, tuple[str, ...]]] = {}
    rows = data.get("actions") if isinstance(data, dict) else None
    for row in rows if isinstance(rows, list) else [None]:
        name, tag, captions = (row.get(key) if isinstance(row, dict) else None for key in ("action", "tag", "captions"))
        texts = tuple(captions) if isinstance(captions, list) else (None,)
        told = all(isinstance(text, str) for text in texts)
        if not (isinstance(name, str) and name and isinstance(tag, str) and _TAG.fullmatch(tag) and told):
            raise DataError(
                f"{path}: expected actions with action (text), tag (A001) and captions (texts), got {str(row)[:60]}"
            )
        if int(tag[1:]) - 1 in actions:
            raise DataError(f"{path}: action {tag} comes twice; keep one")
        actions[int(tag[1:]) - 1] = (name, texts)
    return actions


def _load(root: Path, name: str, label: int, fps: float) -> list[ReadClip]:
    captions = tuple(c for texts in read_captions(root / "texts" / f"{name}.txt").values() for c in texts)
    features, frames = read_features(root / "new_joint_vecs" / f"{name}.npy", fps)
    return [ReadClip(Clip(name, features, captions, label, subject_of(name)), frames)]
