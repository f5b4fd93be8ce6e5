"""The effect is recorded run by run, and what is drawn from the records is what they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import effect, effect_docs
from benchmarks.effect_corpora import record_table
from benchmarks.effect_records import FILE, Place, Record, Recording, Row, settings_of
from benchmarks.effect_runs import Plan, experiment_of, prepared, record, recorded, rows_of, winner_of
from benchmarks.effect_statistics import Results, estimate, worth
from kinemic.config import IdList, SplitConfig, TrialConfig
from kinemic.errors import ConfigError, DataError
from kinemic.judge_profiles import PROFILES
from kinemic.progress import silent
from kinemic.reading import with_values
from kinemic.trial import run_trial
from search import study as studies
from search.config import SearchConfig, validate
from search.contenders import planned_of
from search.folder import SearchFolder, State
from search.folder import settings_of as settings_of_search
from tests import analytic
from tests.bench import Bench, search
from tests.toy import TOY

REAL = "real"  # a baseline that costs no adaptation
PLAN = Plan("toy1", draws=(1, 2), rows=(REAL, "mined_clips"), adaptations=1, classifiers=2)


def toy(shots: int, draw: int, **trial: Any) -> SearchConfig:
    """The toy experiment of a draw as the file of a search that leaves everything but guidance as it is."""
    split = TOY["data"]["split"] | {"shots": shots, "seed": draw}
    space = {"synthesis.guidance": {"type": "float", "low": 1.0, "high": 5.0}}
    whole = {"name": "toy", "space": space, "data": TOY["data"] | {"split": split}, "trial": TOY["trial"] | trial}
    return validate(TOY | whole, "toy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of searches, whose cache the recordings share."""
    return tmp_path_factory.mktemp("runs")


def test_a_recording_goes_on_where_it_was_stopped_and_holds_what_the_trial_reports(tmp_path: Path, runs: Path) -> None:
    file = tmp_path / "effect.json"
    recording = record(PLAN, 1, toy, {}, Recording(file), runs)
    first = next(recording)
    recording.close()  # as by kill -9 in the next run
    lucky = json.loads(file.read_text())
    assert [(r["row"], r["draw"], r["classifier_seed"]) for r in lucky] == [(REAL, 1, 0), (REAL, 1, 1)]
    lucky[0]["accuracy"] = 0.987654  # to be known again
    file.write_text(json.dumps(lucky))
    assert len(PLAN.missing(1, Recording(file))) == 3
    done = list(record(PLAN, 1, toy, {}, Recording(file), runs))
    assert first.run not in [each.run for each in done]
    assert PLAN.missing(1, Recording(file)) == []
    assert list(record(PLAN, 1, toy, {}, Recording(file), runs)) == []
    records = {record.key: record.accuracy for record in Recording(file).records}
    assert len(records) == 8
    assert records["toy1", 1, REAL, 1, 0, 0] == 0.987654
    (last,) = [each for each in done if each.run.place.row == "mined_clips" and each.run.draw == 2]
    config = toy(1, 2)
    inputs = prepared(experiment_of(config), runs)
    trial = rows_of(config, inputs)["mined_clips"]
    (*_, report) = run_trial(inputs, trial, (last.run.seeds,), tmp_path / "alone")
    found = [records["toy1", 1, "mined_clips", 2, 0, seed] for seed in (0, 1)]
    assert found == pytest.approx(report.accuracies, abs=1e-6)
    assert list((runs / "effect").iterdir()) == []  # a run's folder goes when it is recorded


def test_rows_of_other_settings_are_not_mixed_but_what_a_row_does_not_read_may_change(
    tmp_path: Path, runs: Path
) -> None:
    file = tmp_path / "effect.json"
    one = replace(PLAN, draws=(1,))
    list(record(one, 1, toy, {}, Recording(file), runs))
    (settings,) = [row for row in Recording(file).rows.values() if row.row == REAL]
    read = {path for path in settings.settings if not path.startswith("classifier.")}
    assert read == {"synthesis.source", "judge.profile", "judge.augment"}
    assert settings.settings["classifier.frames"] == PROFILES["smoke"].frames

    def changed(shots: int, draw: int) -> SearchConfig:
        return toy(shots, draw, mining={"top_k": 6})

    more = replace(PLAN, draws=(1, 2))
    assert len(list(record(replace(more, rows=(REAL,)), 1, changed, {}, Recording(file), runs))) == 1
    with pytest.raises(ConfigError, match=r"mined_clips of toy1, shots 1, was recorded with mining\.top_k 5, not 6"):
        list(record(more, 1, changed, {}, Recording(file), runs))
    with pytest.raises(ConfigError, match="no row 'winner'; there are real, "):
        list(record(replace(PLAN, rows=("winner",)), 1, toy, {}, Recording(file), runs))


def test_a_run_that_fails_is_told_and_stays_missing(tmp_path: Path, runs: Path) -> None:
    plan = replace(PLAN, draws=(1,), rows=("wild", REAL))
    wild = with_values(toy(1, 1).trial, {"adapt.learning_rate": 1e30, "adapt.grad_clip": 1e30})
    failed, done = record(plan, 1, toy, {"wild": wild}, Recording(tmp_path / "effect.json"), runs)
    assert (failed.run.place.row, failed.accuracies) == ("wild", ())
    assert "toy1-1-wild-1-0: " in failed.line
    assert done.failure == ""
    found = Recording(tmp_path / "effect.json")
    assert [run.place.row for run in plan.missing(1, found)] == ["wild"]
    assert {row.row for row in found.rows.values()} == {REAL}


Finished = tuple[SearchFolder, Bench]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished search of four analytic trials."""
    runs = tmp_path_factory.mktemp("finished")
    config = search(name="mine", storage=None, budget={"trials": 4}, pruner="none", seeds={"judge": [0, 1]})
    folder = SearchFolder(runs / "mine")
    folder.create(config)
    bench = Bench(config, folder.path)
    bench.run_all()
    name, inputs = bench.study.study_name, analytic.inputs(runs)
    folder.write_state(State(name, analytic.SOURCE_CLIPS, inputs, "mine-1", settings_of_search(config)))
    return folder, bench


def test_a_winner_is_taken_from_its_search_and_later_from_what_is_recorded(tmp_path: Path, finished: Finished) -> None:
    folder, bench = finished
    best = studies.best_trial(bench.study)
    winner = winner_of(folder.path)
    assert winner.synthesis.guidance == best.params["synthesis.guidance"]
    assert winner.adapt.rungs == bench.config.trial.adapt.rungs[-1:]
    recording = Recording(tmp_path / "effect.json")
    place = Place("utd10", 1, "winner")
    assert recorded(recording, place, bench.config.trial) == {}
    recording.add(Row.of(place, settings_of(winner, {"text": {"encoder": "x"}})), [])
    assert recorded(Recording(recording.file), place, TrialConfig()) == {"winner": winner}


def test_a_final_table_is_recorded_classifier_by_classifier(tmp_path: Path, finished: Finished) -> None:
    folder, bench = finished
    planned = planned_of(bench.study, bench.config, folder)
    for run in {run for repetitions in planned.values() for run in repetitions}:
        list(analytic.run_trial(analytic.inputs(tmp_path), run.config, (run.seeds,), run.workdir, "cpu", silent))
    recording = Recording(tmp_path / "effect.json")
    assert set(record_table(folder, "generated-3", {}, recording)) >= {"none", "published", "winner"}
    best, steps = winner_of(folder.path), bench.config.trial.adapt.rungs[-1]
    rows = [r for r in recording.records if r.row == "winner"]
    assert len(rows) == bench.config.contenders.seeds * bench.config.judge_seeds
    for row in rows:
        expected = analytic.accuracy(best, steps, row.classifier_seed + row.adaptation_seed)
        assert row.accuracy == pytest.approx(expected, abs=1e-6)
    other = {"text": {"encoder": "another"}}
    with pytest.raises(ConfigError, match=r"was recorded with text\.encoder"):
        record_table(folder, "generated-3", other, recording)
    recording.forget_target("generated-3")  # as --again does
    assert "winner" in record_table(folder, "generated-3", other, recording)


# --- what the records say -----------------------------------------------------------------------------------------


def made_up(target: str, shots: int, row: str, *draws: float, seeds: int = 2, first: int = 1) -> list[Record]:
    """Return records of draws whose seeds are spread evenly about a mean."""
    return [
        Record(
            target=target, shots=shots, draw=draw, row=row, adaptation_seed=a, classifier_seed=2 * a + c,
            accuracy=mean + 0.01 * (2 * a - seeds + 1) + 0.02 * (2 * c - 1),
        )
        for draw, mean in enumerate(draws, first) for a in range(seeds) for c in range(2)
    ]  # fmt: skip


def test_a_draw_is_one_observation_and_that_of_the_search_is_none() -> None:
    none, ours = (0.5, 0.6, 0.7), (0.7, 0.7, 0.9)
    records = [*made_up("utd10", 1, "none", *none), *made_up("utd10", 1, "winner", *ours)]
    records += made_up("utd10", 1, "winner", 0.99, first=0) + made_up("utd10", 1, "none", 0.1, first=0)
    results, place = Results(records), Place("utd10", 1, "winner")
    accuracy, difference = results.accuracy(place), results.difference(place, "none")
    assert accuracy
    assert difference
    assert accuracy.value == pytest.approx(sum(ours) / 3)
    # Differences 0.2, 0.1, 0.2: mean 1/6, deviation sqrt(1/300), and t of 2 degrees of freedom is 4.3027.
    reach = 4.302653 * math.sqrt(1 / 300) / math.sqrt(3)
    assert (difference.value, difference.low, difference.high) == pytest.approx((1 / 6, 1 / 6 - reach, 1 / 6 + reach))
    assert difference.count == 3
    assert results.chosen_on(place) == pytest.approx(0.99)
    assert difference.points == "+16.7 [2.3, 31.0]"


def test_differences_are_of_equal_seeds_only() -> None:
    none, ours = made_up("utd10", 1, "none", 0.5, 0.6, seeds=1), made_up("utd10", 1, "winner", 0.7, 0.7, 0.9)
    difference = Results([*none, *ours]).difference(Place("utd10", 1, "winner"), "none")
    assert difference
    assert difference.count == 2
    # Of the winner's two adaptation seeds the first alone has a partner, and lies 0.01 below their mean.
    assert difference.value == pytest.approx(((0.69 - 0.5) + (0.69 - 0.6)) / 2)
    assert Results(ours).difference(Place("utd10", 1, "winner"), "none") is None
    assert Results(none).difference(Place("utd10", 1, "winner"), "none") is None


def test_a_generated_corpus_is_observed_once_an_adaptation_seed() -> None:
    records = made_up("generated-2", 1, "none", 0.5, first=0, seeds=3)
    accuracy = Results(records).accuracy(Place("generated-2", 1, "none"))
    expected = estimate([0.48, 0.5, 0.52])
    assert accuracy
    assert (accuracy.value, accuracy.low, accuracy.count) == (pytest.approx(0.5), pytest.approx(expected.low), 3)


def test_what_clips_are_worth_is_read_off_the_curve_of_real_shots() -> None:
    curve = {shots: estimate([value, value]) for shots, value in {1: 0.6, 2: 0.8, 5: 0.9}.items()}
    assert [worth(curve, accuracy) for accuracy in (0.5, 0.6, 0.7, 0.8)] == pytest.approx([1, 1, 1.5, 2])
    assert worth(curve, 0.85) == pytest.approx(3.5)
    assert worth(curve, 0.91) == math.inf


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_documents_are_what_is_drawn_from_the_records() -> None:
    results = Results(Recording(FILE).records)
    for file in (effect_docs.RESULTS, effect_docs.README):
        text = file.read_text(encoding="utf-8")
        assert effect_docs.filled(text, results) == text, "draw them again: python -m benchmarks.effect --docs"
    for kept in (FILE, Recording(FILE).settings_file):
        assert not kept.exists() or "/" not in kept.read_text(encoding="utf-8")  # no path of anybody's machine
    with pytest.raises(DataError, match="no table is marked"):
        effect_docs.filled("nothing", results)


def test_tables_and_plot_hold_every_row_by_target_and_shots(tmp_path: Path) -> None:
    records = [*made_up("utd10", 1, "none", 0.5, 0.6, 0.7), *made_up("utd10", 1, "mined_clips", 0.7, 0.7, 0.9)]
    records += [*made_up("utd10", 3, "none", 0.8, 0.8, 0.9), *made_up("utd10", 1, "mined_clips", 0.2, first=0)]
    records += [*made_up("msr10", 1, "none", 0.4, 0.4), *made_up("msr10", 1, "winner", 0.5, 0.5)]
    for corpus, gain in enumerate((0.3, 0.01)):
        records += made_up(f"generated-{corpus}", 2, "none", 0.5, first=0, seeds=5)
        records += [
            r.model_copy(update={"row": "winner", "accuracy": r.accuracy + gain + 0.01 * (-1) ** r.adaptation_seed})
            for r in records[-10:]
        ]
    results = Results(records)
    marked = [f"<!-- {name} -->\nold\n<!-- end -->\n" for name in ("people", "corpora", "effect")]
    file, plot = tmp_path / "results.md", tmp_path / "effect.svg"
    file.write_text("a\n" + "b\n".join(marked))
    effect_docs.write(results, (file,), plot)
    text = file.read_text()
    assert text.startswith("a\n<!-- people -->\n### MSR-Action3D, 10 classes, 1 shot a class, 2 draws")
    assert "old" not in text
    assert "| mined clips as they are | 76.7 | +16.7 [2.3, 31.0] |  | 2.4 | 20.0 |" in text
    assert "| UTD-MHAD, 10 classes | 1 | 60.0 | mined clips as they are | 76.7 | **+16.7 [2.3, 31.0]** |" in text
    assert "| intervals above 0 |  |  |  | 1 of 2 | 0 of 2 |" in text
    assert effect_docs.filled(text, results) == text
    assert "UTD-MHAD, 10 classes" in plot.read_text()
    first = plot.read_bytes()
    effect_docs.draw(results, plot)
    assert plot.read_bytes() == first


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_tells_what_is_missing_and_what_a_user_can_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "effect.json"
    recording, place = Recording(file), Place("utd10", 1, "none")
    recording.add(Row.of(place, {}, 4.0), [r for r in made_up("utd10", 1, "none", 0.5) if r.adaptation_seed == 0])
    words = ["--file", str(file), "--rows", "none,prior", "--draws", "1..3", "--classifiers", "2", "--shots", "1,2"]
    assert effect.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "utd10, shots 1, none: 1 of 6 runs recorded; the rest: 20 s of a core",
        "utd10, shots 1, prior: 0 of 6 runs recorded; the rest: unknown until one was run",
        "utd10, shots 2, none: 0 of 6 runs recorded; the rest: 24 s of a core",
        "utd10, shots 2, prior: 0 of 6 runs recorded; the rest: unknown until one was run",
        "in all more than 1 core-minutes",
    ]
    assert effect.main([*words, "--data", str(tmp_path), "--runs", str(tmp_path)]) == 2
    assert "splits.json: no classes of utd10" in capsys.readouterr().err
    file.write_text("[{}]")
    assert effect.main([*words, "--list"]) == 2
    assert f"{file}: damaged" in capsys.readouterr().err


def test_a_draw_is_a_split_of_the_example_and_only_its_search_knows_test_clips(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"utd27": {"classes": ["wave", "squat"]}}))
    options = effect._parser().parse_args(
        ["--target", "utd27", "--data", str(tmp_path), "--prior", "p", "--set", "trial.mining.top_k=7"]
    )
    config = effect._config_of(options)(3, 2)
    lists = tmp_path / "splits.json"
    train, dev = (IdList(file=lists, key=f"utd27.{key}") for key in ("train_pool", "dev"))
    assert config.data.split == SplitConfig(classes=("wave", "squat"), shots=3, seed=2, train=train, dev=dev)
    assert {config.data.source.path, config.data.target.path} == {tmp_path}
    assert (config.prior.path, config.trial.mining.top_k) == (Path("p"), 7)
    assert config.confirm
    assert config.confirm.test == IdList(file=lists, key="utd27.test")
    assert ".test" not in experiment_of(config).model_dump_json()
