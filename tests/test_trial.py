"""A whole trial on a toy corpus: what it reports and leaves, that it goes on exactly, and that the firewall holds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinemic import scoring
from kinemic.bundle import GeneratorBundle
from kinemic.classify import JudgeReport
from kinemic.config import TrialConfig, TrialSeeds
from kinemic.data.splits import load_trial_data, make_test_data
from kinemic.diagnostics import class_ratios
from kinemic.errors import CheckpointError, ConfigError, DataError, FirewallError
from kinemic.inputs import prepare_inputs
from kinemic.judges import load_classifier
from kinemic.motion import Statistics
from kinemic.motion_range import LIMBS
from kinemic.prior import load_prior, save_prior
from kinemic.reading import with_values
from kinemic.report import REPORTS, RungReport, TrialInputs
from kinemic.stages import ADAPTED
from kinemic.store import DATABASE, STAGES
from kinemic.trial import run_trial
from tests.toy import toy_experiment

EXPERIMENT = toy_experiment()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def inputs(cache: Path) -> TrialInputs:
    return prepare_inputs(EXPERIMENT, cache)


@pytest.fixture(scope="module")
def finished(inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RungReport]]:
    workdir = tmp_path_factory.mktemp("trial")
    return workdir, list(run_trial(inputs, EXPERIMENT.trial, EXPERIMENT.seeds, workdir))


def comparable(report: RungReport) -> RungReport:
    return replace(report, seconds={}, peak_memory_mb=0.0)


def test_every_rung_is_scored_on_dev_once_a_judge_seed(finished: tuple[Path, list[RungReport]]) -> None:
    _, reports = finished
    assert [(r.rung, r.steps, r.total_steps) for r in reports] == [(0, 2, 4), (1, 4, 4)]
    for report in reports:
        assert len(report.accuracies) == EXPERIMENT.judge_seeds
        assert all(0 <= a <= 1 for a in report.accuracies)
        assert len(report.log_likelihoods) == len(report.briers) == EXPERIMENT.judge_seeds
        assert {"adapt", "synthesise", "classify"} <= report.seconds.keys()
        assert {"loss", "rec", "contrastive", "window_rec"} <= report.losses.keys()
        assert report.pool_sizes == (5, 5, 5)


def test_the_judge_is_told_which_clips_are_real(
    inputs: TrialInputs, finished: tuple[Path, list[RungReport]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, told, judged = load_trial_data(inputs.trial_data), [], scoring.judge

    def spy(joints: Any, *args: Any, real: int) -> JudgeReport:
        told.append((len(joints), real))
        return judged(joints, *args, real=real)

    monkeypatch.setattr(scoring, "judge", spy)
    made = GeneratorBundle.load(finished[0]).generate(None, 2, seed=0)
    scoring.score_on(data, made, EXPERIMENT.trial.judge, [0], "cpu")
    scoring.score_on(data, None, EXPERIMENT.trial.judge, [0], "cpu")
    assert told == [(6 + 6, 6), (6, 6)]


def test_a_finished_trial_leaves_its_first_classifier(
    inputs: TrialInputs, finished: tuple[Path, list[RungReport]]
) -> None:
    data = load_trial_data(inputs.trial_data)
    classifier, classes = load_classifier(finished[0])
    logits, _ = classifier.score([data.corpus.joints(i) for i in data.dev])
    right = logits.argmax(axis=1) == data.corpus.labels[data.dev]
    assert classes == data.corpus.classes
    assert right.mean() == pytest.approx(finished[1][-1].accuracies[0])


def test_a_finished_trial_leaves_pictures_and_a_bundle_that_needs_nothing_else(
    finished: tuple[Path, list[RungReport]], tmp_path: Path
) -> None:
    workdir, reports = finished
    names = {file.name for file in (workdir / "artifacts").iterdir()}
    pictures = {"confusion.png", "clips.gif", "clips.png"}
    assert names == {"pools.json", "mined.json", "per_class.json", "confusion.json", "motion.json"} | pictures
    motion = json.loads((workdir / "artifacts" / "motion.json").read_text())
    assert {row["class"] for row in motion} == {"wave", "squat", "kick"}
    assert [row["limb"] for row in motion] == 3 * [*LIMBS]
    assert reports[0].diagnostics == {}
    ratios = class_ratios(motion, "generated")
    assert reports[-1].diagnostics["motion_range_generated_over_real"] == pytest.approx(np.median(ratios))
    assert {"motion_range_mined_over_real", "spread_generated_over_real"} <= reports[-1].diagnostics.keys()
    confusion = json.loads((workdir / "artifacts" / "confusion.json").read_text())
    dev = 3 * 3  # classes, dev subjects with one clip each
    assert np.sum(confusion["rows_are_truth"]) == dev * EXPERIMENT.judge_seeds
    classes = json.loads((workdir / "artifacts" / "per_class.json").read_text())
    assert [row["class"] for row in classes] == ["wave", "squat", "kick"]
    mined = json.loads((workdir / "artifacts" / "mined.json").read_text())
    pools = dict(zip(("wave", "squat", "kick"), reports[-1].pool_sizes, strict=True))
    assert [(row["class"], row["rank"]) for row in mined] == [(c, k) for c in pools for k in range(1, pools[c] + 1)]
    assert np.mean([row["dev_accuracy"] for row in classes]) == pytest.approx(reports[-1].dev_accuracy)
    bundle = GeneratorBundle.load(workdir)
    assert bundle.classes == ("wave", "squat", "kick")
    made = bundle.generate([bundle.class_index("kick")], 3, seed=5)
    assert made.labels.tolist() == [2, 2, 2]
    assert {len(clip) for clip in made.features} <= set(bundle.lengths[2])
    again = bundle.generate(None, 1, seed=5)
    np.testing.assert_allclose(again.features[2], made.features[0], atol=1e-4)  # a clip doesn't depend on its company
    with pytest.raises(ConfigError, match=r"'jump'.*wave, squat, kick"):
        bundle.class_index("jump")


def test_a_trial_that_was_cut_off_goes_on_with_the_same_numbers(
    inputs: TrialInputs, finished: tuple[Path, list[RungReport]], tmp_path: Path
) -> None:
    _, whole = finished
    alone = replace(inputs, stages=None)  # nothing is shared with the other trial
    first = next(iter(run_trial(alone, EXPERIMENT.trial, EXPERIMENT.seeds, tmp_path)))
    assert comparable(first) == comparable(whole[0])
    resumed = list(run_trial(alone, EXPERIMENT.trial, EXPERIMENT.seeds, tmp_path))
    assert resumed[0] == first  # replayed, not run again
    assert comparable(resumed[1]) == comparable(whole[1])


def test_a_trial_goes_on_on_another_device(
    inputs: TrialInputs, finished: tuple[Path, list[RungReport]], tmp_path: Path
) -> None:
    _, whole = finished
    alone = replace(inputs, stages=None)
    first = next(iter(run_trial(alone, EXPERIMENT.trial, EXPERIMENT.seeds, tmp_path)))
    # As a GPU would have left it: its report says so, and what it has adapted is not taken for the CPU's.
    there = replace(first, device="cuda:0")
    next(tmp_path.glob(REPORTS)).write_text(there.to_json())
    shutil.rmtree(tmp_path / STAGES / ADAPTED)
    resumed = list(run_trial(alone, EXPERIMENT.trial, EXPERIMENT.seeds, tmp_path))
    assert resumed[0] == there
    assert (resumed[1].device, comparable(resumed[1])) == ("cpu", comparable(whole[1]))


def test_a_finished_trial_is_replayed_without_its_inputs(finished: tuple[Path, list[RungReport]]) -> None:
    workdir, whole = finished
    gone = Path("nowhere")
    nothing = TrialInputs(gone, gone, gone, gone, gone)
    assert list(run_trial(nothing, EXPERIMENT.trial, EXPERIMENT.seeds, workdir)) == whole


def test_without_generated_clips_only_the_judge_runs(inputs: TrialInputs, tmp_path: Path) -> None:
    config = with_values(EXPERIMENT.trial, {"synthesis.clips_per_class": 0})
    (report,) = run_trial(inputs, config, EXPERIMENT.seeds, tmp_path)
    assert report.seconds.keys() == {"classify"}
    assert (report.losses, report.pool_sizes) == ({}, ())
    classes = json.loads((tmp_path / "artifacts" / "per_class.json").read_text())
    assert np.mean([row["dev_accuracy"] for row in classes]) == pytest.approx(report.dev_accuracy)


def test_what_a_prior_of_other_statistics_left_is_not_replayed(
    finished: tuple[Path, list[RungReport]], inputs: TrialInputs, tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "trial")
    prior = load_prior(inputs.prior)
    moved = Statistics(prior.statistics.mean_F + 1, prior.statistics.std_F)
    save_prior(replace(prior, statistics=moved), tmp_path / "prior.safetensors")
    other = replace(inputs, prior=tmp_path / "prior.safetensors")
    with pytest.raises(ConfigError, match=r"another trial \(inputs\.prior\.statistics is"):
        next(iter(run_trial(other, EXPERIMENT.trial, EXPERIMENT.seeds, tmp_path / "trial")))


def test_without_mining_terms_nothing_is_mined(inputs: TrialInputs, tmp_path: Path) -> None:
    config = with_values(EXPERIMENT.trial, {"loss.contrastive": 0, "loss.window_rec": 0, "adapt.rungs": [1]})
    (report,) = run_trial(inputs, config, (TrialSeeds(judge=(0,)),), tmp_path)
    assert "mine" not in report.seconds
    assert report.pool_sizes == ()


def test_settings_that_were_clamped_are_reported(inputs: TrialInputs, tmp_path: Path) -> None:
    config = with_values(EXPERIMENT.trial, {"mining.top_k": 1000, "synthesis.sampling_steps": 99, "adapt.rungs": [1]})
    (report,) = run_trial(inputs, config, (TrialSeeds(judge=(0,)),), tmp_path)
    assert any("top_k 1000" in warning for warning in report.warnings)
    assert any("sampling_steps 99" in warning for warning in report.warnings)


def test_a_trial_given_test_clips_fails(inputs: TrialInputs, cache: Path, tmp_path: Path) -> None:
    from kinemic.data.prepare import prepare

    target = prepare(EXPERIMENT.data.target, cache / "corpora", role="target")
    make_test_data(target, load_trial_data(inputs.trial_data), tmp_path / "test", subjects=["s09"])
    leaked = replace(inputs, trial_data=tmp_path / "test")
    with pytest.raises(FirewallError, match="test clips"):
        next(iter(run_trial(leaked, EXPERIMENT.trial, EXPERIMENT.seeds, tmp_path / "trial")))


def test_test_clips_that_a_trial_has_seen_are_refused(inputs: TrialInputs, cache: Path, tmp_path: Path) -> None:
    from kinemic.data.prepare import prepare

    target = prepare(EXPERIMENT.data.target, cache / "corpora", role="target")
    with pytest.raises(FirewallError):
        make_test_data(target, load_trial_data(inputs.trial_data), tmp_path / "test", subjects=["s03"])


def test_a_trials_data_holds_no_clip_but_train_and_dev(inputs: TrialInputs) -> None:
    data = load_trial_data(inputs.trial_data)
    assert set(data.corpus.subjects) == {"s01", "s02", "s03", "s04", "s05"}
    assert len(data.train) == 3 * 2


def test_inputs_are_made_once_and_found_again(inputs: TrialInputs, cache: Path) -> None:
    def stamps() -> dict[Path, Any]:
        files = [path for path in cache.rglob("*") if path.is_file()]
        # That captions were looked up is noted by their file's time.
        return {path: path.read_bytes() if path.suffix == DATABASE else path.stat().st_mtime_ns for path in files}

    before = stamps()
    assert prepare_inputs(EXPERIMENT, cache) == inputs
    assert stamps() == before


def test_a_prior_of_another_encoder_is_refused_with_both(inputs: TrialInputs, cache: Path) -> None:
    other = EXPERIMENT.model_copy(
        update={
            "text": EXPERIMENT.text.model_copy(update={"dim": 8}),
            "prior": EXPERIMENT.prior.model_copy(update={"path": inputs.prior, "pretrain": None}),
        }
    )
    with pytest.raises(CheckpointError, match=r"tfidf-16-.*tfidf-8-|tfidf-8-.*tfidf-16-"):
        prepare_inputs(other, cache)


def test_a_truncated_prior_is_refused(inputs: TrialInputs, cache: Path, tmp_path: Path) -> None:
    broken = tmp_path / "prior.safetensors"
    broken.write_bytes(inputs.prior.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"prior\.safetensors"):
        next(iter(run_trial(replace(inputs, prior=broken), TrialConfig(), (TrialSeeds(),), tmp_path / "trial")))


def test_a_lost_corpus_is_named(inputs: TrialInputs, tmp_path: Path) -> None:
    shutil.copytree(inputs.trial_data, tmp_path / "data")
    (tmp_path / "data" / "features.npy").write_bytes(b"")
    with pytest.raises(DataError, match="data"):
        next(iter(run_trial(replace(inputs, trial_data=tmp_path / "data"), TrialConfig(), (TrialSeeds(),), tmp_path)))
