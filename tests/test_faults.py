"""What the machine refuses is told apart from what is wrong with the input, by what a real kernel answers."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from kinemic import checkpoint
from kinemic.data.packing import replacing_folder
from kinemic.errors import CheckpointError, DataError, InfrastructureError, UnwritableError
from kinemic.faults import refusal
from kinemic.files import new_folder, replacing, write_text
from kinemic.text import CachedEncoder, TfidfEncoder, save_encoder
from search.failures import BAD_DATA, BUG, INFRASTRUCTURE, classify
from tests.disks import full_disk
from tests.toy import toy_experiment

LARGE = 100_000  # bytes, above what a full disk takes
ENCODER = TfidfEncoder.fit(["a person waves", "a person kicks", "a man squats"], 2)


def save(path: Path) -> None:
    checkpoint.save(path, {"weight": torch.zeros(LARGE)}, {})


def save_arrays(path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, a=np.zeros(LARGE))


def save_in(folder: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with folder(path) as fresh:  # type: ignore[attr-defined]
            (fresh / "features.npy").write_bytes(b"0" * LARGE)

    return write


def embed(path: Path) -> None:
    CachedEncoder(ENCODER, path).encode([f"a person waves {i} times" for i in range(1000)])


def keep_encoder(path: Path) -> None:
    save_encoder(TfidfEncoder.fit([f"word{i} and word{i + 1}" for i in range(900)], 2), toy_experiment().text, path)


WRITES: dict[str, Callable[[Path], None]] = {
    "checkpoint": save,
    "text": lambda path: write_text(path, "x" * LARGE),
    "arrays": save_arrays,
    "folder": save_in(new_folder),
    "corpus": save_in(replacing_folder),
    "caption cache": embed,
    "encoder": keep_encoder,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(write: Callable[[Path], None], tmp_path: Path) -> None:
    with full_disk(), pytest.raises(InfrastructureError, match=f"{tmp_path}/new.*: cannot be written") as caught:
        write(tmp_path / "new")
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)
    assert classify(caught.value).kind == INFRASTRUCTURE
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".sqlite"]
    write(tmp_path / "new")


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_place_that_cant_be_written_to_is_the_users_to_mend(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match=r"cannot be written \(.*\); choose another place") as caught:
        write(tmp_path / "file" / "new")
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert classify(caught.value).kind == INFRASTRUCTURE  # a trial's places are the search's own


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), INFRASTRUCTURE),
        (OSError(errno.ESTALE, "Stale file handle", "/nfs/prior"), INFRASTRUCTURE),
        (raised(DataError("clip: can't be read"), OSError(errno.EIO, "Input/output error")), INFRASTRUCTURE),
        (raised(CheckpointError("prior: damaged"), FileNotFoundError(errno.ENOENT, "No such file")), BAD_DATA),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "clip"), BUG),
        (sqlite3.OperationalError("no such table"), BUG),
    ],
)
def test_a_failure_is_of_the_kind_of_what_it_began_with(error: Exception, kind: str) -> None:
    assert classify(error).kind == kind


def test_what_is_read_while_something_is_written_keeps_its_own_error(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "a" / "new") as temporary:
            temporary.write_bytes((tmp_path / "gone").read_bytes())

    with pytest.raises(FileNotFoundError, match="gone"):
        write()


def test_a_database_that_another_process_holds_is_the_machines_fault(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "db")) as holder,
        closing(sqlite3.connect(tmp_path / "db", timeout=0)) as db,
    ):
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
            db.execute("CREATE TABLE a (b)")
    assert refusal(caught.value) == "database is locked"
