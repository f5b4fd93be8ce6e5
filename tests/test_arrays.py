"""Files of arrays that are damaged, lie about what they hold, or hold something else: one line, nothing allocated."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from kinemic.config import JointsReader
from kinemic.data.arrays import load_array, load_arrays
from kinemic.data.prepare import prepare
from kinemic.errors import DataError

KEYS = ("rel", "root", "start", "ids")


def good() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "rel": rng.normal(size=(50, 22, 3)).astype(np.float16),
        "root": rng.normal(size=(50, 3)).astype(np.float32),
        "start": np.array([0, 20, 50]),
        "ids": np.array(["a", "b"]),
    }


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an npy file of a header as it is given, and of a few bytes."""
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes(version) + size + text.encode() + b"\n" + bytes(100)


def write(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def with_rel(content: bytes) -> Callable[[Path], None]:
    return lambda path: write(path, {name: npy(array) for name, array in good().items()} | {"rel": content})


def with_array(**arrays: object) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **(good() | arrays))  # type: ignore[arg-type]


def flipped(offset: int, value: bytes) -> Callable[[Path], None]:
    """Return what overwrites bytes of the first member, in its own header and in the index of the archive."""

    def damage(path: Path) -> None:
        write(path, {name: npy(array) for name, array in good().items()})
        content = bytearray(path.read_bytes())
        index = content.index(b"PK\x01\x02")
        for start in (offset, index + offset + 2):
            content[start : start + len(value)] = value
        path.write_bytes(content)

    return damage


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
FAULTS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "a shape of terabytes": (with_rel(header(SHAPE % "(1000000000, 22, 3)")), "more than it holds"),
    "a shape beyond any integer": (with_rel(header(SHAPE % f"({10**30}, 22, 3)")), "not a readable npz file"),
    "a negative shape": (with_rel(header(SHAPE % "(-1, 22, 3)")), "more than it holds"),
    "an open bracket": (with_rel(header("{'descr': '<f4', 'shape': (")), "not a readable npz file"),
    "brackets without end": (with_rel(header("(" * 5000)), "not a readable npz file"),
    "another version": (with_rel(header(SHAPE % "(1,)", (3, 0))), "npy version 3.0"),
    "no npy": (with_rel(b"plain text"), "not a readable npz file"),
    "a pickle": (with_array(rel=np.array([{"a": 1}], dtype=object)), "not a readable npz file"),
    "encrypted": (flipped(6, b"\x01"), "encrypted"),
    "a method that nobody knows": (flipped(8, b"\x63"), "not a readable npz file"),
    "a size that no file could hold": (
        flipped(18, struct.pack("<II", 6600, 2**31)),
        "claims 2147483648 bytes",
    ),
    "complex numbers": (with_array(rel=good()["rel"].astype(np.complex64)), "rel holds complex64 values"),
    "truth values": (with_array(rel=good()["rel"] > 0), "rel holds bool values"),
    "texts": (with_array(rel=good()["rel"].astype(np.str_)), "rel holds <U32 values, expected floating point"),
    "whole numbers": (with_array(root=np.zeros((50, 3), np.int64)), "root holds int64 values, expected floating point"),
    "float starts": (with_array(start=np.array([0.0, 20.0, 50.0])), "start holds float64 values, expected whole"),
    "one id": (with_array(ids=np.array("a")), r"ids \(n\), got .*ids \(\)"),
    "ids of bytes": (with_array(ids=np.array([b"a", b"b"])), r"ids holds \|S1 values, expected texts"),
    "starts that fall": (with_array(start=np.array([0, 60, 50], np.uint64)), "start must rise from 0 to the 50 frames"),
    "other joints": (
        with_array(rel=np.zeros((50, 24, 3), np.float32)),
        r"rel \(50, 24, 3\).* of the reader's `joints`, .*smpl24 has 24",
    ),
    "a size beyond any room": (with_array(root=np.full((50, 3), 1e38, np.float32)), "a joint at 1e\\+38 in frame 0"),
    "infinity in half precision": (with_array(rel=np.full((50, 22, 3), np.inf, np.float16)), "NaN or infinite joints"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_npz_file_that_is_damaged_or_lies_is_one_line(fault, tmp_path):
    damage, message = FAULTS[fault]
    damage(tmp_path / "clips.npz")
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps({"id": name, "captions": ["x"]}) + "\n" for name in "ab"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"clips\.npz: .*{message}") as caught:
            prepare(JointsReader(path=tmp_path, files=("clips.npz",)), tmp_path / "cache")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_good_npz_file_is_read_compressed_or_not(tmp_path):
    for name, save in (("plain.npz", np.savez), ("small.npz", np.savez_compressed)):
        save(tmp_path / name, **good())
        for key, array in load_arrays(tmp_path / name, KEYS).items():
            np.testing.assert_array_equal(array, good()[key])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(SHAPE % "(1000000000, 263)"), "not a readable npy file"),
        (header("{'descr': '<f4', 'shape': ("), "not a readable npy file"),
        (npy(np.ones((60, 263), np.complex64)), "holds complex64 values"),
        (npy(np.ones((60, 263), np.int32)), "holds int32 values"),
        (npy(np.full((60, 263), "1.0")), "holds <U3 values"),
        (npy(np.array([{"a": 1}], dtype=object)), "not a readable npy file"),
        (b"", "not a readable npy file"),
    ],
)
def test_an_npy_file_that_is_damaged_or_no_motion_is_one_line(content, message, tmp_path):
    (tmp_path / "000001.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"000001(\.npy)?.*{message}") as caught:
        load_array(tmp_path / "000001.npy")
    assert "\n" not in str(caught.value)
