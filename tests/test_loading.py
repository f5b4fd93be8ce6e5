"""What a checkpoint says of itself is compared with what it holds before any memory is taken for it."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinemic import checkpoint
from kinemic.bundle import GeneratorBundle
from kinemic.classify import Classifier
from kinemic.config import ModelConfig, TfidfConfig
from kinemic.errors import CheckpointError
from kinemic.judge_profiles import PROFILES
from kinemic.judges import load_judge, save_judge
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.prior import Prior, load_prior, save_prior
from kinemic.skeleton import NUM_FEATURES
from kinemic.text import build_encoder, load_encoder, save_encoder
from tests.bundles import random_bundle

CONFIG = ModelConfig(width=16, layers=2, heads=4, ff=24, text_dim=8)
MEGABYTES = 300  # more than a whole toy model takes, far less than one of the sizes that are claimed


def write_prior(path: Path) -> None:
    ones = np.ones(NUM_FEATURES, np.float32)
    save_prior(Prior(MDM(CONFIG), CONFIG, 50, Statistics(ones, ones), "e"), path)


def write_bundle(path: Path) -> None:
    random_bundle().save(path)


def write_judge(path: Path) -> None:
    model = PROFILES["temporal"].size.build(3, seed=0)
    save_judge(Classifier(model, "temporal", "cpu", 0.5), path, ("a", "b", "c"), seed=0)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "prior": (write_prior, load_prior),
    "bundle": (write_bundle, GeneratorBundle.load),
    "judge": (write_judge, load_judge),
}


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the process take few more bytes of address space, so that what is built by mistake is an error."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEGABYTES * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def put(meta: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return metadata with the value of a dotted path replaced, or removed for ``...``."""
    key, _, rest = path.partition(".")
    if rest:
        return {**meta, key: put(meta[key], rest, value)}
    return {k: v for k, v in meta.items() if k != key} if value is ... else {**meta, key: value}


def refused(kind: str, folder: Path, changes: dict[str, Any], tensors: dict[str, torch.Tensor | None]) -> str:
    """Write a file of a kind, change it, and return the one line that it is refused with."""
    write, load = KINDS[kind]
    path = folder / f"{kind}.safetensors"
    write(path)
    held, meta = checkpoint.load(path)
    for place, value in changes.items():
        meta = put(meta, place, value)
    held = {name: value for name, value in (held | tensors).items() if value is not None}
    checkpoint.save(path, held, meta)
    with little_memory(), pytest.raises(CheckpointError) as error:
        load(path)
    line = str(error.value)
    assert str(path) in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_loads_in_little_memory(kind: str, tmp_path: Path) -> None:
    write, load = KINDS[kind]
    write(tmp_path / "a.safetensors")
    with little_memory():
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("prior", {"model.layers": 128}, "says 128 layers and holds 2"),
        ("prior", {"model.layers": 10**6}, "model.layers"),
        ("prior", {"model.width": 8192}, "its other sizes ask for"),
        ("prior", {"model.width": 10**9}, "model.width"),
        ("prior", {"model.ff": 32_768}, "its other sizes ask for"),
        ("prior", {"model.heads": 3}, "heads"),
        ("prior", {"model.text_dim": 16_384}, "its other sizes ask for"),
        ("prior", {"diffusion_steps": 10**9}, "diffusion_steps"),
        ("bundle", {"model.layers": 100}, "says 100 layers and holds 1"),
        ("bundle", {"model.width": 8000}, "its other sizes ask for"),
        ("bundle", {"diffusion_steps": 10**12}, "diffusion_steps"),
        ("bundle", {"lengths": [[10**9]] * 3}, "lengths"),
        ("bundle", {"classes": [str(n) for n in range(20_000)]}, "expected captions and lengths of every class"),
        ("judge", {"classes": [str(n) for n in range(100_000)]}, r"fc_cls\S* is \(3"),
        ("judge", {"shape.channels": [10**6]}, "shape.channels"),
    ],
)
def test_sizes_that_the_tensors_do_not_have_cost_no_memory(
    kind: str, changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    line = refused(kind, tmp_path, changes, {})
    assert re.search(why, line), line


WRONG = ["8", [8], {"a": 8}, None, ..., True, 8.5, -1]


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("prior", ["model", "model.width", "diffusion_steps", "encoder_id"]),
        (
            "bundle",
            ["model", "model.layers", "diffusion_steps", "classes", "captions", "lengths", "trial", "encoder_id"],
        ),
        ("judge", ["profile", "classes", "kind", "shape"]),
    ],
)
def test_metadata_of_another_type_is_one_line(kind: str, places: list[str], tmp_path: Path) -> None:
    for place in places:
        for value in WRONG:
            harmless = (place == "encoder_id" and value == "8") or (place.startswith("model.") and value is ...)
            if not harmless:
                refused(kind, tmp_path, {place: value}, {})


def test_a_judge_of_an_earlier_version_is_refused_with_its_version(tmp_path: Path) -> None:
    line = refused("judge", tmp_path, {"profile": "small", "version": "0.0.9"}, {})
    assert "a 'small' judge, written by version 0.0.9" in line


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("prior", "model.embed_text.bias"),
        ("bundle", "model.embed_text.bias"),
        ("bundle", "text.1"),
        ("prior", "statistics.std"),
        ("judge", "fc_cls.bias"),
    ],
)
def test_tensors_that_are_missing_of_another_shape_or_not_finite_are_one_line(
    kind: str, name: str, tmp_path: Path
) -> None:
    KINDS[kind][0](tmp_path / "a.safetensors")
    there = checkpoint.load(tmp_path / "a.safetensors")[0][name]
    for tensor in (None, there[:0], there.flatten()[None, None], there * torch.nan, there.long()):
        if not (name == "statistics.std" and tensor is not None and tensor.dtype == torch.int64):  # ones all the same
            refused(kind, tmp_path, {}, {name: tensor})


@pytest.mark.parametrize("change", ["dim", "places", "rank", "id"])
def test_a_text_encoder_whose_parts_do_not_belong_together_is_one_line(change: str, tmp_path: Path) -> None:
    config = TfidfConfig(dim=6)
    save_encoder(build_encoder(config, ["a person kicks", "a person waves and jumps"]), config, tmp_path / "e")
    file = tmp_path / "e" / "tfidf.json"
    state = json.loads(file.read_text())
    del state["digest"]  # as the first states were written
    changes = {"dim": 10**12, "places": dict.fromkeys(state["vocabulary"], 10**9), "rank": 1, "id": ["x"]}
    key = {"places": "vocabulary", "rank": "dim"}.get(change, change)
    file.write_text(json.dumps(state | {key: changes[change]}))
    with pytest.raises(CheckpointError, match="damaged text encoder") as error:
        load_encoder(tmp_path / "e")
    assert "\n" not in str(error.value)
