"""Damage to numpy's files: values, types and shapes; headers that lie; zip members that no writer writes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fuzz.damage import BYTES, PLACES, Damage

Array = NDArray[Any]
CANARY = "touch ../PWNED"


class Payload:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (CANARY,)


PICKLE = pickle.dumps(Payload())


# --- arrays -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cast:
    """The numbers are of another type."""

    dtype: str

    def __call__(self, array: Array) -> Array:
        if self.dtype == "O":
            return np.array([Payload()] * max(array.size, 1), dtype=object)[: array.size].reshape(array.shape)
        with np.errstate(all="ignore"):
            numbers = array if array.dtype.kind not in "US" else np.arange(array.size).reshape(array.shape)
            return numbers.astype(np.dtype(self.dtype)) if self.dtype[0] not in "VM" else _raw(numbers, self.dtype)


@dataclass(frozen=True)
class Value:
    """One number is another."""

    at: int
    value: float

    def __call__(self, array: Array) -> Array:
        changed = array.copy()
        if array.size and array.dtype.kind not in "US":
            with np.errstate(all="ignore"):
                changed.flat[self.at % array.size] = np.array(self.value).astype(array.dtype)
        return changed


@dataclass(frozen=True)
class Every:
    """Every number is another."""

    value: float

    def __call__(self, array: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.full(
                array.shape, np.array(self.value).astype(array.dtype if array.dtype.kind not in "US" else "f4")
            )


SHAPES: dict[str, Callable[[Array], Array]] = {
    "0-d": lambda a: a.reshape(-1)[0] if a.size else np.array(0.0),
    "empty": lambda a: a[:0],
    "flat": lambda a: a.reshape(-1),
    "transposed": lambda a: a.T,
    "fortran": np.asfortranarray,
    "one axis more": lambda a: a[None],
    "without its last": lambda a: a[:-1],
    "twice": lambda a: np.concatenate([a, a]) if a.ndim else a,
    "reversed": lambda a: a[::-1] if a.ndim else a,
    "repeated": lambda a: np.repeat(a[:1], len(a), axis=0) if a.ndim else a,
    "negated": lambda a: -a if a.dtype.kind == "f" else a,
}


@dataclass(frozen=True)
class Shape:
    """The array is of another shape."""

    how: str

    def __call__(self, array: Array) -> Array:
        return np.asarray(SHAPES[self.how](array)) if array.ndim else array


def _raw(array: Array, dtype: str) -> Array:
    return np.zeros(array.shape, np.dtype(dtype))


DTYPES = (
    *("c8", "c16", "?", "U3", "S3", "O", "i1", "u1", "i4", "i8", "u8", "f2", "f8", ">f4", ">i8", "f16", "V4"),
    *("M8[s]", "U0", "U20"),
)
NUMBERS = (float("nan"), float("inf"), -1.0, 0.0, 0.5, 1e38, -1e38, 1e300, 1e-45, 2.0**31, 2.0**62, 1e6)
ARRAYS: st.SearchStrategy[Callable[[Array], Array]] = st.one_of(
    st.builds(Cast, st.sampled_from(DTYPES)),
    st.builds(Value, PLACES, st.sampled_from(NUMBERS)),
    st.builds(Every, st.sampled_from(NUMBERS)),
    st.builds(Shape, st.sampled_from(sorted(SHAPES))),
)


# --- npy files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """The file holds another array."""

    how: Callable[[Array], Array]

    def __call__(self, data: bytes) -> bytes:
        return npy(self.how(np.load(io.BytesIO(data))))


@dataclass(frozen=True)
class Header:
    """The header says something else than what follows."""

    text: str

    def __call__(self, data: bytes) -> bytes:
        start = data.index(b"}") + 1
        head = self.text.encode("latin1", "replace") + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) % 65536) + head + data[start:].lstrip(b" \n")


_HEADERS = """
'<f4'  False  (1000000000, 263)
'<f4'  False  (1000000000000000000,)
'<f4'  False  (99999999999999999999999,)
'<f4'  False  (-1, 263)
'<f4'  False  ()
'<f4'  False  (0, 263)
'<f4'  False  (1.5,)
'<f4'  False  (True,)
'<f4'  False  3
'<f4'  None  (1,)
'<f4'  True  (3, 263)
'|O'  False  (3,)
[('a', '|O')]  False  (1,)
[('a', '<f4')]  False  (3,)
('<f4', (1000000000,))  False  (1,)
'<f4,<f4'  False  (2,)
'<U1000000000'  False  (3,)
'V2000000000'  False  (1,)
'<M8[s]'  False  (3,)
'x'  False  (3,)
"""
HEADERS = (
    *(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format(*line.split("  "))
        for line in _HEADERS.split("\n")[1:-1]
    ),
    *("{", "[]", "{'descr': '<f4'}", "{1: 2}", "'", "(" * 500, "{'descr': " + "[" * 300 + "]" * 300 + "}", "\x00"),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + "), }",
)
NPY: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Changed, ARRAYS), st.builds(Changed, ARRAYS), st.builds(Header, st.sampled_from(HEADERS)), BYTES
)


def npy(array: Array) -> bytes:
    """Return an array as a file; one of objects is pickled."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


# --- npz files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A member, counted through the archive, is damaged inside."""

    place: int
    how: Damage

    def __call__(self, data: bytes) -> bytes:
        members = _members(data)
        name = sorted(members)[self.place % len(members)]
        return _archive({**members, name: self.how(members[name])})


@dataclass(frozen=True)
class Renamed:
    """A member has another name."""

    place: int
    name: str

    def __call__(self, data: bytes) -> bytes:
        members = _members(data)
        old = sorted(members)[self.place % len(members)]
        return _archive({(self.name if name == old else name): value for name, value in members.items()})


@dataclass(frozen=True)
class Added:
    """There is one member more."""

    name: str
    what: bytes

    def __call__(self, data: bytes) -> bytes:
        file = io.BytesIO(data)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(zipfile.ZipInfo(self.name), self.what)
        return file.getvalue()


@dataclass(frozen=True)
class Directory:
    """Two bytes of a member's entries say something else: at 6 its flags, at 8 its method, from 18 its sizes."""

    place: int
    at: int
    value: int

    def __call__(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
            found = [i for i in range(len(data)) if data.startswith(mark, i)]
            if found:
                at = found[self.place % len(found)] + self.at + shift
                damaged[at : at + 2] = struct.pack("<H", self.value)
        return bytes(damaged)


NAMES = ("../../out.npy", "/tmp/out.npy", "rel", "rel.npy", "start.npy", "\x1b.npy", "a" * 300, "", ".npy", "ids.npy/x")
FIELDS = (4, 6, 8, 14, 18, 20, 22, 24, 26)
NPZ: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Member, PLACES, NPY),
    st.builds(Member, PLACES, NPY),
    st.builds(Member, PLACES, st.builds(Changed, ARRAYS)),
    st.builds(Renamed, PLACES, st.sampled_from(NAMES)),
    st.builds(Added, st.sampled_from(NAMES), st.sampled_from((b"", b"text", PICKLE))),
    st.builds(Directory, PLACES, st.sampled_from(FIELDS), st.sampled_from((0, 1, 9, 12, 14, 64, 97, 99, 65535))),
    BYTES,
)


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return file.getvalue()
