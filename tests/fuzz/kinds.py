"""The kinds of input: a valid example, what damages it, and the commands that read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from kinemic.config import TrialConfig
from kinemic.reading import leaf_paths
from tests.fuzz import clip
from tests.fuzz.arrays import NPY, NPZ
from tests.fuzz.damage import BYTES, PLACES, Damage, documents
from tests.fuzz.examples import NAME
from tests.fuzz.tables import STUDY
from tests.fuzz.texts import JSON, YAML, YAML_HEADS
from tests.fuzz.weights import PT, SAFETENSORS

Command = tuple[str, ...]
Files = Sequence[tuple[str, st.SearchStrategy[Damage]]]


@dataclass(frozen=True)
class Case:
    """One input: a copy of an example with damaged files, and the command that reads it, run in the copy.

    Where it is ``signed``, the damage is on purpose: digests fit it.
    """

    example: str
    damage: tuple[tuple[str, Damage], ...]
    command: Command
    signed: bool = False


# --- lines of text ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a text is damaged."""

    place: int
    how: Damage

    def __call__(self, data: bytes) -> bytes:
        lines = data.split(b"\n")
        place = self.place % max(len(lines) - 1, 1)
        lines[place] = self.how(lines[place]) if lines[place] else b""
        return b"\n".join(lines)


@dataclass(frozen=True)
class Again:
    """One line comes twice."""

    place: int

    def __call__(self, data: bytes) -> bytes:
        lines = data.split(b"\n")
        place = self.place % len(lines)
        return b"\n".join([*lines[: place + 1], *lines[place:]])


@dataclass(frozen=True)
class Part:
    """One part of a line, between ``#``, is another."""

    place: int
    text: str

    def __call__(self, data: bytes) -> bytes:
        parts = data.split(b"#")
        parts[self.place % len(parts)] = self.text.encode()
        return b"#".join(parts)


PARTS = (
    "",
    "inf",
    "-inf",
    "nan",
    "1e400",
    "-1",
    "0.0",
    "1",
    "2",
    "1e9",
    "1e-9",
    "²",
    "\uff10",
    "1_0",
    "x",
    "a/DET",
    "\ufeff",
    " ",
    "\x1c",
)
NUMBERED = ("0", "-1", "²", "٣", "9" * 5000, "1.0", "", "x", "+1", "1_0", "000", "200")
NAMES = (
    "../out",
    "/",
    "S",
    "S001C001P001R001A001",
    "S٣٣٣C001P001R001A001",
    "a" * 300,
    "\ufeff000001",
    "S000C000P000R001A001x",
)
JSON_LINES = st.one_of(
    st.builds(Line, PLACES, documents(JSON)), st.builds(Line, PLACES, documents(JSON)), st.builds(Again, PLACES), BYTES
)
CAPTIONS = st.one_of(
    st.builds(Line, PLACES, st.builds(Part, PLACES, st.sampled_from(PARTS))),
    st.builds(Line, PLACES, BYTES),
    st.builds(Again, PLACES),
    BYTES,
)
LABELS = st.one_of(
    st.builds(Line, PLACES, st.builds(Part, PLACES, st.sampled_from(NUMBERED))), st.builds(Again, PLACES), BYTES
)
IDS = st.one_of(
    st.builds(Line, PLACES, st.builds(Part, PLACES, st.sampled_from(NAMES))), st.builds(Again, PLACES), BYTES
)


# --- kinds --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A valid example, damage to its files, the commands that read it, and arguments to damage those by."""

    example: str
    files: Files
    commands: Sequence[Command]
    arguments: st.SearchStrategy[Command] = field(default_factory=lambda: st.just(()))

    @property
    def cases(self) -> st.SearchStrategy[Case]:
        """Cases with one or two damaged files."""
        one = st.one_of([st.tuples(st.just(file), damage) for file, damage in self.files] or [st.nothing()])
        some = st.lists(one, min_size=1, max_size=2, unique_by=lambda damage: damage[0]).map(tuple)
        commands = st.tuples(st.sampled_from(list(self.commands)), self.arguments).map(
            lambda parts: parts[0] + parts[1]
        )
        return st.builds(Case, st.just(self.example), some if self.files else st.just(()), commands, st.booleans())


CPU = ("--device", "cpu")
NOWHERE = ("--runs", "file/runs")  # below a file nothing can be written: what is right so far is refused there
READ = (("data", "check", "set"), ("data", "prepare", "set", "--out", "out"))
EXPERIMENT = (
    ("data", "check", "mine.yaml"),
    ("mine", "mine.yaml", "--show", "1", *CPU),
    ("search", "run", "mine.yaml", *NOWHERE),
    ("trial", "mine.yaml", "--out", "file/out", *CPU, *NOWHERE),
)
SEARCH = (
    *(("search", command, NAME) for command in ("status", "best", "resume", "contenders", "confirm")),
    ("search", "report", NAME, "--out", "out.html"),
    ("search", "export", NAME, "out", "--no-register"),
)
TEXT = json.dumps({"encoder": "open_clip", "architecture": clip.NAME, "pretrained": "clip.pt"})


def _settings() -> st.SearchStrategy[Command]:
    paths = [f"trial.{path}" for path in leaf_paths(TrialConfig)]
    paths += ["data.split.shots", "data.split.classes", "data.source.path", "text.dim", "text", "seeds", "seeds.judge"]
    paths += ["space.mining.top_k.high", "space.mining.threshold.choices", "space", "budget.trials", "storage", "name"]
    texts = st.one_of(st.sampled_from(YAML), st.text(), st.integers().map(str), st.floats().map(str))
    settings = st.builds("{}={}".format, st.sampled_from([*paths, "", "a..b", "x", "."]), texts)
    return st.lists(settings.filter(lambda text: "\0" not in text), min_size=1, max_size=3).map(
        lambda found: tuple(argument for text in found for argument in ("--set", text))
    )


def _folder(folder: str, files: Files) -> Files:
    return [(f"{folder}/{name}", damage) for name, damage in files]


CORPUS: Files = (
    *((f"{name}.json", documents(JSON)) for name in ("corpus", "clips", "captions")),
    *((f"{name}.npy", NPY) for name in ("features", "offsets", "labels", "statistics")),
)
BUNDLE = ("--model", "bundle", *CPU)
KINDS: dict[str, Kind] = {
    "yaml": Kind("experiment", [("mine.yaml", documents(YAML, YAML_HEADS))], EXPERIMENT),
    "settings": Kind("experiment", (), EXPERIMENT[1:], _settings()),
    "npz": Kind("npz", [("set/clips.npz", NPZ)], (*READ, (*READ[0], "--role", "source"))),
    "jsonl": Kind("npz", [("set/clips.jsonl", JSON_LINES)], READ),
    "ids": Kind(
        "npz",
        [("ids.txt", IDS), ("ids.json", documents(JSON))],
        [(*command, "--ids", ids) for command in READ for ids in ("ids.txt", "ids.json:a.train")],
    ),
    "humanml3d": Kind(
        "humanml3d",
        _folder(
            "set",
            [
                ("new_joint_vecs/000000.npy", NPY),
                ("texts/000000.txt", CAPTIONS),
                ("train.txt", IDS),
                ("Mean.npy", NPY),
                ("Std.npy", NPY),
            ],
        ),
        READ,
    ),
    "ntu": Kind(
        "ntu",
        _folder(
            "set",
            [
                ("new_joint_vecs/S000C000P000R001A001.npy", NPY),
                ("texts/S000C000P000R001A001.txt", CAPTIONS),
                ("splits/fewshot/S0000/xsub/train.txt", IDS),
                ("splits/fewshot/S0000/xsub/train_y.txt", LABELS),
                ("ntu_metadata.json", documents(JSON)),
            ],
        ),
        READ,
    ),
    "corpus": Kind(
        "experiment",
        (*_folder("source", CORPUS), *_folder("target", CORPUS)),
        (
            *(("data", "check", what) for what in ("source", "target", "mine.yaml")),
            ("data", "split", "target", "--out", "out", "--shots", "1", "--dev-subject", "s02"),
            ("mine", "mine.yaml", "--show", "1", *CPU),
        ),
    ),
    "prior": Kind(
        "experiment",
        [("prior.safetensors", SAFETENSORS)],
        (
            ("prior", "show", "prior.safetensors"),
            ("adapt", "mine.yaml", "--out", "out", "--set", "trial.adapt.rungs=[1]", *CPU),
        ),
    ),
    "public prior": Kind(
        "public",
        [("model.pt", PT), ("model.pt", PT), ("args.json", documents(JSON)), ("Mean.npy", NPY), ("Std.npy", NPY)],
        [("prior", "import", "model.pt", "--statistics", ".", "--out", "out/prior.safetensors")],
    ),
    "text weights": Kind(
        "experiment", [("clip.pt", PT)], [("mine", "mine.yaml", "--set", f"text={TEXT}", "--show", "1", *CPU)]
    ),
    "bundle": Kind(
        "exported",
        [("bundle/generator.safetensors", SAFETENSORS)],
        (
            *(
                ("synth", "write", "--format", layout, *BUNDLE, "-n", "1", "out")
                for layout in ("npz", "humanml3d", "ntu")
            ),
            ("synth", "check", *BUNDLE, "-n", "1"),
            ("generate", *BUNDLE, "-n", "1", "--action", "wave", "--out", "out"),
            ("prior", "show", "bundle/generator.safetensors"),
        ),
    ),
    "state files": Kind(
        "search",
        _folder(
            f"runs/{NAME}",
            [(f"{name}.json", documents(JSON)) for name in ("state", "contenders", "confirmation", "noise")],
        ),
        SEARCH,
    ),
    "search.yaml": Kind("search", [(f"runs/{NAME}/search.yaml", documents(YAML, YAML_HEADS))], SEARCH),
    "study": Kind("search", [(f"runs/{NAME}/study.db", STUDY)], SEARCH),
}
