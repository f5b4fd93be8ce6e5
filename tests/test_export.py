"""The best trial of a search on disk is exported, checked by another process, registered, and loaded by its alias."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.models.utils import _enforce_schema
from safetensors.torch import load_file

from kinemic.bundle import GeneratorBundle
from kinemic.bundle_check import BundleCheck, _judge, _label, check_bundle
from kinemic.cli import run
from kinemic.config import GeneratedReader, SplitConfig
from kinemic.data.corpus import Corpus
from kinemic.data.joints import write_joints
from kinemic.data.prepare import prepare
from kinemic.data.splits import load_trial_data, make_test_data, make_trial_data
from kinemic.errors import ConfigError, KinemicError
from kinemic.judges import load_classifier
from kinemic.metrics import softmax
from kinemic.motion import features_to_joints
from search import study as studies
from search.exported import ExportedModel
from search.folder import SearchFolder, State, settings_of
from search.pyfunc import Predictor
from search.registry import Facts, Registry, find_run, register, signature
from search.tracking import open_tracker
from tests import analytic
from tests.bench import Bench, search
from tests.bundles import CAPTIONS, CLASSES, random_bundle
from tests.judged import JUDGE, train_judge


@dataclass(frozen=True)
class Searched:
    """A finished search as it lies on disk; its trials were analytic, its best generator is a random one."""

    runs: Path
    name: str
    identity: str
    number: int
    generator: Path
    classifier: Path
    shots: Path
    target: Corpus

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.runs / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def export(self, folder: Path, *options: str) -> int:
        return run(["search", "export", self.name, str(folder), "--runs", str(self.runs), *options])

    def versions(self, model: str) -> list[str]:
        return sorted(str(version.version) for version in self.client.search_model_versions(f"name = '{model}'"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Searched:
    runs = tmp_path_factory.mktemp("runs")
    shutil.copyfile(empty_store, runs / "mlflow.db")
    target = prepare(GeneratedReader(part="target", clips=6), runs / "cache")
    split = SplitConfig(classes=CLASSES, shots=2, train_subjects=("s01", "s02", "s03"), dev_subjects=("s04", "s05"))
    shots = make_trial_data(target, split, runs / "shots").path

    config = search(name="mine", storage=None, budget={"trials": 3})
    folder = SearchFolder(runs / "mine")
    folder.create(config)
    bench = Bench(config, folder.path)
    bench.run_all()
    inputs = replace(analytic.inputs(runs), trial_data=shots)
    folder.write_state(
        State(bench.study.study_name, analytic.SOURCE_CLIPS, inputs, "mine-1", settings_of(bench.config))
    )
    best = studies.best_trial(bench.study)
    generator = folder.trials / f"{best.number:04d}" / "generator.safetensors"
    random_bundle().save(generator)
    classifier = generator.with_name("classifier.safetensors")
    train_judge(replace(inputs, cache=generator.parent))
    (generator.parent / JUDGE).rename(classifier)

    done = Searched(runs, "mine", "mine-1", best.number, generator, classifier, shots, target)
    tracker = open_tracker(done.uri, config.tracking.experiment, done.identity, config.name, runs / "mlflow-artifacts")
    tracker.start_trial(best.number, studies.trial_values(best), config.trial)
    tracker.end_trial(best.number, "FINISHED", runs, None)
    assert tracker.close("FINISHED")
    return done


@dataclass(frozen=True)
class Exported:
    folder: Path
    shown: str


@pytest.fixture(scope="module")
def exported(searched: Searched, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export in a process whose own models generate nothing: only a fresh one can check them."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as shown:
        patch.setattr(GeneratorBundle, "generate", lambda *_: pytest.fail("generated in the exporting process"))
        assert searched.export(folder) == 0
    return Exported(folder, shown.getvalue())


def facts(searched: Searched) -> Facts:
    return Facts("mine", searched.number, 0.5, None, CLASSES, "smoke", "tfidf-4-test", 2.5)


@pytest.fixture
def champion(searched: Searched, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", searched.uri)
    return mlflow.pyfunc.load_model("models:/mine@champion")


def test_an_export_says_what_a_fresh_process_found(searched: Searched, exported: Exported) -> None:
    files = {"classifier.safetensors", "generator.safetensors", "config.yaml", "README.md", "check.json"}
    assert {path.name for path in exported.folder.iterdir()} == files
    check = BundleCheck.from_json((exported.folder / "check.json").read_text())
    assert (check.clips, check.clips_per_class) == (12, 4)
    made = random_bundle().generate(None, 4, check.seed)
    assert check.frames == (min(map(len, made.features)), max(map(len, made.features)))
    assert check.verdict is not None
    assert (check.verdict.profile, check.verdict.chance) == ("smoke", pytest.approx(1 / 3))
    assert set(check.verdict.by_class) == set(CLASSES)
    assert np.mean(list(check.verdict.by_class.values())) == pytest.approx(check.verdict.recognised)
    assert check.labelled is not None
    assert check.labelled.profile == "smoke"
    assert check.labelled == _label(exported.folder, searched.shots, "cpu")
    assert f"classifier smoke labels {check.labelled.few_shots:.0%} of the few shots and " in check.line()
    assert f"checked in a fresh process: {check.line()}" in exported.shown
    assert "registered models:/mine@champion, version 1" in exported.shown


def test_the_judge_recognises_real_clips_but_not_under_wrong_labels(searched: Searched) -> None:
    data = load_trial_data(searched.shots)
    real = [data.corpus.joints(i) for i in data.dev]
    labels = data.corpus.labels[data.dev]
    both = np.concatenate([labels, (labels + 1) % 3])
    verdict = _judge(random_bundle(), real * 2, both, searched.shots, "cpu", lambda _: None)
    assert verdict.recognised_dev > verdict.chance
    assert verdict.recognised_dev / 2 <= verdict.recognised <= 0.5


@pytest.mark.parametrize("other", ["test clips", "other classes"])
def test_a_check_takes_the_models_own_few_shots_alone(
    other: str, searched: Searched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if other == "test clips":
        make_test_data(searched.target, load_trial_data(searched.shots), tmp_path / "x", subjects=("s06",))
        line = "holds test clips"
    else:
        split = SplitConfig(classes=CLASSES[:2], shots=1, train_subjects=("s01",), dev_subjects=("s04",))
        make_trial_data(searched.target, split, tmp_path / "x")
        line = "has the classes wave, kick, the model wave, kick, squat"
    assert run(["synth", "check", "--model", str(searched.generator), "--shots", str(tmp_path / "x")]) == 2
    assert line in capsys.readouterr().err


def test_the_confirmed_winner_is_exported_or_the_trial_that_is_named(
    searched: Searched, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = yaml.safe_load((exported.folder / "config.yaml").read_text())["chosen"]
    assert chosen.startswith(f"trial {searched.number}: dev accuracy ")
    for text in (exported.shown, (exported.folder / "README.md").read_text()):
        assert chosen in text
    folder = SearchFolder(searched.runs / "mine")
    winner, named = {0, 1, 2} - {searched.number}
    for number in (winner, named):  # it is told by what it misses
        (folder.trials / f"{number:04d}" / "generator.safetensors").unlink(missing_ok=True)
        (folder.trials / f"{number:04d}" / "classifier.safetensors").unlink(missing_ok=True)
    key = f"trial_{winner}"
    row = {"key": key, "title": "x", "baseline": False, "dev_accuracies": [], "dev_mean": 0.5, "dev_se": None}
    more = {"judge": "temporal", "steps": 1, "repetitions": 2, "judge_seeds": 1, "runs": {}, "rows": [row]}
    folder.confirmation_file.write_text(json.dumps({"search": "mine", "winner": key, **more}))
    try:
        assert searched.export(tmp_path / "model") == 2
        assert f"trial {winner} left no classifier.safetensors" in capsys.readouterr().err
        assert searched.export(tmp_path / "model", "--trial", str(named)) == 2
        assert f"trial {named} left no" in capsys.readouterr().err
    finally:
        folder.confirmation_file.unlink()


@pytest.fixture
def spoilt(searched: Searched) -> Iterator[None]:
    whole = searched.generator.read_bytes()
    model = random_bundle()
    model.model.get_parameter("input_process.poseEmbedding.weight").data.fill_(3e38)
    model.save(searched.generator)
    yield
    searched.generator.write_bytes(whole)


@pytest.mark.usefixtures("spoilt")
def test_a_model_that_cannot_generate_is_not_exported(
    searched: Searched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searched.export(tmp_path / "model", "--register-as", "spoilt") == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: nothing exported, the model fails its check: synthesis: the generator gave NaN")
    assert not list(tmp_path.iterdir())
    assert searched.versions("spoilt") == []


def test_without_the_few_shots_a_model_is_exported_unjudged(
    searched: Searched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(searched.shots, tmp_path / "elsewhere")
    try:
        assert searched.export(tmp_path / "model", "--no-register") == 0
    finally:
        shutil.move(tmp_path / "elsewhere", searched.shots)
    assert json.loads((tmp_path / "model" / "check.json").read_text())["verdict"] is None
    out = capsys.readouterr().out
    assert "not judged, the few shots are not at hand" in out
    assert "registered" not in out


def test_a_name_that_the_registry_refuses_is_one_line(searched: Searched, exported: Exported) -> None:
    registry = Registry(searched.uri, "kinemic", "a/b")
    with pytest.raises(KinemicError, match="can't be registered in MLflow") as caught:
        register(exported.folder, registry, find_run(registry, searched.identity, searched.number), facts(searched))
    assert "--no-register" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_without_the_trials_run_stops_an_export_before_the_check(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.export.check_in_fresh_process", lambda *_: pytest.fail("checked"))
    monkeypatch.setattr("search.registry.TRIAL_TAG", "kinemic.number")  # no run has such a tag
    assert searched.export(tmp_path / "model") == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert "has no run of trial" in line
    assert not list(tmp_path.iterdir())


def test_the_champion_generates_what_the_bundle_does(champion: Any) -> None:
    asked = pd.DataFrame({"action": ["kick", "wave", "kick"], "count": [1, 2, 2]})
    clips = champion.predict(asked, params={"seed": 3})
    assert clips["action"].tolist() == ["kick", "wave", "wave", "kick", "kick"]
    bundle = random_bundle()
    kicks = bundle.generate([1], 3, seed=3)
    ours = clips[clips["action"] == "kick"]
    assert ours["frames"].tolist() == [len(features) for features in kicks.features]
    for joints, features in zip(ours["joints"], kicks.features, strict=True):
        np.testing.assert_array_equal(joints, features_to_joints(features))
    assert set(clips["caption"]) <= {caption for captions in CAPTIONS for caption in captions}
    again = champion.predict(asked[:1], params={"guidance": 9.0, "seed": 3})
    assert again["frames"][0] == clips["frames"][0]
    assert np.abs(again["joints"][0] - clips["joints"][0]).max() > 1e-3  # more than another batch size makes


@pytest.mark.parametrize(
    ("action", "count", "params", "line"),
    [
        ("fly", 1, {}, "action 'fly' is not one that this model knows: wave, kick, squat"),
        ("wave", 0, {}, "expected at least 1, got 0"),
        ("wave", 1, {"guidance": -1.0}, "guidance"),
    ],
)
def test_a_wrong_request_is_named(action: str, count: int, params: dict[str, Any], line: str, champion: Any) -> None:
    with pytest.raises(ConfigError, match=line):
        champion.predict(pd.DataFrame({"action": [action], "count": [count]}), params=params)


def test_the_champion_labels_clips_as_its_classifier_does(
    searched: Searched, exported: Exported, champion: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = load_trial_data(searched.shots).corpus
    clips = [corpus.joints(i) for i in range(4)]
    found = champion.predict(pd.DataFrame({"joints": clips}))
    classifier, classes = load_classifier(exported.folder)
    expected = softmax(classifier.score(clips)[0])
    np.testing.assert_allclose(np.stack(found["probabilities"]), expected, atol=1e-6)
    assert found["label"].tolist() == [classes[c] for c in expected.argmax(axis=1)]
    np.testing.assert_allclose(found["probability"], expected.max(axis=1), atol=1e-6)

    write_joints(tmp_path / "set", clips, ["wave"] * 4, [["a"]] * 4)
    np.save(tmp_path / "one.npy", clips[0])
    out = tmp_path / "labels.csv"
    for path, rows in ((tmp_path / "set" / "clips.npz", 4), (tmp_path / "set", 4), (tmp_path / "one.npy", 1)):
        assert run(["classify", "--model", str(exported.folder), str(path), "--out", str(out)]) == 0
        table = pd.read_csv(out)
        assert len(table) == rows
        if path.is_file():  # a reader's clips end a frame earlier, which serves the velocities of the one before
            assert table["label"].tolist() == found["label"].tolist()[:rows]
            np.testing.assert_allclose(table["probability"], found["probability"][:rows], atol=1e-3)
    assert f"one   {table['label'][0]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out", "x.txt"], "expected a file ending in .csv or .json"),
        (["--set", "trial.mining.top_k=3"], "--set and --synthetic are for training"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_labels_that_cannot_be_given_are_one_line(
    words: list[str], line: str, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "one.npy", np.zeros((20, 22, 3), np.float32))
    assert run(["classify", "--model", str(exported.folder), str(tmp_path / "one.npy"), *words]) == 2
    assert line in capsys.readouterr().err


def test_a_file_of_something_else_is_refused(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "odd.npy", np.zeros((20, 21, 3), np.float32))
    assert run(["classify", "--model", str(exported.folder), str(tmp_path / "odd.npy")]) == 2
    assert "expected joints (frames, 22, 3) or clips of these, got (20, 21, 3)" in capsys.readouterr().err


def test_a_trial_without_a_generator_is_exported_and_names_one_that_has_it(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SearchFolder(searched.runs / "mine")
    other = min({0, 1, 2} - {searched.number})
    workdir = folder.trials / f"{other:04d}"
    shutil.copyfile(searched.classifier, workdir / "classifier.safetensors")
    (workdir / "generator.safetensors").unlink(missing_ok=True)
    monkeypatch.setattr("search.export.check_in_fresh_process", check_bundle)  # a process is started elsewhere
    assert searched.export(tmp_path / "model", "--trial", str(other), "--no-register") == 0
    shown = capsys.readouterr().out
    assert f"trial {other} has no generator: its synthetic clips are generated" in shown
    assert f"kinemic search export mine DIR --trial {searched.number}" in shown
    assert "clips generated" not in shown
    assert not (tmp_path / "model" / "generator.safetensors").exists()
    model = ExportedModel.load(tmp_path / "model")
    assert (model.classes, model.generator) == (CLASSES, None)
    labels = Predictor(model, "cpu").predict(pd.DataFrame({"joints": [np.zeros((20, 22, 3), np.float32)]}))
    assert labels["label"][0] in CLASSES
    with pytest.raises(ConfigError, match="this model has no generator"):
        Predictor(model, "cpu").predict(pd.DataFrame({"action": ["wave"], "count": [1]}))
    labels_only = signature(replace(facts(searched), guidance=None)).inputs
    assert [spec.name for spec in labels_only] == ["joints"]
    for kind in (np.float32, np.float64):  # JSON gives the latter
        assert _enforce_schema(pd.DataFrame({"joints": [np.zeros((20, 22, 3), kind)]}), labels_only) is not None


def test_a_folder_of_an_earlier_version_generates_and_does_not_label(exported: Exported, tmp_path: Path) -> None:
    shutil.copyfile(exported.folder / "generator.safetensors", tmp_path / "generator.safetensors")
    old = Predictor(ExportedModel.load(tmp_path), "cpu")
    assert len(old.predict(pd.DataFrame({"action": ["wave"], "count": [1]}))) == 1
    with pytest.raises(ConfigError, match="exported without a classifier"):
        old.predict(pd.DataFrame({"joints": [np.zeros((20, 22, 3), np.float32)]}))
    with pytest.raises(ConfigError, match=r"to label clips, or action and count.*got colour"):
        old.predict(pd.DataFrame({"colour": ["red"]}))
    assert run(["classify", "--model", str(tmp_path), str(tmp_path / "x.npy")]) == 2


def test_a_model_says_where_it_comes_from_and_what_it_takes(searched: Searched, champion: Any) -> None:
    folder = SearchFolder(searched.runs / "mine")
    best = studies.best_trial(studies.open_study(folder.config(), folder.path, folder.state().study))
    last = studies.reports(best)[-1]
    assert champion.metadata.metadata == {
        "search": "mine",
        "trial": searched.number,
        "dev_accuracy": last.dev_accuracy,
        "dev_accuracy_se": last.dev_accuracy_se,
        "classes": list(CLASSES),
        "classifier": "smoke",
        "encoder_id": "tfidf-4-test",
        "guidance": 2.5,
    }
    run_ = searched.client.get_run(champion.metadata.run_id)
    assert (run_.data.tags["kinemic.trial"], run_.info.status) == (str(searched.number), "FINISHED")
    assert champion.metadata.get_input_schema().input_names() == ["joints", "action", "count"]
    assert {p.name: p.default for p in champion.metadata.get_params_schema().params} == {"seed": 0, "guidance": 2.5}


def test_nothing_is_pickled_and_loading_unpickles_nothing(
    searched: Searched, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", searched.uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/mine@champion", dst_path=str(tmp_path)))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {"", ".yaml", ".txt", ".safetensors", ".md", ".json"}
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert all(load_file(path) for path in weights)  # what a header begins with may look like a pickle
    assert not any(p.read_bytes().startswith(b"\x80") or zipfile.is_zipfile(p) for p in files if p not in weights)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    class Refusing:
        __init__ = refuse

    for module in (pickle, cloudpickle):
        monkeypatch.setattr(module, "load", refuse)
        monkeypatch.setattr(module, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refusing)
    monkeypatch.setattr(pickle, "_Unpickler", Refusing)
    monkeypatch.setattr(torch, "load", refuse)
    model = mlflow.pyfunc.load_model("models:/mine@champion")
    assert len(model.predict(pd.DataFrame({"action": ["squat"], "count": [2]}))) == 2


def test_registering_again_is_a_new_version_that_takes_the_alias(searched: Searched, exported: Exported) -> None:
    registry = Registry(searched.uri, "kinemic", "again")
    for version in ("1", "2"):
        run_ = find_run(registry, searched.identity, searched.number)
        assert register(exported.folder, registry, run_, facts(searched)) == version
        assert str(searched.client.get_model_version_by_alias("again", "champion").version) == version
    assert searched.versions("again") == ["1", "2"]
    assert searched.client.get_model_version("again", "1").tags["kinemic.trial"] == str(searched.number)
