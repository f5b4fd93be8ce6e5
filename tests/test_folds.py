"""Dev by k folds of the shots: who is held out, that nothing held out is trained on, and what a trial leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kinemic import scoring, stages
from kinemic.bundle import GeneratorBundle
from kinemic.cli import run as command
from kinemic.config import ExperimentConfig, TrialSeeds
from kinemic.data.check import check_split
from kinemic.data.splits import TrialData, hold_out, load_trial_data
from kinemic.errors import ConfigError, DataError
from kinemic.inputs import prepare_inputs, prepare_trial_data
from kinemic.judges import judge_file, load_judge
from kinemic.metrics import brier_score
from kinemic.predictions import Predictions
from kinemic.reading import parse, with_values
from kinemic.report import TrialInputs
from kinemic.trial import run_trial
from tests.toy import TOY

SEEDS = (TrialSeeds(judge=(0, 1)),)


def experiment(**split: Any) -> ExperimentConfig:
    plain = {"classes": ["wave", "squat", "kick"], "shots": 4, "train_subjects": ["s01", "s02"], "folds": 2}
    target = TOY["data"]["target"] | {"clips": 48}  # two a subject
    return parse(ExperimentConfig, TOY | {"data": TOY["data"] | {"target": target, "split": plain | split}}, "toy")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def inputs(cache: Path) -> TrialInputs:
    return replace(prepare_inputs(experiment(), cache), stages=None)


def test_a_subject_is_held_out_whole_where_that_is_possible() -> None:
    labels = np.array([0, 1] * 6)
    subjects = [f"s{i // 4}" for i in range(12)]
    folds = hold_out(labels, subjects, 3)
    assert sorted(set(folds.tolist())) == [0, 1, 2]
    for subject in set(subjects):
        assert len({int(f) for f, s in zip(folds, subjects, strict=True) if s == subject}) == 1


@pytest.mark.parametrize(
    "subjects",
    [
        ["s1"] * 6 + ["s2"] * 6,  # fewer people than folds
        [None] * 12,
        ["a", "b"] * 6,  # each class has a person of its own, who can't be held out whole
    ],
)
def test_else_every_fold_has_its_share_of_every_class(subjects: list[str | None]) -> None:
    folds = hold_out(np.array([0, 1] * 6), subjects, 3)
    for fold in range(3):
        assert np.bincount(np.array([0, 1] * 6)[folds == fold]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        ({"dev_subjects": ["s04"]}, ConfigError, "give folds .* or dev clips, not both"),
        ({"folds": 5}, DataError, "4 shots for 5 folds"),
        ({"folds": 1}, ConfigError, "folds"),
    ],
)
def test_what_folds_can_not_be_is_refused(
    split: dict[str, Any], error: type[Exception], message: str, cache: Path
) -> None:
    with pytest.raises(error, match=message):
        prepare_trial_data(experiment(**split).data, cache)


def test_folds_that_share_people_are_said_to(cache: Path) -> None:
    shared = load_trial_data(prepare_trial_data(experiment(train_subjects=["s01"], shots=2).data, cache))
    assert [f.example for f in check_split(shared) if f.what == "subjects in train and in dev"] == ["s01"]
    apart = load_trial_data(prepare_trial_data(experiment().data, cache))
    assert apart.shared_subjects == ()


def test_every_shot_is_scored_once_by_what_never_saw_it(
    inputs: TrialInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def note(data: TrialData) -> None:
        seen.append(({data.corpus.names[i] for i in data.train}, {data.corpus.names[i] for i in data.dev}))

    def spy(function: Callable[..., Any], data_of: Callable[[Any], TrialData]) -> Callable[..., Any]:
        return lambda first, *args: (note(data_of(first)), function(first, *args))[1]

    monkeypatch.setattr(stages, "start_adaptation", spy(stages.start_adaptation, lambda material: material.data))
    monkeypatch.setattr(scoring, "_scored", spy(scoring._scored, lambda data: data))
    data = load_trial_data(inputs.trial_data)
    reports = list(run_trial(inputs, experiment().trial, SEEDS, tmp_path))
    shots = {data.corpus.names[i] for i in data.train}
    folds, whole = [pair for pair in seen if pair[1]], [pair for pair in seen if not pair[1]]
    for train, dev in folds:
        assert train | dev == shots
        assert not train & dev
    held_out = {frozenset(dev) for _, dev in folds}
    assert len(held_out) == 2
    assert frozenset.union(*held_out) == shots
    assert whole == [(shots, set())]  # the generator that the trial leaves
    confusion = json.loads((tmp_path / "artifacts" / "confusion.json").read_text())
    assert np.sum(confusion["rows_are_truth"]) == len(shots) * len(SEEDS[0].judge)
    right, judged = np.trace(confusion["rows_are_truth"]), np.sum(confusion["rows_are_truth"])
    assert reports[-1].dev_accuracy == pytest.approx(right / judged)
    said = Predictions.load(tmp_path / f"rung-{reports[-1].steps}" / "predictions.safetensors")
    assert sorted(said.labels) == sorted(data.corpus.labels[data.train])
    assert reports[-1].brier_ensemble == pytest.approx(brier_score(said.ensemble, said.labels))


def test_the_generator_and_the_judges_are_of_all_shots(inputs: TrialInputs, tmp_path: Path) -> None:
    data = load_trial_data(inputs.trial_data)
    for name, change in {"adapted": {}, "real": {"synthesis.clips_per_class": 0}}.items():
        config = with_values(experiment().trial, {"judge.keep": True, "adapt.rungs": (2,), **change})
        list(run_trial(inputs, config, SEEDS, tmp_path / name))
        for number in range(2):
            assert load_judge(judge_file(tmp_path / name, number)).score([data.corpus.joints(0)])[0].shape == (1, 3)
    bundle = GeneratorBundle.load(tmp_path / "adapted")
    assert [len(lengths) for lengths in bundle.lengths] == [4, 4, 4]


def test_a_trial_by_folds_goes_on_with_the_same_numbers(inputs: TrialInputs, tmp_path: Path) -> None:
    whole = list(run_trial(inputs, experiment().trial, SEEDS, tmp_path / "a"))
    next(iter(run_trial(inputs, experiment().trial, SEEDS, tmp_path / "b")))
    again = list(run_trial(inputs, experiment().trial, SEEDS, tmp_path / "b"))
    assert [(r.accuracies, r.losses) for r in again] == [(r.accuracies, r.losses) for r in whole]


@pytest.mark.parametrize(
    ("counted", "said", "adaptations"),
    [
        ({"trials": 24}, "24 trials will take", 24 * 2 + 24),
        ({"trials": 24, "repetitions": 3}, "24 trials will take", 24 * 6 + 24),
        ({"trials": 4, "again": 6}, "4 trials and 6 runs on fresh seeds will take", 10 * 2 + 10),
        ({"again": 6}, "2-fold: 6 runs on fresh seeds will take", 6 * 2 + 6),
    ],
)
def test_the_cost_counts_adaptations(counted: dict[str, int], said: str, adaptations: int) -> None:
    cost = experiment().data.split.cost(**counted)
    assert said in cost
    assert f"at most {adaptations} adaptations" in cost
    assert parse(ExperimentConfig, TOY, "toy").data.split.cost(**counted) == experiment().data.split.cost() == ""


def test_a_trial_adapts_as_often_as_was_said(
    inputs: TrialInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []
    start = stages.start_adaptation
    monkeypatch.setattr(stages, "start_adaptation", lambda *args: (begun.append(args), start(*args))[1])
    seeds = tuple(TrialSeeds(adaptation=k, judge=(0,)) for k in range(2))
    list(run_trial(inputs, experiment().trial, seeds, tmp_path))
    assert f"at most {len(begun)} adaptations" in experiment().data.split.cost(trials=1, repetitions=2)


def test_every_command_says_the_cost_before_anything_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    for words, cost in {
        ("search", "run"): "24 trials and 15 runs on fresh seeds",
        ("search", "noise"): "48 runs on fresh seeds",
        ("trial", "--out", str(tmp_path / "out")): "1 trial",
    }.items():
        extra = {"name": "toy", "space": {"synthesis.guidance": {"type": "float", "low": 1, "high": 5}}}
        data = TOY["data"] | {"source": {"format": "corpus", "path": str(tmp_path / "nowhere")}}
        data["split"] = {"classes": ["wave", "squat", "kick"], "shots": 4, "folds": 2}
        values = TOY | {"data": data} | (extra if words[0] == "search" else {})
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
        assert command([*words, *runs, str(tmp_path / "toy.yaml")]) == 2
        first, *_, last = capsys.readouterr().err.splitlines()
        assert first.startswith(f"dev is 2-fold: {cost} will take"), words
        assert "nowhere" in last
