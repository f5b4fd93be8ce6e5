"""Checkpoints: what goes in comes out, and everything else is a one-line error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kinemic import checkpoint
from kinemic.errors import CheckpointError, InfrastructureError, KinemicError, UnwritableError

META = {"kind": "test", "classes": ["wave", "kick"], "seed": 3, "nested": {"rate": 0.1}}


def saved(path: Path) -> Path:
    weight = torch.arange(6.0).view(2, 3)
    checkpoint.save(path, {"weight": weight, "transposed": weight.t(), "count": torch.tensor(7)}, META)
    return path


def one_line(error: pytest.ExceptionInfo[KinemicError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = saved(tmp_path / "deep" / "a.safetensors")
    tensors, meta = checkpoint.load(path)
    assert meta == META == checkpoint.read_meta(path)
    assert torch.equal(tensors["transposed"], torch.arange(6.0).view(2, 3).t())
    assert tensors["count"].item() == 7


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors")
    checkpoint.save(path, {"weight": torch.ones(1)}, {"kind": "other"})
    assert checkpoint.load(path)[1] == {"kind": "other"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.safetensors")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(InfrastructureError, match="No space left") as error:
        checkpoint.save(path, {"weight": torch.ones(1)}, {})
    one_line(error, path)
    assert checkpoint.load(path)[1] == META
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 60, -3])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    for read in (checkpoint.load, checkpoint.read_meta):
        with pytest.raises(CheckpointError, match="damaged, or not a safetensors file") as error:
            read(path)
        one_line(error, path)


def test_every_byte_counts(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(path)
        one_line(caught, path)


def test_a_part_is_checked_by_itself(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last tensor
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged, weight is not what was written"):
        checkpoint.load(path)
    assert checkpoint.load(path, only=["transposed"])[1] == META


def test_a_file_of_before_digests_opens(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({"weight": torch.ones(1)}, path, metadata={checkpoint.META_KEY: '{"kind": "test"}'})
    assert checkpoint.load(path)[1] == {"kind": "test"} == checkpoint.read_meta(path)


def test_tensors_of_every_kind_have_a_digest(tmp_path: Path) -> None:
    kinds = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)
    tensors = {str(kind): torch.ones(3, 2).to(kind) for kind in kinds} | {"none": torch.empty(0, 4)}
    checkpoint.save(tmp_path / "a.safetensors", tensors, {})
    assert all(
        torch.equal(tensors[name], value) for name, value in checkpoint.load(tmp_path / "a.safetensors")[0].items()
    )


def test_missing_foreign_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint") as error:
        checkpoint.load(tmp_path / "none.safetensors")
    one_line(error, tmp_path)
    save_file({"weight": torch.ones(1)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="written by kinemic") as error:
        checkpoint.load(tmp_path / "foreign.safetensors")
    one_line(error, tmp_path)
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(CheckpointError, match="not a safetensors file") as error:
        checkpoint.load(tmp_path / "text")
    one_line(error, tmp_path)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path)
    one_line(error, tmp_path)
    save_file({"weight": torch.ones(1)}, tmp_path / "bad.safetensors", metadata={checkpoint.META_KEY: "[1]"})
    with pytest.raises(CheckpointError, match="not a mapping") as error:
        checkpoint.load(tmp_path / "bad.safetensors")
    one_line(error, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnwritableError, match="cannot be written") as error:
        saved(tmp_path / "file" / "a.safetensors")
    one_line(error, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UnwritableError, match="cannot be written"):
        saved(tmp_path / "a.safetensors")


def test_require_shows_what_differs_in_nested_values() -> None:
    meta = {"adapt": {"learning_rate": 0.1, "batch_size": 4}}
    with pytest.raises(CheckpointError, match=r"a: adapt\.batch_size is 4, this run needs 8; use"):
        checkpoint.require(meta, {"adapt": {"learning_rate": 0.1, "batch_size": 8}}, Path("a"))
    with pytest.raises(CheckpointError, match=r"a: adapt\.average is None, this run needs 0\.5; use"):
        checkpoint.require(meta, {"adapt": {**meta["adapt"], "average": 0.5}}, Path("a"))


def test_require_shows_both_values() -> None:
    checkpoint.require(META, {"kind": "test", "seed": 3}, Path("a"))
    with pytest.raises(CheckpointError, match=r"a: seed is 3, this run needs 4"):
        checkpoint.require(META, {"kind": "test", "seed": 4}, Path("a"))
    with pytest.raises(CheckpointError, match=r"width is None, this run needs 8"):
        checkpoint.require(META, {"width": 8}, Path("a"))
