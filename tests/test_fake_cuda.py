"""A trial on a GPU, without one: every step of it on the pretended device of ``tests.fake_cuda``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinemic import device, material
from kinemic.bundle import FILE_NAME, GeneratorBundle
from kinemic.bundle_check import check_bundle
from kinemic.classify import judge
from kinemic.config import ExperimentConfig, JudgeConfig, JudgeProfile, ModelConfig
from kinemic.errors import EmptyPoolError
from kinemic.inputs import prepare_inputs
from kinemic.judge_profiles import PROFILES, Epochs, Updates
from kinemic.judges import judge_file, load_judge
from kinemic.material import Material
from kinemic.models.mdm import MDM
from kinemic.models.mic import MIC
from kinemic.models.stgcn import STGCN
from kinemic.pretrain import pretrain
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.reading import parse, with_values
from kinemic.report import RungReport, TrialInputs
from kinemic.trial import run_trial
from tests.fake_cuda import FakeCuda, fake_cuda, walk_back
from tests.toy import TOY

DEVICE = "cuda:0"
FRAMES = 16  # of a clip at most: the recurrent network takes a step for each
EXPERIMENT = parse(ExperimentConfig, TOY | {"seeds": {"judge": [0]}}, "toy")
# Their sums come out in another order each time where two threads of a GPU add to one number.
UNSTEADY = {
    "index_add",
    "index_add_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "index_copy_",
    "put_",
    "bincount",
}


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Let clips be short and classifiers take one update of each batch: what is learned is not asked here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (material,):
            patch.setattr(module, "MAX_FRAMES", FRAMES)
        for name, profile in PROFILES.items():
            once = Updates(2) if isinstance(profile.batches, Updates) else Epochs(1, 1, 64)
            patch.setitem(PROFILES, name, replace(profile, batches=once))
        yield


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as mode:
        yield mode


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    recipe = EXPERIMENT.prior.pretrain
    assert recipe is not None
    short = recipe.model_copy(update={"max_frames": FRAMES, "steps": 2})
    experiment = EXPERIMENT.model_copy(update={"prior": EXPERIMENT.prior.model_copy(update={"pretrain": short})})
    with fake_cuda():
        return prepare_inputs(experiment, tmp_path_factory.mktemp("cache"), DEVICE)


def run(inputs: TrialInputs, workdir: Path, progress: ProgressCallback = silent, **values: Any) -> Iterator[RungReport]:
    usual = {"adapt.rungs": (1,), "adapt.batch_size": 3}
    config = with_values(EXPERIMENT.trial, usual | {name.replace("__", "."): value for name, value in values.items()})
    return run_trial(inputs, config, EXPERIMENT.seeds, workdir, DEVICE, progress)


def test_a_whole_trial_goes_on_from_its_first_rung_and_leaves_a_generator(
    cuda: FakeCuda, inputs: TrialInputs, tmp_path: Path
) -> None:
    values = {"adapt__rungs": (1, 2), "adapt__average": 0.9, "loss__window_distill": 0.5, "loss__bank_size": 4}
    values |= {"judge__keep": True}
    first = next(run(inputs, tmp_path, **values))
    later: list[Progress] = []
    reports = list(run(inputs, tmp_path, later.append, **values))
    assert reports[0] == first
    assert [progress.done for progress in later if progress.stage == "adapt"] == [2]
    assert [(report.steps, report.device) for report in reports] == [(1, DEVICE), (2, DEVICE)]
    assert {"rec", "contrastive", "window_rec", "window_distill", "window_weight"} <= reports[1].losses.keys()
    assert {file.name for file in (tmp_path / "artifacts").iterdir()} >= {"clips.gif", "confusion.json", "pools.json"}
    made = GeneratorBundle.load(tmp_path / FILE_NAME).generate([0], 2, seed=0, device=DEVICE)
    assert np.isfinite(np.concatenate(made.features)).all()
    found = check_bundle(tmp_path / FILE_NAME, inputs.trial_data, 1, device=DEVICE)
    assert found.verdict is not None
    logits, features = load_judge(judge_file(tmp_path, 0), DEVICE).score([np.zeros((20, 22, 3), np.float32)])
    assert (logits.shape, features.shape) == ((1, 3), (1, 16))
    # Each place in a clip is read once where latents are mirrored in time, so each is added to once.
    assert cuda.operations & UNSTEADY <= {"scatter_add"}


@pytest.mark.parametrize(
    "values",
    [
        {"adapt__precision": "bf16", "loss__window_distill": 1.0},
        {"synthesis__sampler": "ddim", "synthesis__guidance": 1.0, "loss__dynamic_window_weighting": False},
        {"loss__contrastive": 0.0, "loss__rec": 0.0, "adapt__lora.dropout": 0.0},
        {"loss__contrastive": 0.0, "adapt__action_start": "text", "adapt__schedule": "cosine", "adapt__warm_up": 0.5},
        {"loss__contrastive": 0.0, "loss__window_rec": 0.0},
        {"synthesis__source": "prior"},
        {"synthesis__source": "mined_clips"},
        {"synthesis__source": "mined_windows"},
        {"synthesis__source": "edited", "synthesis__edited_from": "mined_windows"},
        {"synthesis__source": "mixed", "synthesis__mixed_with": "edited", "synthesis__sampler": "ddim"},
        {"synthesis__clips_per_class": 0},
    ],
    ids=str,
)
def test_every_kind_of_trial(cuda: FakeCuda, inputs: TrialInputs, tmp_path: Path, values: dict[str, Any]) -> None:
    (report,) = run(inputs, tmp_path, **values)
    assert report.last
    assert cuda.operations & UNSTEADY <= {"scatter_add"}


def test_a_further_repetition_starts_from_a_prior_that_is_on_the_device(
    cuda: FakeCuda, inputs: TrialInputs, tmp_path: Path
) -> None:
    one = EXPERIMENT.seeds[0]
    seeds = (one, one.model_copy(update={"adaptation": 1, "generation": 1}))
    config = with_values(EXPERIMENT.trial, {"adapt.rungs": (1,), "adapt.batch_size": 3, "adapt.action_start": "text"})
    assert [report.repetition for report in run_trial(inputs, config, seeds, tmp_path, DEVICE)] == [0, 1]


def test_without_clips_to_adapt_to_the_error_is_that_of_a_cpu(cuda: FakeCuda, inputs: TrialInputs) -> None:
    opened = Material.open(inputs, DEVICE)
    config = with_values(EXPERIMENT.trial, {"mining.floor": 0.999})
    mined = material.mine_pools(opened, config.mining)
    with pytest.raises(EmptyPoolError, match="no class has source clips"):
        material.start_adaptation(opened, mined, config, EXPERIMENT.seeds[0], DEVICE)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_classifier(cuda: FakeCuda, profile: JudgeProfile) -> None:
    joints = list(np.random.default_rng(0).standard_normal((4, 30, 22, 3), np.float32))
    steady: list[bool] = []

    def seen(_: Progress) -> None:
        steady.append(torch.backends.cudnn.deterministic)

    report = judge(joints, [0, 1] * 2, joints, [0, 1] * 2, 2, JudgeConfig(profile=profile), 0, DEVICE, seen)
    assert steady == [True]  # cuDNN's other convolutions give other numbers each time
    assert not torch.backends.cudnn.deterministic
    assert report.confusion.sum() == 4
    assert not cuda.operations & UNSTEADY
    assert cuda.host_copies == 3  # the loss of the one round, logits, features


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_attention_is_fused_only_where_there_are_no_gradients(cuda: FakeCuda, precision: torch.dtype) -> None:
    model = MDM(ModelConfig(width=8, layers=1, heads=2, ff=8, text_dim=4, dropout=0.0)).to(DEVICE)
    given = [torch.zeros(shape, device=DEVICE) for shape in ((2, 20, 263), (2, 4))]
    steps, lengths = torch.tensor([0, 3]).to(DEVICE), torch.tensor([20, 5]).to(DEVICE)
    fused = []
    for gradients in (True, False):
        cuda.operations.clear()
        with torch.set_grad_enabled(gradients), torch.autocast("cuda", precision, enabled=precision != torch.float32):
            model(given[0], steps, given[1], lengths)
        fused.append("_safe_softmax" in cuda.operations)  # what torch pretends to do for it
    assert fused == [False, True]


def test_an_adaptation_waits_for_the_device_once_a_step(cuda: FakeCuda, inputs: TrialInputs, tmp_path: Path) -> None:
    waits: list[int] = []
    config = with_values(EXPERIMENT.trial, {"adapt.batch_size": 2, "adapt.average": 0.5, "loss.window_distill": 1.0})
    opened = Material.open(inputs, DEVICE)
    adaptation = material.start_adaptation(
        opened, material.mine_pools(opened, config.mining), config, EXPERIMENT.seeds[0], DEVICE
    )
    before = cuda.host_copies
    adaptation.run(2, lambda _: waits.append(cuda.host_copies - before))
    assert waits == [1, 2]
    assert adaptation.bank.labels_N.device.type == "cuda"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pretraining_goes_on_from_its_checkpoint(
    cuda: FakeCuda, toy_clips: Any, tmp_path: Path, precision: str
) -> None:
    recipe = EXPERIMENT.prior.pretrain
    assert recipe is not None
    changes = {"steps": 3, "checkpoint_every": 1, "precision": precision, "average": 0.9, "optimiser": "muon"}
    recipe = recipe.model_copy(update=changes)
    clips = toy_clips(12, (20, 40), text_dim=recipe.model.text_dim)

    def killed(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(clips, recipe, tmp_path / "prior.safetensors", "toy", DEVICE, killed)
    done: list[int] = []
    prior = pretrain(clips, recipe, tmp_path / "prior.safetensors", "toy", DEVICE, lambda p: done.append(p.done))
    assert done == [3]
    assert {value.device.type for value in prior.model.state_dict().values()} == {"cpu"}


MISTAKES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "an operand on the CPU": lambda here, there: there * here,
    "an index on the CPU that is written to": lambda here, there: there.index_add_(0, here.long(), there),
    "a mask on the CPU": lambda here, there: there.masked_fill(here > 0, 0.0),
    "an index on CUDA into the CPU": lambda here, there: here[there.long()],
    "a generator of the CPU": lambda here, there: there.normal_(generator=torch.Generator()),
    "a generator of CUDA on the CPU": lambda here, there: here.normal_(generator=device.generator(DEVICE)),
    "a value that is waited for": lambda here, there: there.sum().item(),
    "a condition": lambda here, there: bool((there > 0).all()),
    "a copy to the host": lambda here, there: there.cpu(),
    "a copy into a tensor of the host": lambda here, there: here.copy_(there),
    "an array": lambda here, there: there.numpy(),
    "a shape that values decide": lambda here, there: there[there > 0],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_pretended_device_refuses(mistake: str) -> None:
    with fake_cuda():
        here, there = torch.zeros(3), torch.zeros(3, device=DEVICE)
        with pytest.raises((RuntimeError, AssertionError)):
            MISTAKES[mistake](here, there)


def test_its_gradients_are_the_engines() -> None:
    model, x = STGCN(4, 3, 2, seed=1), torch.randn(3, 12, 22, 3, generator=torch.Generator().manual_seed(0))
    mic = MIC(4, seed=1)
    found = []
    for backward in (Tensor.backward, walk_back):
        loss = model(x).sin().sum() + mic(x[:, :, 0].repeat(1, 1, 2)[..., :4], torch.tensor([12, 5, 8]))[0].sum()
        for module in (model, mic):
            module.zero_grad()
        backward(loss)
        found.append([p.grad for module in (model, mic) for p in module.parameters()])
    for walked, engine in zip(*found, strict=True):
        torch.testing.assert_close(walked, engine)


def test_it_has_bf16_and_leaves_the_cpu_as_it_is() -> None:
    with fake_cuda() as mode, torch.autocast("cuda", torch.bfloat16):
        there = torch.zeros(2, 3, device=DEVICE) @ torch.zeros(3, 4, device=DEVICE)
        assert there.dtype == torch.bfloat16
        assert mode.to_host(there).tolist() == [[1.0] * 4] * 2
        assert torch.arange(2).tolist() == [0, 1]
