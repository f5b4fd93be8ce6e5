"""Arrays from files that others wrote: nothing is unpickled, and nothing is allocated that a file only claims to hold.

Whatever an npy or npz file does wrong is a DataError of one line that names it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kinemic.errors import DataError, one_line

DEFLATE_RATIO = 1032  # the most that a byte of a deflated file can become

_HEADERS: Mapping[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def load_array(path: Path) -> NDArray[Any]:
    """Map one npy file of floating point numbers, read-only. Raises DataError for anything else."""
    array = map_array(path)
    need_floats(path, path.stem, array)
    return array


def map_array(path: Path) -> NDArray[Any]:
    """Map one npy file, read-only. Raises DataError for anything else."""
    with _reading(path, "npy"):
        return npy.open_memmap(path, mode="r")


def load_arrays(path: Path, keys: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read some arrays of an npz file. Raises DataError for a missing or corrupt file, and for a key that it lacks."""
    with _reading(path, "npz"), zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        lacking = [key for key in keys if f"{key}.npy" not in members]
        if lacking:
            raise DataError(f"{path}: no array {lacking[0]!r}; expected {', '.join(keys)}")
        held = path.stat().st_size
        return {key: _member(archive, f"{key}.npy", held) for key in keys}


def need_floats(path: Path, name: str, array: NDArray[Any]) -> None:
    """Raise DataError for an array that does not hold floating point numbers."""
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: {name} holds {array.dtype} values, expected floating point numbers")


def _member(archive: zipfile.ZipFile, name: str, held: int) -> NDArray[Any]:
    """Read an array; the sizes in its header and in the archive's index are claims until the file bears them out."""
    info = archive.getinfo(name)
    if info.file_size > DEFLATE_RATIO * min(info.compress_size, held) + DEFLATE_RATIO:
        raise ValueError(f"{name} claims {info.file_size} bytes out of {info.compress_size}")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{name} is npy version {version[0]}.{version[1]}")
        shape, _, dtype = _HEADERS[version](file)
        claimed = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
        if min(shape, default=0) < 0 or claimed > info.file_size:
            raise ValueError(f"{name} claims shape {shape} of {dtype}, which is more than it holds")
    with archive.open(info) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    # Of bytes that someone else wrote, numpy's parser, zipfile and its decompressors raise nearly every kind there is.
    except Exception as error:
        why = one_line(error, 120)
        raise DataError(f"{path}: not a readable {kind} file ({why}); fetch or make it again") from error
