"""The noise of a search, measured on a real Ray with real inputs; the trial is analytic, and its luck is known."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from kinemic import classify
from kinemic.cli import run as command
from kinemic.config import JudgeConfig, TrialConfig, TrialSeeds
from kinemic.data.splits import load_trial_data
from kinemic.errors import ConfigError, DivergedError, KinemicError
from kinemic.judges import judge_file, save_judge
from kinemic.mining_ranges import ranges_of
from kinemic.progress import Progress, silent
from kinemic.reading import with_values
from kinemic.report import RungReport, TrialInputs
from search.again import Run
from search.config import SearchConfig, validate
from search.folder import dump
from search.noise import draw, measure, recognised, seeds
from search.noise_report import Design, Noise, verdict
from search.ranks import Correlation
from search.replay import Replayed
from search.report import render
from search.resources import connected
from search.runner import Prepared, prepare
from search.runner import run as run_search
from search.space import contains, resolve_space
from search.study import open_study
from search.wording import percent
from tests import analytic
from tests.bench import SPACE
from tests.toy import TOY

RUNGS = [4, 8, 16]
DESIGN = Design(configurations=4, adaptations=2, generations=2, judges=2)


def config(**more: Any) -> SearchConfig:
    values = {"name": "toy", "space": SPACE, "trial": {"adapt": {"rungs": RUNGS}}, "pruner": "successive_halving"}
    return validate(TOY | values | more, "toy.yaml")


def failing(inputs: TrialInputs, config: TrialConfig, *rest: Any) -> Iterator[RungReport]:
    """The analytic trial, but that three of the four configurations of this file diverge."""
    if config.synthesis.guidance != 2.5:
        raise DivergedError("loss is nan")
    yield from analytic.run_trial(inputs, config, *rest)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    modules = (analytic, sys.modules[__name__])
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    with connected("local"):
        yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


def measured(runs: Path, prepared: Prepared, design: Design = DESIGN, **more: Any) -> Noise:
    arguments = {"run_trial": analytic.run_trial, "prepared": prepared}
    return measure(config(), runs, design, **(arguments | more))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, _ray: None) -> Path:
    """A folder of searches where the noise of one was measured."""
    runs = tmp_path_factory.mktemp("runs")
    measure(config(), runs, DESIGN, run_trial=analytic.run_trial)
    return runs


@pytest.fixture(scope="module")
def prepared(runs: Path) -> Prepared:
    return prepare(config(), runs, silent)


def computed(runs: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in (runs / "toy" / "noise").rglob(analytic.TRACE)}


def test_what_is_kept_is_what_the_runs_scored_by_rung_configuration_and_seed(runs: Path, prepared: Prepared) -> None:
    found = json.loads((runs / "toy" / "noise.json").read_text())
    inputs, source_clips = prepared
    drawn = draw(config(), resolve_space(config().space, source_clips, "temporal", ranges_of(inputs)), source_clips, 4)
    assert [row["values"] for row in found["configurations"]] == [values for _, values in drawn]
    for row, (contender, _) in zip(found["configurations"], drawn, strict=True):
        expected = [
            [
                analytic.accuracy(contender.config, steps, judge + one.adaptation)
                for one in seeds(0, DESIGN)
                for judge in one.judge
            ]
            for steps in RUNGS
        ]
        assert np.array(row["accuracies"]).shape == (3, 2, 2, 2)
        assert np.reshape(row["accuracies"], (3, 8)) == pytest.approx(np.array(expected))
    assert found["dev_clips"] == len(load_trial_data(inputs.trial_data).dev)
    # The analytic trial's seeds do the same to every configuration, and its rungs rank alike.
    parts = {part["source"]: part for part in found["components"]}
    assert all(
        part["paired_sd"] == pytest.approx(0, abs=1e-9) for name, part in parts.items() if name != "configuration"
    )
    assert parts["judge"]["sd"] > 0.001
    assert [rung["other_seeds"]["value"] for rung in found["rungs"]] == [pytest.approx(1.0)] * 3
    assert [pruning["rungs"] for pruning in found["pruning"]] == [[4], [8], [4, 8]]
    assert all(pruning["replayed"]["lost"] == 0 for pruning in found["pruning"])


def test_the_published_configuration_is_the_first_and_the_others_are_of_the_space() -> None:
    space = resolve_space(config().space, 600, "temporal")
    (first, published), *others = draw(config(), space, 600, 5)
    assert (first.title, published["synthesis.guidance"]) == ("published configuration", 2.5)
    assert len({json.dumps(values) for _, values in others}) == 4
    assert all(contains(space[path], value) for _, values in others for path, value in values.items())


def test_a_space_of_two_configurations_is_one_line() -> None:
    only = config(space={"loss.dynamic_window_weighting": {"type": "categorical", "choices": [True, False]}})
    with pytest.raises(ConfigError, match="2 configurations were found in it, and 3 are the fewest"):
        draw(only, resolve_space(only.space, 600, "temporal"), 600, 8)


def test_seeds_are_nested_and_no_two_alike() -> None:
    found = seeds(0, Design(adaptations=3, generations=2, judges=2))
    assert len({each.adaptation for each in found}) == 3
    assert [each.adaptation for each in found[::2]] == [each.adaptation for each in found[1::2]]
    drawn = [n for each in found for n in (each.generation, *each.judge)] + list({each.adaptation for each in found})
    assert len(set(drawn)) == len(drawn) == 6 + 12 + 3


class Stops:
    """Presses Ctrl-C once a few runs are done."""

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "runs" and progress.done >= 3:
            signal.raise_signal(signal.SIGINT)


def test_interrupted_it_goes_on_where_it_was_and_says_the_cost_first(tmp_path: Path, prepared: Prepared) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, prepared, progress=Stops(), say=said.append)
    assert said[0].startswith(
        "4 configurations x 2 adaptation x 2 generation seeds = 16 runs of 16 steps, 0 of them done"
    )
    assert not (tmp_path / "toy" / "noise.json").exists()
    done = {name for name, trace in computed(tmp_path).items() if len(trace.splitlines()) == len(RUNGS)}
    assert 3 <= len(done) < 16
    measured(tmp_path, prepared, say=said.append)
    counted = next(line for line in said[1:] if line.startswith("4 configurations"))
    assert f"16 runs of 16 steps, {len(done)} of them done" in counted
    assert len(computed(tmp_path)) == 16
    assert all(len(trace.splitlines()) == len(RUNGS) for trace in computed(tmp_path).values())


def test_too_few_configurations_that_run_are_one_line(tmp_path: Path, prepared: Prepared) -> None:
    line = r"1 configurations ran on every seed, and 3 are the fewest .* 3 failed, first configuration_1: diverged: "
    with pytest.raises(KinemicError, match=line) as caught:
        measured(tmp_path, prepared, run_trial=failing)
    assert "\n" not in str(caught.value)


def test_what_each_dev_clip_was_taken_for_is_asked_of_the_judges_that_were_kept(
    tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, judge = load_trial_data(prepared[0].trial_data), JudgeConfig(profile="smoke")
    labels, classes = data.corpus.labels, data.corpus.classes
    joints, own = [data.corpus.joints(i) for i in data.train], labels[data.train]
    rows = [[Run(TrialConfig(), TrialSeeds(judge=(0, 1)), tmp_path / f"{c}-{k}") for k in range(3)] for c in range(2)]
    expected = np.zeros((2, 3, len(data.dev)))
    trained = classify.train_classifier(joints, own, len(classes), judge, seed=0)
    last, rng = trained.model.fc_cls.weight.data, torch.Generator().manual_seed(0)
    for seed, (c, k, j) in enumerate(np.ndindex(2, 3, 2)):
        assert recognised(rows, data) is None  # one is not there yet
        last.normal_(generator=rng)  # another opinion of every clip
        save_judge(trained, judge_file(rows[c][k].workdir, j), classes, seed)
        taken_for = trained.score([data.corpus.joints(i) for i in data.dev])[0].argmax(axis=1)
        expected[c, k] += (taken_for == labels[data.dev]) / 2
    found = recognised(rows, data)
    assert found is not None
    assert found.tolist() == expected.tolist()
    assert len({run.tobytes() for row in expected for run in row}) > 1


TIED = Correlation(math.nan, math.nan, math.nan)
SURE, UNSURE, NONE = Correlation(0.9, 0.7, 1.0), Correlation(0.6, -0.1, 0.9), Correlation(0.1, -0.4, 0.4)


@pytest.mark.parametrize(
    ("replayed", "rung", "last", "worth", "said"),
    [
        (Replayed(0.5, 0.3, 0.0, 0.0), SURE, SURE, "yes", "saves 30% of the compute and loses the best in 0%"),
        (Replayed(0.5, 0.3, 0.0, 0.0), NONE, SURE, "no", r"0.10 \[-0.40, 0.40\]"),
        (Replayed(0.5, 0.3, 0.6, 0.1), UNSURE, SURE, "no", "no better than stopping 50% of the trials at random"),
        (Replayed(0.5, -0.1, 0.0, 0.0), SURE, SURE, "no", "costs more than it saves"),
        (Replayed(0.5, 0.3, 0.0, 0.0), UNSURE, SURE, "unknown", "from 8 configurations: rank correlation"),
        (Replayed(0.5, 0.3, 0.3, 0.1), SURE, SURE, "unknown", "from 8 configurations"),
        (Replayed(0.5, 0.3, 0.0, 0.0), SURE, NONE, "unknown", "seeds move them as much as settings do"),
        (Replayed(0.0, 0.0, 0.0, 0.0), SURE, SURE, "unknown", "stops none of them"),
        (Replayed(0.5, 0.3, 0.0, 0.0), SURE, TIED, "unknown", r"with itself \?"),
    ],
)
def test_a_verdict_is_yes_or_no_where_the_interval_says_so_and_otherwise_can_not_be_told(
    replayed: Replayed, rung: Correlation, last: Correlation, worth: str, said: str
) -> None:
    found, reason = verdict(replayed, rung, last, 8)
    assert found == worth
    assert re.search(said, reason)


def test_the_command_shows_what_was_measured_and_computes_nothing_again(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(dump(config()))
    before = computed(runs)
    options = ["--configurations", "4", "--repetitions", "2", "--runs", str(runs)]
    assert command(["search", "noise", str(file), *options]) == 0
    shown = capsys.readouterr()
    assert "16 runs of 16 steps, 16 of them done" in shown.err
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["configuration", "adaptation", "generation", "judge"]
    assert any(
        line.startswith("successive_halving pruning at 4 and 8 steps is not worth it: scoring") for line in lines
    )
    assert [line.split()[0] for line in lines[-5:]] == ["1", "2", "3", "5", "10"]  # repetitions
    assert "1 (this search)" in lines[-5]
    assert computed(runs) == before


def test_the_search_that_follows_shows_what_was_measured_in_its_report_and_keeps_it_in_mlflow(
    runs: Path, prepared: Prepared, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "toy", tmp_path / "toy")
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    twice = [{"adaptation": k, "judge": [0, 1]} for k in range(2)]
    searched = config(budget={"trials": 1}, contenders={"seeds": 2}, pruner="none", seeds=twice)
    outcome = run_search(searched, tmp_path, run_trial=analytic.run_trial, prepared=prepared)
    study = open_study(searched, outcome.folder.path, outcome.folder.state().study)
    page = " ".join(re.sub("<[^>]*>", " ", render(outcome.folder, study).partition("<h2>Noise</h2>")[2]).split())
    found = Noise.model_validate_json((tmp_path / "toy" / "noise.json").read_bytes())
    for part in found.components[1:]:
        expected = f"{part.source} seed {percent(part.sd)} {percent(part.low)} to {percent(part.high)}"
        assert f"{expected} {percent(part.paired_sd)}" in page
    second = found.detectable[1]
    assert f"2 (this search) {percent(second.by_seeds)} {percent(second.with_clips)}" in page
    assert "under other settings" not in page
    changed = searched.model_copy(update={"trial": with_values(searched.trial, {"adapt.batch_size": 7})})
    outcome.folder.write_config(changed)
    told = "It was measured under other settings: trial.adapt.batch_size was 30 and is 7 now."
    assert told in " ".join(render(outcome.folder, study).split())
    (kept,) = (tmp_path / "mlflow-artifacts").rglob("noise.json")
    assert kept.read_bytes() == outcome.folder.noise_file.read_bytes()
    outcome.folder.noise_file.write_text('{"search": "toy"}')
    with pytest.raises(KinemicError, match=r"noise\.json: damaged .*; delete it, or measure again"):
        render(outcome.folder, study)
