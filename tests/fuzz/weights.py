"""Damage to files of weights: safetensors' headers and metadata, and what ``torch.save`` writes besides tensors."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from kinemic.checkpoint import META_KEY
from tests.fuzz.arrays import Payload
from tests.fuzz.damage import BYTES, PLACES, Damage, Document, documents
from tests.fuzz.texts import JSON

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Head:
    """The header of a safetensors file is damaged."""

    how: Document

    def __call__(self, data: bytes) -> bytes:
        return with_header(data, self.how(header(data)))


@dataclass(frozen=True)
class Metadata:
    """What the file says of itself is damaged."""

    how: Document

    def __call__(self, data: bytes) -> bytes:
        entries = json.loads(header(data))
        document = self.how(entries["__metadata__"][META_KEY].encode())
        entries["__metadata__"][META_KEY] = document.decode(errors="replace")
        return with_header(data, json.dumps(entries).encode())


@dataclass(frozen=True)
class Numbers:
    """The numbers of one tensor, of 32 bits, are all the same."""

    place: int
    bits: int

    def __call__(self, data: bytes) -> bytes:
        entries = [entry for name, entry in json.loads(header(data)).items() if name != "__metadata__"]
        first = len(data) - max(entry["data_offsets"][1] for entry in entries)
        start, end = (first + offset for offset in entries[self.place % len(entries)]["data_offsets"])
        return data[:start] + struct.pack("<I", self.bits) * ((end - start) // 4) + data[end:]


def header(data: bytes) -> bytes:
    """Return the header of a safetensors file."""
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def with_header(data: bytes, head: bytes) -> bytes:
    """Return the file with another header."""
    return len(head).to_bytes(8, "little") + head + data[8 + len(header(data)) :]


NAN, INFINITY, LARGE, DENORMAL = 0x7FC00000, 0x7F800000, 0x7F000000, 1
SAFETENSORS: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Metadata, documents(JSON)),
    st.builds(Metadata, documents(JSON)),
    st.builds(Head, documents(JSON)),
    st.builds(Numbers, PLACES, st.sampled_from((NAN, INFINITY, LARGE, DENORMAL, 0))),
    BYTES,
)


# --- torch.save ---------------------------------------------------------------------------------------------------

ODD_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "nan": lambda t: torch.full_like(t, float("nan")),
    "infinite": lambda t: torch.full_like(t, float("inf")),
    "complex": lambda t: t.to(torch.complex64),
    "whole numbers": lambda t: t.to(torch.int64),
    "half": lambda t: t.half(),
    "doubles": lambda t: t.double(),
    "bool": lambda t: t > 0,
    "0-d": lambda t: t.sum(),
    "empty": lambda t: t[:0],
    "one axis more": lambda t: t[None],
    "transposed": lambda t: t.mT if t.ndim > 1 else t,
    "sparse": lambda t: t.to_sparse(),
    "on meta": lambda t: t.to("meta"),
    "larger than memory": lambda t: torch.zeros(1).expand(10**9, 8),
    "a parameter": torch.nn.Parameter,
    "text": lambda t: "text",
    "none": lambda t: None,
    "code": lambda t: Payload(),
}
ODD_STATES: dict[str, Callable[[State], Any]] = {
    "a list": lambda state: list(state.values()),
    "a number": lambda state: 1,
    "no tensors": lambda state: {},
    "numbers for names": lambda state: dict(enumerate(state.values())),
    "nested": lambda state: {"model": state, "model_avg": {}},
    "nested wrongly": lambda state: {"model_avg": [state]},
    "state_dict": lambda state: {"state_dict": state},
    "prefixed": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "code beside": lambda state: {**state, "x": Payload()},
    "a module": lambda state: torch.nn.Linear(2, 2),
    "a tensor": lambda state: torch.zeros(3),
    "odd names": lambda state: {f"{name}\x1b[2J\n": tensor for name, tensor in state.items()},
}


@dataclass(frozen=True)
class Tensor:
    """One tensor is an odd one."""

    place: int
    how: str

    def __call__(self, data: bytes) -> bytes:
        state = _state(data)
        name = sorted(state)[self.place % len(state)]
        return _saved({**state, name: ODD_TENSORS[self.how](state[name])})


@dataclass(frozen=True)
class Saved:
    """What was saved is no plain state."""

    how: str

    def __call__(self, data: bytes) -> bytes:
        return _saved(ODD_STATES[self.how](_state(data)))


def _state(data: bytes) -> State:
    state: State = torch.load(io.BytesIO(data), weights_only=True)
    return state


def _saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


PT: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Tensor, PLACES, st.sampled_from(sorted(ODD_TENSORS))),
    st.builds(Saved, st.sampled_from(sorted(ODD_STATES))),
    BYTES,
)
