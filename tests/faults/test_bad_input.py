"""Bad input through the command line: one line that says what to do, exit code 2, and no search begun."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kinemic.cli import run
from kinemic.config import ModelConfig
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.prior import Prior, save_prior
from tests.toy import TOY

Search = dict[str, Any]
Spoil = Callable[[Search, Path], None]


def put(search: Search, path: str, value: object) -> None:
    *parents, leaf = path.split(".")
    for part in parents:
        search = search.setdefault(part, {})
    search[leaf] = value


def set_to(path: str, value: object) -> Spoil:
    return lambda search, _: put(search, path, value)


def space_of(path: str, **domain: object) -> Spoil:
    return lambda search, _: search.update(space={path: domain})


def humanml3d(spoil: Callable[[Path], object]) -> Spoil:
    """The source is a HumanML3D folder of one clip, of which something is spoilt."""

    def apply(search: Search, tmp_path: Path) -> None:
        folder = tmp_path / "humanml3d"
        (folder / "new_joint_vecs").mkdir(parents=True)
        (folder / "texts").mkdir()
        rng = np.random.default_rng(0)
        np.save(folder / "new_joint_vecs" / "000001.npy", rng.standard_normal((60, 263)).astype(np.float32))
        (folder / "texts" / "000001.txt").write_text("a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0\n")
        (folder / "train.txt").write_text("000001\n")
        np.save(folder / "Mean.npy", np.zeros(263, np.float32))
        np.save(folder / "Std.npy", np.ones(263, np.float32))
        spoil(folder)
        put(search, "data.source", {"format": "humanml3d", "path": str(folder)})

    return apply


def clip(values: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "new_joint_vecs" / "000001.npy", values)


def with_nan() -> np.ndarray:
    values = np.zeros((60, 263), np.float32)
    values[7, 3] = np.nan
    return values


def prior_file(cut: int | None = None) -> Spoil:
    """A prior that was trained with another text encoder, whole or cut short."""

    def apply(search: Search, tmp_path: Path) -> None:
        config = ModelConfig(width=16, layers=1, heads=2, ff=32, text_dim=16)
        statistics = Statistics(np.zeros(263, np.float32), np.ones(263, np.float32))
        path = tmp_path / "prior.safetensors"
        save_prior(Prior(MDM(config), config, 50, statistics, "open_clip-ViT-B-32-openai"), path)
        path.write_bytes(path.read_bytes()[:cut])
        search["prior"] = {"path": str(path)}

    return apply


CASES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "unknown key": (set_to("budget.trails", 3), ("budget.trails", "did you mean 'trials'")),
    "wrong type": (set_to("budget.trials", "many"), ("budget.trials", "'many'")),
    "space over no path": (space_of("mining.topk", type="int", low=1, high=2), ("mining.topk", "mining.top_k")),
    "low above high": (space_of("mining.top_k", type="int", low=9, high=2), ("mining.top_k", "9", "2")),
    "missing folder": (set_to("data.source", {"format": "humanml3d", "path": "/nowhere/at/all"}), ("/nowhere/at/all",)),
    "corrupt npy": (
        humanml3d(lambda f: (f / "new_joint_vecs" / "000001.npy").write_bytes(b"\x93NUMPY broken")),
        ("000001.npy",),
    ),
    "wrong width": (humanml3d(clip(np.zeros((60, 251), np.float32))), ("000001", "263", "251")),
    "NaN clip": (humanml3d(clip(with_nan())), ("000001", "frame 7")),
    "no caption file": (humanml3d(lambda f: (f / "texts" / "000001.txt").unlink()), ("000001.txt",)),
    "empty class": (set_to("data.split.train_subjects", ["s24"]), ("wave", "s24|shots|clips")),
    "fewer clips than shots": (set_to("data.split.shots", 9), ("wave", "2 clips", "9 shots")),
    "unknown class": (set_to("data.split.classes", ["wave", "levitate"]), ("levitate",)),
    "prior of another encoder": (prior_file(), ("open_clip-ViT-B-32-openai", "tfidf-16-")),
    "truncated prior": (prior_file(cut=5000), ("prior.safetensors",)),
    "missing prior": (set_to("prior", {"path": "/nowhere/prior.safetensors"}), ("/nowhere/prior.safetensors",)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_nothing_is_begun(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = CASES[name]
    search = copy.deepcopy(TOY) | {"name": "bad", "budget": {"trials": 2}}
    spoil(search, tmp_path)
    assert_refused(search, tmp_path, capsys, *words)


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert_refused(copy.deepcopy(TOY) | {"name": "bad"}, tmp_path, capsys, "runs")


def test_a_tracking_server_that_is_away_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound, never listening: a port of ours where nothing answers
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        search = copy.deepcopy(TOY) | {"name": "bad", "tracking": {"uri": uri}}
        assert_refused(search, tmp_path, capsys, uri)


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["search", "ui", "--runs", str(tmp_path), "--port", port]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert port in line
    assert "--port" in line


def assert_refused(search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(search))
    runs = tmp_path / "runs"
    assert run(["search", "run", str(file), "--runs", str(runs)]) == 2
    errors = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    for word in words:
        assert any(option in errors[0] for option in word.split("|")), (word, errors[0])
    assert "Traceback" not in errors[0]
    assert not (runs / "bad").exists()
    assert not (runs / "mlflow.db").exists()
