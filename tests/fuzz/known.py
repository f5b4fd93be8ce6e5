"""Inputs that once were no error of the user's but one of ours: each must be refused."""

from __future__ import annotations

from tests.fuzz import texts
from tests.fuzz.arrays import HEADERS, PICKLE, Added, Cast, Changed, Directory, Header, Member, Shape
from tests.fuzz.damage import Become, Document, Drop, Put
from tests.fuzz.examples import NAME
from tests.fuzz.kinds import CPU, EXPERIMENT, KINDS, Case, Command, Line, Part
from tests.fuzz.tables import Attribute, Cell
from tests.fuzz.weights import Metadata, Saved, Tensor

CHECK, STATUS = ("data", "check", "set"), ("search", "status", NAME)
IMPORT = KINDS["public prior"].commands[0]
MINE = ("mine", "mine.yaml", "--show", "1", *CPU)
IDS, REL, START = 0, 1, 3  # members of an npz set, by name


def _tree(*damage: Put | Drop) -> Document:
    return Document(damage)


def _yaml(text: str) -> Case:
    return Case("experiment", (("mine.yaml", _tree(Put(0, text))),), EXPERIMENT[0])


def _set(how: Member | Added | Directory) -> Case:
    return Case("npz", (("set/clips.npz", how),), CHECK)


def _state(file: str, how: object, command: Command = STATUS) -> Case:
    return Case("search", ((f"runs/{NAME}/{file}", how),), command)  # type: ignore[arg-type]


def _corpus(file: str, how: Header | Document) -> Case:
    return Case("experiment", ((f"target/{file}", how),), ("data", "check", "target"), signed=True)


def _layers(file: str, count: str, example: str, command: Command) -> Case:
    many = _tree(*(Put(place, count) for place in range(30, 4, -1)))
    return Case(example, ((file, Metadata(many)),), command, signed=True)


CASES = {
    "an impossible date": _yaml("2026-02-30"),
    "a time that is none": _yaml("!!timestamp x"),
    "an int that is none": _yaml("!!int abc"),
    "deep YAML": _yaml("[" * texts.DEEP + "]" * texts.DEEP),
    "an alias bomb": _yaml(texts.BOMB),
    "a tag that runs code": _yaml("!!python/object/apply:os.system ['touch ../PWNED']"),
    "a lone surrogate": _yaml(r'"\ud800"'),
    "a header that claims too much": _set(Member(REL, Header(HEADERS[0]))),
    "a header that is no Python": _set(Member(REL, Header("{"))),
    "a header of objects": _set(Member(IDS, Changed(Cast("O")))),
    "ids without an axis": _set(Member(IDS, Changed(Shape("0-d")))),
    "starts with a point": _set(Member(START, Changed(Cast("f8")))),
    "complex joints": _set(Member(REL, Changed(Cast("c8")))),
    "an encrypted member": _set(Directory(0, 6, 1)),
    "a method that nobody has": _set(Directory(0, 8, 99)),
    "a version that nobody has": _set(Directory(0, 4, 97)),
    "an end that is infinite": Case(
        "humanml3d", (("set/texts/000000.txt", Line(0, Part(3, "inf"))),), ("data", "check", "set")
    ),
    "a label that is a digit and no number": Case(
        "ntu", (("set/splits/fewshot/S0000/xsub/train_y.txt", Line(0, Part(0, "²"))),), CHECK
    ),
    "weights that are text": Case("public", (("model.pt", Become(b"text\n")),), IMPORT),
    "weights that run code": Case("public", (("model.pt", Become(PICKLE)),), IMPORT),
    "weights beside code": Case("public", (("model.pt", Saved("code beside")),), IMPORT),
    "weights larger than memory": Case("public", (("model.pt", Tensor(0, "larger than memory")),), IMPORT),
    "statistics with a damaged header": Case("public", (("Std.npy", Header("{")),), IMPORT),
    "a prior of too many layers": _layers("prior.safetensors", "1000000", "experiment", KINDS["prior"].commands[1]),
    "a bundle of too many layers": _layers(
        "bundle/generator.safetensors", "1000000", "exported", KINDS["bundle"].commands[0]
    ),
    "a state that is nothing": _state("state.json", _tree(Put(0, "null"))),
    "a state that is deep": _state("state.json", _tree(Put(0, "[" * texts.DEEP))),
    "contenders that are nothing": _state("contenders.json", _tree(Drop(0))),
    "a contender without a run": _state("contenders.json", _tree(Put(5, "[]"))),
    "a winner without a row": _state("confirmation.json", _tree(Put(6, '"trial_9"')), ("search", "best", NAME)),
    "a confirmation that is no text": _state("confirmation.json", Become(b"\x85")),
    "a study that is empty": _state("study.db", Become(b"")),
    "a study of one byte": _state("study.db", Become(b"]")),
    "a report of another form": _state("study.db", Attribute("trial_user_attributes", 2, _tree(Drop(4)))),
    "a report that is no JSON": _state("study.db", Attribute("trial_user_attributes", 2, _tree(Put(0, "{")))),
    "a value of no kind": _state("study.db", Cell(("trial_intermediate_values", "intermediate_value_type"), 0, "")),
    "a name that is no text": _state("study.db", Cell(("trial_params", "param_name"), 4, b"\xff")),
    "a corpus that claims too much": _corpus("offsets.npy", Header(HEADERS[0])),
    "a corpus of nothing": _corpus("corpus.json", _tree(*(Put(place, "{}") for place in range(12, 0, -1)))),
    "captions that are none": Case("experiment", (("source/captions.json", _tree(Put(2, "null"))),), MINE, signed=True),
}
