"""Options that name a data set of any format, shared by ``kinemic data prepare`` and ``kinemic data check``."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from kinemic.config import (
    CorpusReader,
    GeneratedReader,
    HumanML3DReader,
    IdList,
    JointSet,
    JointsReader,
    NTUReader,
    OnBad,
    Reader,
    Units,
    UpAxis,
)
from kinemic.errors import ConfigError, DataError
from kinemic.reading import load_experiment, parse

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("auto", "corpus", "humanml3d", "ntu", "joints", "generated")


@dataclass(frozen=True)
class Named:
    """A data set that a command was given: its name, how to read it, and what it serves as where that is told."""

    name: str
    reader: Reader
    role: Any = None


def reader_options(command: Command) -> Command:
    """Add PATH and everything that says how to read it."""
    for decorator in (
        click.option("--seed", type=int, default=0, show_default=True, help="generated: seed of the clips."),
        click.option(
            "--clips",
            type=click.IntRange(1),
            default=None,
            help="generated: clips in all (source, default 600) or per class (target, default 40).",
        ),
        click.option(
            "--ids",
            metavar="FILE[:KEY]",
            default=None,
            help="joints: only these clips; a text file, or a JSON file and a dotted key.",
        ),
        click.option(
            "--npz",
            multiple=True,
            metavar="NAME",
            help="joints: set to read, repeatable.  [default: every npz of the folder]",
        ),
        click.option("--task", default="xsub", show_default=True, help="ntu: folder of lists under the shots folder."),
        click.option("--shots-folder", default="S0000", show_default=True, help="ntu: folder under splits/fewshot."),
        click.option(
            "--split",
            default="train",
            show_default=True,
            help="humanml3d: name of the list file; 'every' takes every clip there is.",
        ),
        click.option(
            "--drop", metavar="FILE[:KEY]", default=None, help="Leave these clips out, such as those of check --list."
        ),
        click.option(
            "--on-bad",
            type=click.Choice(typing.get_args(OnBad)),
            default=None,
            help="What to do about clips that can't be used.  [default: stop]",
        ),
        click.option("--fps", type=float, default=None, help="Frame rate of the files; read as 20.  [default: 20]"),
        click.option(
            "--up", type=click.Choice(typing.get_args(UpAxis)), default=None, help="joints: up axis.  [default: y]"
        ),
        click.option(
            "--units", type=click.Choice(typing.get_args(Units)), default=None, help="joints: unit.  [default: m]"
        ),
        click.option(
            "--joints",
            type=click.Choice(typing.get_args(JointSet)),
            default=None,
            help="joints: which joints, in which order.  [default: smpl22]",
        ),
        click.option(
            "--role",
            type=click.Choice(["source", "target"]),
            default=None,
            help="What the clips are for; at least 40 frames (source) or 16 (target), 20 fps.  "
            "[default: as the format says; joints: target]",
        ),
        click.option(
            "--format",
            "format_",
            type=click.Choice(FORMATS),
            default="auto",
            show_default=True,
            help="How the clips are stored; auto looks at the folder.",
        ),
        click.argument("path", type=click.Path(path_type=Path), required=False),
    ):
        command = decorator(command)
    return command


def named_data(
    path: Path | None, format_: str, role: str | None, clips: int | None, seed: int, **told: Any
) -> list[Named]:
    """Return the data sets that the options of ``reader_options`` name: one, or both of an experiment file."""
    if format_ == "generated":
        part: Literal["source", "target"] = "target" if role == "target" else "source"
        count = clips or (600 if part == "source" else 40)
        return [Named(f"generated {part}", GeneratedReader(part=part, clips=count, seed=seed), part)]
    if path is None:
        raise ConfigError("PATH is missing: give a folder, or an experiment's YAML file, or --format generated")
    if is_experiment(path):
        data = load_experiment(path).data
        return [Named("source", data.source, "source"), Named("target", data.target, "target")]
    found = detect(path) if format_ == "auto" else format_
    return [Named(str(path), _reader(path, found, **told), role)]


def is_experiment(path: Path | None) -> bool:
    """Whether PATH is an experiment's YAML file."""
    return path is not None and path.suffix in (".yaml", ".yml")


def detect(path: Path) -> str:
    """Return the format of a folder by what lies in it. Raises DataError where nothing is known of it."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    marks = {
        "corpus": path / "corpus.json",
        "ntu": path / "splits" / "fewshot",
        "humanml3d": path / "new_joint_vecs",
        "joints": path / "clips.jsonl",
    }
    for name, mark in marks.items():
        if mark.exists():
            return name
    raise DataError(
        f"{path}: not a known data set (looked for {', '.join(m.name for m in marks.values())}); give --format"
    )


def detected(path: Path) -> Reader:
    """Return how to read a folder, by what lies in it. Raises DataError where nothing is known of it."""
    return _reader(path, detect(path), "every", shots_folder="S0000", task="xsub", npz=(), ids=None, drop=None)


def id_list(text: str) -> IdList:
    """Return the list that ``FILE`` or ``FILE:KEY`` names."""
    file, colon, key = text.rpartition(":")
    if colon and not Path(text).exists():
        return IdList(file=Path(file), key=key)
    return IdList(file=Path(text))


def _reader(
    path: Path,
    format_: str,
    split: str,
    shots_folder: str,
    task: str,
    npz: tuple[str, ...],
    ids: str | None,
    drop: str | None,
    **told: Any,
) -> Reader:
    """Return the reader of a format; what is ``told`` beyond its own options must be among its keys."""
    settings = {"path": path, **{key: value for key, value in told.items() if value is not None}}
    settings |= {"drop": id_list(drop)} if drop else {}
    match format_:
        case "corpus":
            return parse(CorpusReader, settings, "options of a packed corpus")
        case "humanml3d":
            names = {"split": None if split == "every" else split}
            return parse(HumanML3DReader, settings | names, "options of --format humanml3d")
        case "ntu":
            return parse(NTUReader, settings | {"shots": shots_folder, "task": task}, "options of --format ntu")
        case _:
            files = npz or tuple(sorted(file.name for file in path.glob("*.npz")))
            if not files:
                raise DataError(f"{path}: no npz file in it")
            sets = {"files": tuple(name if name.endswith(".npz") else f"{name}.npz" for name in files)}
            listed = {"ids": id_list(ids)} if ids else {}
            return parse(JointsReader, settings | sets | listed, "options of --format joints")
