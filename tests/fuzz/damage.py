"""Damage to bytes and to documents, as values: each says in its ``repr`` what it does, so that a failure can be read.

A document (YAML, JSON) is damaged as a tree and written again, with the damage as it is: what no writer would write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzz.texts import ODD_BYTES

Damage = Callable[[bytes], bytes]
PLACES = st.integers(0, 4095)  # of a file or tree that is shorter, counted round
REST = 1 << 40


def damaged(data: bytes, damage: Sequence[Damage]) -> bytes:
    """Return ``data`` after one damage after the other."""
    for each in damage:
        data = each(data)
    return data


# --- bytes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flip:
    """One bit is another."""

    at: int
    bit: int

    def __call__(self, data: bytes) -> bytes:
        if not data:
            return data
        changed = bytearray(data)
        changed[self.at % len(data)] ^= 1 << self.bit
        return bytes(changed)


@dataclass(frozen=True)
class Cut:
    """A part is gone."""

    at: int
    length: int

    def __call__(self, data: bytes) -> bytes:
        at = self.at % (len(data) + 1)
        return data[:at] + data[at + self.length :]


@dataclass(frozen=True)
class Insert:
    """Something is in between."""

    at: int
    what: bytes

    def __call__(self, data: bytes) -> bytes:
        at = self.at % (len(data) + 1)
        return data[:at] + self.what + data[at:]


@dataclass(frozen=True)
class Become:
    """All of it is something else."""

    what: bytes

    def __call__(self, data: bytes) -> bytes:
        return self.what


BYTES: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Flip, PLACES, st.integers(0, 7)),
    st.builds(Cut, PLACES, st.sampled_from((1, 2, 7, 64, 1000, REST))),
    st.builds(Insert, PLACES, st.sampled_from(ODD_BYTES)),
    st.builds(Become, st.sampled_from((b"", b"\n", b"null", b"[]", b"{}", b"0", b"\x00" * 64, b"text\n", *ODD_BYTES))),
)


# --- documents ----------------------------------------------------------------------------------------------------


class Text(str):
    """A part of a document that is written as it is."""


class Pairs(list[tuple[str, Any]]):
    """A mapping whose keys may come twice; keys are written as they are."""


Tree = Any  # Pairs, lists, Text and what JSON has besides


@dataclass(frozen=True)
class Put:
    """A value, counted through the tree, is replaced."""

    place: int
    text: str

    def __call__(self, tree: Tree) -> None:
        parent, i = _place(tree, self.place)
        _set(parent, i, Text(self.text))


@dataclass(frozen=True)
class Swap:
    """A value is that of another place."""

    place: int
    other: int

    def __call__(self, tree: Tree) -> None:
        parent, i = _place(tree, self.place)
        _set(parent, i, Text(written(_get(*_place(tree, self.other)))))


@dataclass(frozen=True)
class Drop:
    """A value is gone, with its key."""

    place: int

    def __call__(self, tree: Tree) -> None:
        parent, i = _place(tree, self.place)
        parent[i : i + 1] = [] if parent is not tree else [("", None)]


@dataclass(frozen=True)
class Twice:
    """A value comes a second time, under the same key."""

    place: int

    def __call__(self, tree: Tree) -> None:
        parent, i = _place(tree, self.place)
        parent.insert(i, parent[i])


@dataclass(frozen=True)
class Key:
    """A key is another."""

    place: int
    text: str

    def __call__(self, tree: Tree) -> None:
        parent, i = _place(tree, self.place)
        if isinstance(parent, Pairs):
            parent[i] = (self.text, parent[i][1])


@dataclass(frozen=True)
class Document:
    """What damages a whole document: its tree, then its bytes."""

    tree: tuple[Callable[[Tree], None], ...]
    rest: tuple[Damage, ...] = ()
    head: str = ""

    def __call__(self, data: bytes) -> bytes:
        tree = Pairs([("", _pairs(yaml.safe_load(data)))])
        for damage in self.tree:
            damage(tree)
        text = self.head + written(tree[0][1])
        return damaged(text.encode("utf-8", "surrogatepass"), self.rest)


def written(node: Tree) -> str:
    """Return a tree as JSON, which is YAML too."""
    if isinstance(node, Text):
        return str(node)
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{key}: {written(value)}" for key, value in node) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(written, node)) + "]"
    return json.dumps(node)


def _pairs(node: Any) -> Tree:
    if isinstance(node, dict):
        return Pairs((json.dumps(key), _pairs(value)) for key, value in node.items())
    return [_pairs(value) for value in node] if isinstance(node, list) else node


def _place(tree: Tree, place: int) -> tuple[Any, int]:
    found = list(_places(tree))
    return found[place % len(found)]


def _places(tree: Tree) -> Iterator[tuple[Any, int]]:
    """Yield every value's parent and index, the outer first."""
    for i in range(len(tree)):
        yield tree, i
        value = _get(tree, i)
        if isinstance(value, list):
            yield from _places(value)


def _get(parent: Any, i: int) -> Any:
    return parent[i][1] if isinstance(parent, Pairs) else parent[i]


def _set(parent: Any, i: int, value: Any) -> None:
    parent[i] = (parent[i][0], value) if isinstance(parent, Pairs) else value


def documents(texts: Sequence[str], heads: Sequence[str] = ("",)) -> st.SearchStrategy[Document]:
    """Return damage to a document, with ``texts`` for its values and ``heads`` before it."""
    places = st.integers(0, 255)
    values = st.one_of(
        st.sampled_from(texts), st.integers().map(str), st.floats().map(json.dumps), st.text().map(json.dumps)
    )
    keys = st.one_of(st.sampled_from(texts), st.text(max_size=5).map(json.dumps))
    damage = st.one_of(
        st.builds(Put, places, values),
        st.builds(Put, places, values),
        st.builds(Swap, places, places),
        st.builds(Key, places, keys),
        st.builds(Drop, places),
        st.builds(Twice, places),
    )
    # Most documents stay ones: what is damaged in its bytes is seldom looked at further.
    rest = st.one_of(st.just(()), st.just(()), st.just(()), st.tuples(BYTES))
    head = st.one_of(st.just(""), st.just(""), st.just(""), st.sampled_from(heads))
    return st.builds(Document, st.lists(damage, min_size=1, max_size=3).map(tuple), rest, head)
