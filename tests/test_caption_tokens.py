"""An imported prior is conditioned on captions cut as in its training; what is mined by is whole. All stages agree."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml

from kinemic import checkpoint, cli
from kinemic.bundle import GeneratorBundle
from kinemic.clips import ClipSet
from kinemic.config import ExperimentConfig, ModelConfig, OpenClipConfig, TrialSeeds
from kinemic.inputs import prepare_inputs
from kinemic.material import Material, mine_pools, start_adaptation
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics
from kinemic.prior import Prior, load_prior, save_prior
from kinemic.reading import parse, with_values
from kinemic.report import TrialInputs
from kinemic.skeleton import NUM_FEATURES
from kinemic.sources import synthetic_clips
from kinemic.stages import Clock, Stages, generator_bundle
from kinemic.store import StageStore
from kinemic.text import CachedEncoder, build_encoder
from tests.toy import TOY

CUT = 2  # tokens: every caption of the generated corpus has more
MODEL = ModelConfig(width=16, layers=1, heads=2, ff=32, text_dim=12)
SIZES = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny CLIP's weights and ``toy.yaml``, which names them and a prior cut after CUT."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "kinemic-cut.json").write_text(json.dumps(SIZES))
    open_clip.add_model_config(folder / "kinemic-cut.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("kinemic-cut").state_dict(), folder / "clip.pt")
    text = {"encoder": "open_clip", "architecture": "kinemic-cut", "pretrained": str(folder / "clip.pt")}
    prior = {"path": str(folder / "prior.safetensors")}
    (folder / "toy.yaml").write_text(yaml.safe_dump(TOY | {"text": text, "prior": prior}))
    save_prior(made_prior(folder), folder / "prior.safetensors")
    return folder


def experiment(place: Path) -> ExperimentConfig:
    return parse(ExperimentConfig, yaml.safe_load((place / "toy.yaml").read_text()), "toy")


def made_prior(place: Path) -> Prior:
    encoder = build_encoder(OpenClipConfig(architecture="kinemic-cut", pretrained=str(place / "clip.pt")))
    ones = np.ones(NUM_FEATURES, np.float32)
    return Prior(MDM(MODEL), MODEL, 50, Statistics(0 * ones, ones), encoder.id, {}, CUT)


@pytest.fixture(scope="module")
def inputs(place: Path) -> TrialInputs:
    return prepare_inputs(experiment(place), place / "cache")


@pytest.fixture(scope="module")
def material(inputs: TrialInputs) -> Material:
    return Material.open(inputs, "cpu")


def cut_rows(material: Material, captions: tuple[str, ...]) -> torch.Tensor:
    return torch.from_numpy(material.encoder.limited(CUT).encode(captions))


def test_prompts_and_both_streams_are_cut_and_pools_are_not(material: Material, place: Path) -> None:
    captions = material.data.corpus.class_captions
    whole = [torch.from_numpy(material.encoder.encode(c)) for c in captions]
    for rows, each, wrong in zip(material.class_text(), captions, whole, strict=True):
        assert torch.equal(rows, cut_rows(material, each))
        assert not torch.allclose(rows, wrong, atol=1e-4)
    config = experiment(place).trial
    mined = mine_pools(material, config.mining)
    uncut = replace(material, prior=replace(material.prior, caption_tokens=None))
    again = mine_pools(uncut, config.mining)
    assert all(np.array_equal(a.similarities, b.similarities) for a, b in zip(mined.pools, again.pools, strict=True))
    cut, full = (start_adaptation(m, mined, config, TrialSeeds(), "cpu") for m in (material, uncut))
    for one, other in ((cut.few_shot, full.few_shot), (cut.source, full.source)):
        assert not torch.allclose(one.text, other.text, atol=1e-4)
    used = material.source.captions[int(mined.pools[0].indices[0])][0]
    assert any(torch.equal(row, cut_rows(material, (used,))[0]) for row in cut.source.text)
    assert cut.identity != full.identity  # a stage of one is not taken for the other's


def test_windows_of_mined_clips_are_found_with_cut_captions(
    material: Material, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def build(corpus: object, indices: object, statistics: object, encoder: object, frames: int) -> ClipSet:
        seen.append(encoder)
        return usual(corpus, indices, statistics, encoder, frames)

    usual = ClipSet.build
    monkeypatch.setattr(ClipSet, "build", build)
    changes = {"synthesis.source": "mined_windows", "synthesis.clips_per_class": 1}
    config = with_values(experiment(place).trial, changes)
    stages = Stages(material, config, TrialSeeds(), StageStore(place / "stages"), "cpu", Clock())
    stages.adapt(stages.rungs[-1])
    synthetic_clips(stages)
    assert len(seen) >= 3
    assert {encoder.id for encoder in seen} == {material.condition_encoder.id} != {material.encoder.id}


def test_a_bundle_holds_cut_prompts_and_says_so(material: Material, place: Path, tmp_path: Path) -> None:
    config = experiment(place).trial
    adaptation = start_adaptation(material, mine_pools(material, config.mining), config, TrialSeeds(), "cpu")
    generator_bundle(material, adaptation, config, TrialSeeds()).save(tmp_path / "b.safetensors")
    loaded = GeneratorBundle.load(tmp_path / "b.safetensors")
    assert loaded.caption_tokens == CUT
    assert loaded.encoder_id == material.encoder.id
    assert all(torch.equal(a, b) for a, b in zip(loaded.text, material.class_text(), strict=True))
    tensors, meta = checkpoint.load(tmp_path / "b.safetensors")
    del meta["caption_tokens"]  # as bundles were written before
    checkpoint.save(tmp_path / "b.safetensors", tensors, meta)
    assert GeneratorBundle.load(tmp_path / "b.safetensors").caption_tokens is None


def test_every_caption_is_embedded_before_any_trial(material: Material) -> None:
    captions = {c for captions in (*material.source.captions, *material.data.corpus.class_captions) for c in captions}
    assert isinstance(material.condition_encoder, CachedEncoder)
    with closing(sqlite3.connect(material.condition_encoder.file)) as database:
        kept = {row for (row,) in database.execute("SELECT caption FROM embeddings")}
    assert captions <= kept


def test_import_takes_the_encoder_of_a_file(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = load_prior(place / "prior.safetensors")
    torch.save(prior.model.state_dict(), tmp_path / "model.pt")
    (tmp_path / "args.json").write_text(json.dumps({"diffusion_steps": 50, "num_heads": 2, "mask_frames": True}))
    np.save(tmp_path / "Mean.npy", prior.statistics.mean_F)
    np.save(tmp_path / "Std.npy", prior.statistics.std_F)
    out = tmp_path / "prior.safetensors"

    def run(*more: object) -> int:
        arguments = ("prior", "import", tmp_path / "model.pt", "--statistics", tmp_path, "--out", out, *more)
        return cli.run([str(argument) for argument in arguments])

    assert run("--for", place / "toy.yaml") == 0
    assert load_prior(out, prior.encoder_id, 12).caption_tokens == 20
    before = out.read_bytes()
    (tmp_path / "tfidf.yaml").write_text(yaml.safe_dump(TOY))
    for more, line in (
        (("--for", tmp_path / "tfidf.yaml"), "a public prior knows CLIP's embeddings"),
        (("--for", place / "toy.yaml", "--encoder", "x"), "give --encoder or --for, not both"),
        (("--args", tmp_path / "none.json"), "needs its args.json"),
    ):
        assert run(*more) == 2
        assert line in capsys.readouterr().err
    assert out.read_bytes() == before  # what was refused has changed nothing
    assert run("--encoder", "open_clip-other") == 0  # and what is taken replaces the file
    assert load_prior(out).encoder_id == "open_clip-other"
