"""The benchmark that shows a trial on a GPU: it runs on the CPU too, and needs nothing beside kinemic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from kinemic.device import resolve_device
from kinemic.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
NOT_NEEDED = {"ray", "optuna", "mlflow", "open_clip", "torchvision", "plotly", "search", "cluster"}


def test_it_runs_a_whole_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    for part in ("torch", "MDM", "ST-GCN", "pretrain", "adapt", "synthesise", "classify", "generate", "dev accuracy"):
        assert part in said
    assert said.splitlines()[-1] == "a whole trial ran on cpu"
    assert said.count("by 0.0e+00 of") == 4  # the CPU is compared with itself


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert "cuda:0" in said.err


def test_a_device_without_values_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'meta' is not usable here"):
        resolve_device("meta")


def test_it_imports_nothing_beside_kinemic_and_what_that_needs() -> None:
    script = "import sys, benchmarks.gpu; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not NOT_NEEDED & set(done.stdout.split())
