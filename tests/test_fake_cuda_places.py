"""Where tensors lie: whatever holds some is moved, and nothing that it can reach is left behind unless named here."""

from __future__ import annotations

import copy
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import CellType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kinemic.models
from kinemic.adapt import Adaptation
from kinemic.classify import Classifier
from kinemic.clips import ClipSet
from kinemic.config import AdaptConfig, JudgeProfile, LoraConfig, LossConfig, ModelConfig, PretrainConfig
from kinemic.diffusion import cosine_schedule, guided
from kinemic.judge_profiles import PROFILES
from kinemic.losses import MemoryBank
from kinemic.models.lora import add_lora
from kinemic.models.mdm import MDM
from kinemic.models.mic import MIC
from kinemic.motion import Statistics
from kinemic.pretrain import _Run
from kinemic.prior import Prior
from kinemic.streams import TwoStreams
from tests.fake_cuda import FakeCuda, fake_cuda

ToyClips = Callable[..., ClipSet]
WIDTH, TEXT = 8, 4
SIZES = ModelConfig(width=WIDTH, layers=1, heads=2, ff=8, text_dim=TEXT)

# What stays on the CPU, and why.
ON_HOST = {
    r"\.(starts|lengths|labels|captions|caption_starts|caption_counts)$": "ClipSet: clips are drawn there",
    r"\.pools\.\w+$": "Adaptation: likewise",
    r"^thing\.prior\.model\.": "Adaptation: the prior as it was read; the two streams are copies of it",
}


def tensors(thing: Any, path: str = "thing", seen: set[int] | None = None) -> Iterator[tuple[str, torch.device]]:
    """Yield path and device of every tensor that can be reached from an object's attributes."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type | ModuleType | np.ndarray | None):
        return
    seen.add(id(thing))
    inner: list[tuple[str, Any]] = []
    if isinstance(thing, Tensor):
        yield path, thing.device
        inner = [(".grad", thing.grad)] if thing.is_leaf else []
    elif isinstance(thing, Mapping):
        inner = [(f"[{key if isinstance(key, str | int) else '...'}]", value) for key, value in thing.items()]
    elif isinstance(thing, list | tuple | set | frozenset):
        inner = [(f"[{place}]", value) for place, value in enumerate(thing)]
    elif isinstance(thing, FunctionType):
        inner = list(zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True))
    elif isinstance(thing, CellType):
        inner = [("", thing.cell_contents)]
    elif hasattr(thing, "__dict__"):
        inner = [(f".{name}", value) for name, value in vars(thing).items()]
    for name, value in inner:
        yield from tensors(value, path + name, seen)


def left_behind(thing: Any, device: str) -> list[str]:
    """Return the paths of what lies elsewhere and is not named above; the object must hold some tensor."""
    found = list(tensors(thing))
    assert found, f"{thing} holds no tensor"
    elsewhere = [path for path, place in found if place.type != device]
    return [path for path in elsewhere if not any(re.search(pattern, path) for pattern in ON_HOST)]


def prior() -> Prior:
    statistics = Statistics(np.zeros(263, np.float32), np.ones(263, np.float32))
    return Prior(MDM(SIZES).eval(), SIZES, 10, statistics, "toy")


def streams() -> TwoStreams:
    target = add_lora(MDM(SIZES).with_actions(2, seed=0), LoraConfig(rank=2), torch.Generator())
    return TwoStreams(MDM(SIZES), target, MIC(WIDTH), LossConfig(), cosine_schedule(10), 10)


MODULES: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: PROFILES[name].size.build(3, seed=0) for name in PROFILES},
    "prior": lambda: MDM(SIZES),
    "two streams": streams,
    "two streams, copied": lambda: copy.deepcopy(streams()),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_moves_as_a_whole(name: str) -> None:
    module = MODULES[name]()
    assert not left_behind(module, "cpu")
    assert not left_behind(module.to("meta"), "meta")


def test_every_module_there_is_was_moved() -> None:
    for module in pkgutil.iter_modules(kinemic.models.__path__):
        import_module(f"kinemic.models.{module.name}")
    there = {
        thing
        for name, module in list(sys.modules.items())
        if name.startswith("kinemic")
        for thing in vars(module).values()
        if inspect.isclass(thing) and issubclass(thing, nn.Module) and thing.__module__.startswith("kinemic")
    }
    assert there == {
        type(m) for make in MODULES.values() for m in make().modules() if type(m).__module__[:7] == "kinemic"
    }


def test_what_is_no_module_moves_as_a_whole(toy_clips: ToyClips) -> None:
    clips = toy_clips(4, (16, 20), text_dim=TEXT).on_device("meta")
    assert not left_behind(clips, "meta")
    assert not left_behind(clips.batch(torch.arange(2)), "meta")
    profile: JudgeProfile = "temporal"
    classifier = Classifier(PROFILES[profile].size.build(3, seed=0).to("meta"), profile, "meta", 0.0)
    assert not left_behind(classifier, "meta")
    bank = MemoryBank(4, WIDTH, "meta")
    bank.push(torch.zeros(2, WIDTH, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta"))
    assert not left_behind(bank, "meta")
    model, text_BE = MDM(SIZES).to("meta"), torch.zeros(2, TEXT, device="meta")
    assert not left_behind(guided(model, torch.ones(2), text_BE, torch.ones(2, device="meta")), "meta")


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as mode:
        yield mode


def test_an_adaptation_that_has_begun_lies_on_its_device_and_one_that_goes_on(
    cuda: FakeCuda, toy_clips: ToyClips, tmp_path: Path
) -> None:
    few, source = (toy_clips(4, (10, 12), TEXT, torch.arange(4) % 2, seed) for seed in (0, 1))
    pools, config = [np.array([0, 2]), np.array([1, 3])], AdaptConfig(rungs=(2,), batch_size=2, average=0.5)

    def started() -> Adaptation:
        return Adaptation(prior(), few, source, pools, LossConfig(window_distill=1.0), config, 0, "cuda:0")

    adaptation, resumed = started(), started()
    adaptation.run(1)
    paths = [path for path, _ in tensors(adaptation)]
    for part in ("_optimiser.state", "_average", "bank.embeddings_ND", ".grad", "logit_scale"):
        assert any(part in path for path in paths), part
    assert not left_behind(adaptation, "cuda")
    assert not left_behind(adaptation.generator(), "cuda")
    adaptation.save(tmp_path / "step.safetensors")
    resumed.restore(tmp_path / "step.safetensors")
    assert not left_behind(resumed, "cuda")


def test_a_pretraining_that_has_begun_lies_on_its_device(cuda: FakeCuda, toy_clips: ToyClips) -> None:
    clips = toy_clips(8, (16, 20), text_dim=TEXT).on_device("cuda:0")
    run = _Run(clips, PretrainConfig(model=SIZES, batch_size=2, average=0.9, optimiser="muon"), "cuda:0")
    run.train_step()
    assert any("momentum_buffer" in path for path, _ in tensors(run))
    assert not left_behind(run, "cuda")


class Straggler(nn.Module):
    """Keeps tensors in a plain object, a list and a function."""

    def __init__(self) -> None:
        super().__init__()
        kept = torch.zeros(1)
        self.weight = nn.Parameter(torch.zeros(1))
        self.plain = MemoryBank(1, 1)
        self.listed = [torch.zeros(1)]
        self.closed = lambda: kept


def test_what_is_left_behind_is_found() -> None:
    left = left_behind(Straggler().to("meta"), "meta")
    assert left == [f"thing.{p}" for p in ("plain.embeddings_ND", "plain.labels_N", "listed[0]", "closedkept")]
