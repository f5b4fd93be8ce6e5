"""Pretraining a prior: it learns, it resumes exactly, and its file is a prior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kinemic import checkpoint
from kinemic.clips import ClipSet
from kinemic.config import ModelConfig, PretrainConfig
from kinemic.errors import CheckpointError, ConfigError, DivergedError
from kinemic.models.mdm import MDM
from kinemic.pretrain import BUCKET, _Run, bucketed, learning_rate, pretrain, recipe
from kinemic.prior import load_prior
from kinemic.progress import Progress
from kinemic.seeding import derive_seed

ToyClips = Callable[..., ClipSet]
CONFIG = PretrainConfig(
    model=ModelConfig(width=32, layers=1, heads=2, ff=32, text_dim=8),
    diffusion_steps=10,
    steps=6,
    batch_size=8,
    learning_rate=1e-3,
    checkpoint_every=2,
)


class KilledError(Exception):
    """Stands for the process dying."""


@pytest.fixture
def clips(toy_clips: ToyClips) -> ClipSet:
    return toy_clips(30, (20, 40), text_dim=8)


def losses_of(reports: list[Progress]) -> list[float]:
    return [report.values["loss"] for report in reports]


def test_training_lowers_the_loss_and_reports_every_step(clips: ClipSet, tmp_path: Path) -> None:
    reports: list[Progress] = []
    config = CONFIG.model_copy(update={"steps": 60, "learning_rate": 1e-2})
    pretrain(clips, config, tmp_path / "prior.safetensors", "toy", progress=reports.append)
    assert [report.done for report in reports] == list(range(1, 61))
    losses = losses_of(reports)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_the_file_is_a_prior_and_no_partial_one_is_left(clips: ClipSet, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    trained = pretrain(clips, CONFIG, path, "toy")
    loaded = load_prior(path, encoder_id="toy")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert loaded.config == CONFIG.model
    assert loaded.diffusion_steps == CONFIG.diffusion_steps
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])
    assert torch.equal(torch.as_tensor(loaded.statistics.mean_F), clips.mean_F)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_killed_run_continues_bit_for_bit(
    clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    monkeypatch.setattr("kinemic.pretrain.CURVE", 3)
    config = CONFIG.model_copy(update={"average": 0.9, "schedule": "cosine", "optimiser": optimiser})
    reports: list[Progress] = []
    whole = pretrain(clips, config, tmp_path / "whole.safetensors", "toy", progress=reports.append)

    def kill_at_5(report: Progress) -> None:
        if report.done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        pretrain(clips, config, tmp_path / "prior.safetensors", "toy", progress=kill_at_5)
    later: list[Progress] = []
    resumed = pretrain(clips, config, tmp_path / "prior.safetensors", "toy", progress=later.append)
    losses = losses_of(reports)
    assert losses_of(later) == losses[4:]  # from the checkpoint of step 4
    assert resumed.meta["losses"] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])
    assert resumed.meta["losses"] == whole.meta["losses"]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_a_run_of_before_there_were_curves_begins_one(
    clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_at_5(report: Progress) -> None:
        if report.done == 5:
            raise KilledError

    monkeypatch.setattr("kinemic.pretrain.CURVE", 3)
    with pytest.raises(KilledError):
        pretrain(clips, CONFIG, tmp_path / "prior.safetensors", "toy", progress=kill_at_5)
    partial = tmp_path / "prior.partial.safetensors"
    tensors, meta = checkpoint.load(partial)
    checkpoint.save(partial, tensors, {key: value for key, value in meta.items() if key != "losses"})
    later: list[Progress] = []
    resumed = pretrain(clips, CONFIG, tmp_path / "prior.safetensors", "toy", progress=later.append)
    assert min(losses_of(later)) <= resumed.meta["losses"][0] <= max(losses_of(later))


def test_a_partial_run_of_another_recipe_is_refused(clips: ClipSet, tmp_path: Path) -> None:
    def kill_at_3(report: Progress) -> None:
        if report.done == 3:
            raise KilledError

    path = tmp_path / "prior.safetensors"
    with pytest.raises(KilledError):
        pretrain(clips, CONFIG, path, "toy", progress=kill_at_3)
    with pytest.raises(CheckpointError, match="recipe"):
        pretrain(clips, CONFIG.model_copy(update={"seed": 9}), path, "toy")
    with pytest.raises(CheckpointError, match="encoder"):
        pretrain(clips, CONFIG, path, "other")


def test_another_text_width_is_refused(toy_clips: ToyClips, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"text_dim is 8.*have 5 numbers"):
        pretrain(toy_clips(4, (20, 40), text_dim=5), CONFIG, tmp_path / "prior.safetensors", "toy")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_the_run(clips: ClipSet, tmp_path: Path) -> None:
    clips.features[:] = torch.nan
    with pytest.raises(DivergedError, match="step 1"):
        pretrain(clips, CONFIG, tmp_path / "prior.safetensors", "toy")
    assert not list(tmp_path.iterdir())


def test_batches_hold_clips_of_like_length_and_leave_none_out(toy_clips: ToyClips) -> None:
    clips = toy_clips(2 * BUCKET * CONFIG.batch_size, (20, 196), text_dim=8)
    batches = [bucketed(clips, step, CONFIG) for step in range(2 * BUCKET)]
    assert sorted(torch.cat(batches).tolist()) == list(range(len(clips)))
    lengths = clips.lengths.clamp_max(CONFIG.max_frames)
    padded = sum(int(lengths[b].max()) * len(b) for b in batches) / int(lengths.sum())
    unsorted = [torch.arange(len(clips))[i :: 2 * BUCKET] for i in range(2 * BUCKET)]
    assert padded < 1.12 < sum(int(lengths[b].max()) * len(b) for b in unsorted) / int(lengths.sum())
    longest = [int(lengths[b].max()) for b in batches[:BUCKET]]
    assert longest != sorted(longest)  # no order of length over time


def test_the_rate_warms_up_stays_and_falls_to_almost_nothing() -> None:
    config = CONFIG.model_copy(update={"steps": 200})
    rates = [learning_rate(config, step) for step in range(200)]
    assert rates[0] == pytest.approx(config.learning_rate / 10)
    assert rates[9:141] == [config.learning_rate] * 132
    assert rates[140:] == sorted(rates[140:], reverse=True)
    assert 0 < rates[-1] < 0.02 * config.learning_rate


def test_a_cosine_rate_warms_up_and_falls_from_there() -> None:
    config = CONFIG.model_copy(update={"steps": 200, "schedule": "cosine"})
    rates = [learning_rate(config, step) for step in range(200)]
    assert rates[:9] == sorted(rates[:9])
    assert rates[9] == max(rates) == pytest.approx(config.learning_rate, rel=1e-3)
    assert rates[105] == pytest.approx(config.learning_rate / 2)
    assert 0 < rates[-1] < 1e-3 * config.learning_rate


def test_muon_moves_the_matrices_of_frames_and_adamw_the_rest(clips: ClipSet) -> None:
    run = _Run(clips, CONFIG.model_copy(update={"optimiser": "muon"}), "cpu")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train_step()
    moved = {name: value - before[name] for name, value in run.model.state_dict().items()}
    size = 0.2 * 263**0.5 * learning_rate(CONFIG, 0)  # of each singular value, within Muon's approximation
    singular = torch.linalg.svdvals(moved["input_process.poseEmbedding.weight"]) / size
    assert singular.min() > 0.5
    assert singular.max() < 1.4
    assert moved["embed_text.weight"].abs().max() == pytest.approx(learning_rate(CONFIG, 0), rel=0.02)
    plain = _Run(clips, CONFIG, "cpu")
    plain.train_step()
    kept = [{name.rpartition(".")[2] for name in each.optimiser.state()} for each in (run, plain)]
    assert kept[0] - kept[1] == {"momentum_buffer"}


def test_the_prior_has_the_running_mean_of_the_weights(clips: ClipSet, tmp_path: Path) -> None:
    run = _Run(clips, CONFIG.model_copy(update={"average": 0.6}), "cpu")
    name = "output_process.poseFinal.bias"
    mean = run.model.state_dict()[name].clone()
    for step in range(1, 7):
        run.train_step()
        mean += (1 - min(0.6, step / (step + 10))) * (run.model.state_dict()[name] - mean)
    assert torch.allclose(run.averaged_model().state_dict()[name], mean)
    assert not torch.allclose(run.model.state_dict()[name], mean)


def test_a_recipe_from_before_a_setting_was_there_is_the_same() -> None:
    assert not {"optimiser", "average", "schedule", "checkpoint_every"} & recipe(CONFIG).keys()
    assert recipe(CONFIG.model_copy(update={"average": 0.9}))["average"] == 0.9


def test_every_step_goes_by_its_rate(clips: ClipSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinemic.pretrain.learning_rate", lambda config, step: 0.0)
    still = pretrain(clips, CONFIG, tmp_path / "prior.safetensors", "toy").model.state_dict()
    fresh = MDM(CONFIG.model, seed=derive_seed(CONFIG.seed, "model")).state_dict()
    assert all(torch.equal(still[name], fresh[name]) for name in fresh)
