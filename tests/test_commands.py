"""The commands of ``kinemic``, driven as a user does on the toy experiment: what they write, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kinemic import checkpoint, cli
from kinemic.bundle import GeneratorBundle
from kinemic.config import TrialConfig, TrialSeeds
from kinemic.data.corpus import Corpus
from kinemic.data.splits import load_trial_data
from kinemic.errors import DataError
from kinemic.judge_profiles import PROFILES
from kinemic.prior import load_prior
from kinemic.report import TrialInputs
from kinemic.trial import run_trial
from tests.toy import TOY


@pytest.fixture(scope="module", autouse=True)
def sparing_judge() -> Iterator[None]:
    """Let the judge take one generated clip a class, so that it leaves some out."""
    usual = PROFILES["smoke"]
    PROFILES["smoke"] = dataclasses.replace(usual, max_generated_per_class=1)
    yield
    PROFILES["smoke"] = usual


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the experiment ``toy.yaml``, whose ``runs`` the tests share."""
    folder = tmp_path_factory.mktemp("commands")
    trial = TOY["trial"] | {"adapt": TOY["trial"]["adapt"] | {"rungs": [1]}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(TOY | {"trial": trial, "seeds": {"judge": [0]}}))
    return folder


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    assert experiment("adapt", place, "--out", place / "bundle") == 0
    return place / "bundle"


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    assert experiment("trial", place, "--out", place / "trial") == 0
    return place / "trial"


def run(*arguments: object) -> int:
    return cli.run([str(a) for a in arguments])


def experiment(command: str, place: Path, *arguments: object) -> int:
    return run(command, place / "toy.yaml", "--runs", place / "runs", "--device", "cpu", *arguments)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that an error is, after the progress bars."""
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        *("data check", "data prepare", "data split", "pretrain", "prior import", "prior show"),
        *("mine", "adapt", "generate", "classify", "trial"),
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    assert "Options:" in capsys.readouterr().out


def test_a_trial_reports_its_rungs_and_is_replayed(
    place: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (finished / "generator.safetensors").exists()
    report = (finished / "rung-1" / "report.json").read_text()
    assert experiment("trial", place, "--out", finished) == 0
    out = capsys.readouterr().out
    assert "1/1" in out
    assert "at most 1 generated clips a class" in out  # a warning of the trial
    assert (finished / "rung-1" / "report.json").read_text() == report


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("trial.synthesis.guidance=1.5", "trial.synthesis.guidance is 2.5 there, 1.5 here"),
        ("trial.adapt.rungs=[1, 2]", "trial.adapt.rungs"),
        ("trial.synthesis.clips_per_class=0", "trial.synthesis.clips_per_class"),
        ("seeds.generation=7", "seeds.0.generation"),
        ("data.split.shots=1", "inputs.trial_data"),
        ("prior.pretrain.steps=1", "inputs.prior.pretrain.steps is 3 there, 1 here"),
    ],
)
def test_a_folder_of_another_trial_is_not_replayed(
    setting: str, where: str, place: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment("trial", place, "--out", finished, "--set", setting) == 2
    line = error(capsys)
    assert "another trial" in line
    assert where in line


def test_a_folder_of_a_trial_that_failed_at_once_is_free(place: Path, tmp_path: Path) -> None:
    nothing = "trial.loss={rec: 0, contrastive: 0, window_rec: 0}"
    assert experiment("trial", place, "--out", tmp_path, "--set", nothing) == 2
    assert experiment("trial", place, "--out", tmp_path) == 0


def test_a_trial_that_is_stopped_says_how_to_go_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kinemic.inputs.prepare_inputs", lambda *_: signal.raise_signal(signal.SIGINT))
    assert experiment("trial", place, "--out", tmp_path / "out") == 130
    assert error(capsys) == "stopped; finished rungs are kept, the same command goes on from there"


def test_without_mining_terms_the_floor_leaves_the_same_classes_out(place: Path, tmp_path: Path) -> None:
    off = ("--set", "trial.loss.contrastive=0", "--set", "trial.loss.window_rec=0")
    assert experiment("adapt", place, "--out", tmp_path, *off, "--set", "trial.mining.floor=0.763") == 0
    assert GeneratorBundle.load(tmp_path).able == [0, 2]


@pytest.mark.parametrize("command", ["adapt", "trial"])
def test_a_place_that_cant_be_written_to_is_refused_before_any_work(
    command: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kinemic.inputs.prepare_inputs", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    assert experiment(command, place, "--out", tmp_path / "file") == 2
    assert "cannot be written" in error(capsys)


def test_generated_clips_are_read_again_by_the_judge(
    place: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", bundle, "-n", 2, "--out", tmp_path, "--device", "cpu", "--sampling-steps", 99)
    assert run("generate", "--action", "kick", "--action", "wave", "--action", "kick", *options) == 0
    out = capsys.readouterr().out
    assert "wrote 4 clips" in out
    assert "sampling_steps 99 is above the 10 diffusion steps" in out
    assert (tmp_path / "clips.gif").exists()
    assert (tmp_path / "clips.png").exists()
    rows = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["kick", "kick", "wave", "wave"]
    assert {row["frames"] for row in rows} <= {n for c in GeneratorBundle.load(bundle).lengths for n in c}
    assert experiment("classify", place, "--synthetic", tmp_path) == 0
    out = capsys.readouterr().out
    assert "standard error" in out
    assert "2 of 4 used" in out


def test_the_judge_alone_needs_no_prior_and_no_encoder(place: Path, tmp_path: Path) -> None:
    assert run("classify", place / "toy.yaml", "--runs", tmp_path, "--device", "cpu") == 0
    assert {folder.name for folder in (tmp_path / "cache").iterdir()} == {"corpora", "trial-data"}


def test_generated_clips_of_a_class_that_is_not_there_are_refused(
    place: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "--model", bundle, "-n", 1, "--out", tmp_path, "--device", "cpu") == 0
    assert experiment("classify", place, "--synthetic", tmp_path, "--set", "data.split.classes=[wave, squat]") == 2
    assert "class 'kick' is not in this experiment" in error(capsys)


@pytest.mark.parametrize("odd", [{"label": 3}, {"set": ["clips"]}, {"subject": 7}])
def test_an_odd_line_of_joint_files_is_named(
    odd: dict[str, Any], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "--model", bundle, "-n", 1, "--out", tmp_path, "--device", "cpu") == 0
    lines = (tmp_path / "clips.jsonl").read_text().splitlines()
    (tmp_path / "clips.jsonl").write_text("\n".join([json.dumps(json.loads(lines[0]) | odd), *lines[1:]]))
    assert run("data", "prepare", tmp_path, "--out", tmp_path / "packed") == 2
    assert "clips.jsonl, line 1" in error(capsys)


@pytest.mark.parametrize("change", ["tensor", "setting", "shape"])
def test_a_bundle_that_is_not_whole_is_refused(
    change: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, meta = checkpoint.load(bundle / "generator.safetensors")
    if change == "tensor":
        del tensors["text.1"]
    elif change == "setting":
        meta["trial"]["no_such"] = 1
    else:
        meta["model"]["width"] = 8
    checkpoint.save(tmp_path / "b.safetensors", tensors, meta)
    assert run("generate", "--model", tmp_path / "b.safetensors", "--out", tmp_path / "g", "--device", "cpu") == 2
    assert ("other sizes ask for (8, 263)" if change == "shape" else "not a whole generator") in error(capsys)


def test_mining_shows_captions(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment("mine", place, "--set", "trial.mining.top_k=99", "--show", 1) == 0
    out = capsys.readouterr().out
    assert "squat" in out
    assert "top_k 99 is above" in out
    assert experiment("mine", place, "--caption", "a person kicks", "--show", 1) == 0
    assert "kicks" in capsys.readouterr().out


def test_data_is_prepared_checked_and_split(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "prepare", place / "toy.yaml", "--out", tmp_path) == 0
    capsys.readouterr()
    assert run("data", "check", place / "toy.yaml") == 0
    assert "dev clips" in capsys.readouterr().out
    (tmp_path / "odd.yaml").write_text((place / "toy.yaml").read_text().replace("s03", "s99"))
    with pytest.raises(SystemExit, match="1"):
        run("data", "check", tmp_path / "odd.yaml")
    assert "subject 's99' has no clip" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "odd.yaml").unlink()
    target = next(path for path in tmp_path.iterdir() if Corpus.open(path).role == "target")
    options = ("--dev-subject", "s03", "--shots", 2, "--class", "wave", "--class", "kick")
    assert run("data", "split", target, "--out", tmp_path / "split", *options) == 0
    assert run("data", "split", target, "--out", tmp_path / "split", *options) == 0  # drawn again in its place
    assert len(load_trial_data(tmp_path / "split").train) == 4
    capsys.readouterr()
    assert run("data", "split", target, "--out", target, *options) == 2
    assert "role target" in error(capsys)
    assert Corpus.open(target).role == "target"


def test_a_prior_is_pretrained_described_and_imported(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prior.safetensors"
    assert experiment("pretrain", place, "--out", file) == 0
    assert run("prior", "show", file, "--plot", tmp_path / "loss.png") == 0
    shown = capsys.readouterr().out
    assert '"kind": "prior"' in shown
    assert f"loss: {load_prior(file).meta['losses'][0]:.4f} over the first 100 steps" in shown
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (700, 400)
    prior = load_prior(file)
    torch.save(prior.model.state_dict(), tmp_path / "model.pt")
    np.save(tmp_path / "Mean.npy", prior.statistics.mean_F)
    np.save(tmp_path / "Std.npy", prior.statistics.std_F)
    (tmp_path / "args.json").write_text(json.dumps({"diffusion_steps": 50, "num_heads": 2, "mask_frames": True}))
    imported = tmp_path / "imported.safetensors"
    options = ("--statistics", tmp_path, "--encoder", prior.encoder_id, "--out", imported)
    assert run("prior", "import", tmp_path / "model.pt", *options) == 0
    assert run("prior", "show", imported, "--plot", tmp_path / "none.png") == 2
    assert "keeps no loss curve" in error(capsys)
    there, again = checkpoint.load(file)[0], checkpoint.load(imported)[0]
    assert there.keys() == again.keys()
    assert all(torch.equal(there[name], again[name]) for name in there)


def test_a_key_that_is_no_word_is_no_traceback(place: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("1: x\n" + (place / "toy.yaml").read_text())
    assert run("mine", tmp_path / "odd.yaml", "--runs", place / "runs", "--show", 1) == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", "--model", "nowhere"], "no such checkpoint"),
        (["prior", "show", "nowhere"], "no such checkpoint"),
        (["trial", "nowhere.yaml", "--out", "x"], "give the path of a YAML file"),
        (["data", "check", "nowhere"], "no such folder"),
        (["data", "split", "nowhere", "--out", "x"], "no such folder"),
    ],
)
def test_what_is_missing_is_named(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert line in error(capsys)
    assert not list(tmp_path.iterdir())


def test_a_text_encoder_of_older_code_is_not_used_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = place / "runs" / "cache" / "encoders"
    assert experiment("mine", place, "--show", 1) == 0
    before = len(list(encoders.iterdir()))
    monkeypatch.setattr("kinemic.text_tfidf.VERSION", -1)
    assert experiment("mine", place, "--show", 1) == 0
    assert len(list(encoders.iterdir())) == before + 1


def test_a_gpus_peak_memory_starts_anew_with_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    nowhere = Path("nowhere")
    for device in ("cpu", "cuda:1"):
        trial = run_trial(TrialInputs(*[nowhere] * 5), TrialConfig(), (TrialSeeds(),), nowhere, device)
        with pytest.raises(DataError, match="nowhere"):
            next(iter(trial))
    assert reset == ["cuda:1"]
