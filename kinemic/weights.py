"""Files of weights that other programs wrote: torch files and TorchScript archives. Nothing in them is ever run."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from kinemic.errors import CheckpointError, one_line

_PICKLE = b"\x80"  # how a torch file of before the zip format starts
_CONSTANTS = "constants.pkl"  # what only a TorchScript archive holds, as torch itself tells them apart
_CODE = re.compile(r"^[^/]+/code/.*\.py$")
_MOST_EXPANSION = 4  # times its size that a file may unpack to: torch compresses code, never tensors


def read_torch(path: Path) -> Any:
    """Return what a torch file holds, on the CPU: tensors and plain values, and nothing that would have to be run.

    Raises CheckpointError, in one line, for a file that is missing, damaged, something else, or holds more than that.
    """
    import torch

    check_torch(path)
    if is_torchscript(path):
        raise CheckpointError(f"{path}: a TorchScript archive, as OpenAI's CLIP is; expected a file of plain weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader makes of bytes that are something else
        raise CheckpointError(f"{path}: not a file of plain weights ({reason(error)})") from error


def check_torch(path: Path) -> None:
    """Raise CheckpointError for a file that can be no torch file, or that unpacks to far more than its size."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start.startswith(b"PK"):
            if start.startswith(_PICKLE):
                return
            raise CheckpointError(f"{path}: not a file of plain weights (no torch file); check what was downloaded")
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; give a file of weights") from error
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        why = "cut short or damaged" if isinstance(error, zipfile.BadZipFile) else reason(error)
        raise CheckpointError(f"{path}: not a file of plain weights ({why}); download it again") from error
    if unpacked > _MOST_EXPANSION * (path.stat().st_size + 2**20):
        raise CheckpointError(f"{path}: not a file of plain weights (it unpacks to {unpacked:,} bytes)")


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the format in which OpenAI publishes CLIP."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == _CONSTANTS for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a TorchScript archive, on the CPU. No Python is in it, and its code is never called.

    Raises CheckpointError for a damaged archive, and for one whose code torch would run on reading it.
    """
    import torch

    check_torch(path)
    try:
        with zipfile.ZipFile(path) as archive:
            codes = [archive.read(name) for name in archive.namelist() if _CODE.match(name)]
        if any(b"__setstate__" in code for code in codes):
            raise CheckpointError(f"{path}: a TorchScript archive that runs code when it is read; it is not opened")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would like it exported; OpenAI's archive stays
            state = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    except CheckpointError:
        raise
    except Exception as error:  # as in ``read_torch``
        raise CheckpointError(f"{path}: not a whole TorchScript archive ({reason(error)})") from error
    return {str(name): tensor for name, tensor in state.items()}


def state_dict(state: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict that ``read_torch`` has read.

    Raises CheckpointError for anything else, and for tensors that say to hold more numbers than the file has bytes for.
    """
    import torch

    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors, got something else")
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(f"{path}: {name} is no plain tensor of numbers")
    bytes_said = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if bytes_said > 2 * path.stat().st_size:  # weights that are tied lie in the file once
        raise CheckpointError(f"{path}: says to hold {bytes_said:,} bytes of weights, more than the file has")
    return {str(name): tensor.detach() for name, tensor in state.items()}


def reason(error: BaseException) -> str:
    """Return the cause of a reading error in a few words, without torch's advice to run what is in the file."""
    text = one_line(error)
    code = re.search(r"Unsupported (?:global|class|operand)[^:]*: (?:GLOBAL )?([\w.]+)", text)
    if code:
        return f"it holds {code.group(1)}, and only tensors and plain values are read"
    if text.startswith("Weights only load failed"):
        return "it is damaged, or holds more than tensors and plain values"
    return text[:120]
