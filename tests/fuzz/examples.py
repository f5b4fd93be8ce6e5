"""Small valid examples of everything that is read: a folder of each kind, made through the product itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinemic import cli
from kinemic.bundle import FILE_NAME
from kinemic.config import GeneratedReader, ModelConfig, TfidfConfig
from kinemic.data.corpus import Corpus
from kinemic.data.prepare import prepare
from kinemic.models.mdm import MDM
from kinemic.prior import Prior, save_prior
from kinemic.text import build_encoder
from search import confirmation, contenders
from search.confirmation import Confirmation, ConfirmedRow, Look
from search.contenders import ContenderRow, ContenderTable
from search.folder import SearchFolder, State
from tests import analytic
from tests.bench import Bench, search
from tests.bundles import random_bundle
from tests.fuzz import clip

NAME = "mine"  # of the finished search
EXPERIMENT: dict[str, Any] = {
    "name": "new",
    "data": {
        "source": {"format": "corpus", "path": "source"},
        "target": {"format": "corpus", "path": "target"},
        "split": {
            "classes": ["wave", "kick"],
            "shots": 1,
            "seed": 0,
            "train_subjects": ["s01"],
            "dev_subjects": ["s02", "s03"],
        },
    },
    "text": {"encoder": "tfidf", "dim": 4},
    "prior": {"path": "prior.safetensors"},
    "trial": {
        "mining": {"top_k": 3, "threshold": 0.5},
        "adapt": {"rungs": [1, 2], "learning_rate": 1e-4, "lora": {"rank": 2}},
        "loss": {"dynamic_window_weighting": True},
        "synthesis": {"clips_per_class": 1, "sampler": "ddim"},
        "judge": {"profile": "smoke"},
    },
    "seeds": {"judge": [0, 1]},
    "space": {
        "mining.top_k": {"type": "int", "low": 1, "high": "auto", "log": True},
        "loss.temperature": {"type": "float", "low": 0.1, "high": 0.5, "when": {"mining.threshold": [0.9]}},
        "mining.threshold": {"type": "categorical", "choices": [0.0, 0.9]},
    },
    "budget": {"trials": 2, "hours": 1.5},
    "sampler": {"kind": "tpe", "seed": 0},
    "pruner": "median",
    "contenders": {"seeds": 2},
    "confirm": {"test_subjects": ["s04"]},
    "storage": None,
    "tracking": {"experiment": "kinemic"},
}  # fmt: skip


def build(folder: Path) -> None:
    """Write every example below ``folder``."""
    torch.manual_seed(0)
    _sets(folder)
    _experiment(folder / "experiment")
    _public_prior(folder / "public")
    _finished_search(folder / "search" / "runs")


def _sets(folder: Path) -> None:
    """A bundle, and sets of its clips in every layout, beside lists of their ids."""
    random_bundle(lengths=(40, 44), classes=("wave", "kick")).save(folder / "exported" / "bundle" / FILE_NAME)
    for layout in ("npz", "humanml3d", "ntu"):
        model = ("--model", str(folder / "exported" / "bundle"), "-n", "2", "--device", "cpu")
        assert cli.run(["synth", "write", "--format", layout, *model, str(folder / layout / "set")]) == 0
    ids = [json.loads(line)["id"] for line in (folder / "npz/set/clips.jsonl").read_text().splitlines()]
    (folder / "npz" / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    (folder / "npz" / "ids.json").write_text(json.dumps({"a": {"train": ids, "dev": []}}))


def _experiment(folder: Path) -> None:
    """An experiment whose corpora are packed, with its prior and with weights of a text tower."""
    cache = folder / "packed"
    prepare(GeneratedReader(part="source", clips=10), cache, role="source").path.rename(folder / "source")
    prepare(GeneratedReader(part="target", clips=4), cache, role="target").path.rename(folder / "target")
    cache.rmdir()
    source = Corpus.open(folder / "source")
    (folder / "mine.yaml").write_text(json.dumps(EXPERIMENT))
    encoder = build_encoder(TfidfConfig(dim=4), [c for captions in source.captions for c in captions])
    model = ModelConfig(width=8, layers=1, heads=1, ff=8, text_dim=4)
    save_prior(Prior(MDM(model), model, 4, random_bundle().statistics, encoder.id), folder / "prior.safetensors")
    clip.save(folder / "clip.pt")
    (folder / "file").touch()  # below which nothing can be written


def _public_prior(folder: Path) -> None:
    """A checkpoint in the public form."""
    folder.mkdir()
    model, statistics = MDM(ModelConfig(width=8, layers=1, heads=4, ff=8, text_dim=4)), random_bundle().statistics
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "args.json").write_text(json.dumps({"arch": "trans_enc", "diffusion_steps": 50, "latent_dim": 8}))
    np.save(folder / "Mean.npy", statistics.mean_F)
    np.save(folder / "Std.npy", statistics.std_F)


def _finished_search(runs: Path) -> None:
    """A search of the analytic trial with its contenders and its confirmation; its data is nowhere."""
    nowhere = {"source": {"format": "corpus", "path": "nowhere"}, "target": {"format": "corpus", "path": "nowhere"}}
    config = search(name=NAME, storage=None, budget={"trials": 4}, sampler="random", data=nowhere)
    folder = SearchFolder(runs / NAME)
    folder.create(config)
    bench = Bench(config, folder.path)
    bench.run_all()
    for generator in folder.trials.glob("*/generator.safetensors"):
        generator.unlink()  # or an export would start a process of seconds
    folder.write_state(State(bench.study.study_name, analytic.SOURCE_CLIPS, analytic.inputs(Path("nowhere")), "mine-1"))
    rows = (ContenderRow("real", "real only", (0.5, 0.6)), ContenderRow("best", "best trial", (0.7,), ("diverged: x",)))
    contenders.store(ContenderTable(rows, 2, 1, 16), folder.contenders_file)
    confirmed = (
        ConfirmedRow(key="trial_1", title="trial 1", baseline=False, dev_accuracies=(0.7, 0.8), dev_mean=0.75,
                     dev_se=0.05, test_accuracy=0.7, test_interval=(0.6, 0.8)),
        ConfirmedRow(key="real", title="real only", baseline=True, dev_accuracies=(0.5,), dev_mean=0.5, dev_se=None,
                     failures=("diverged: x",), test_accuracy=0.5, test_interval=(0.4, 0.6), difference=0.2,
                     difference_interval=(0.1, 0.3), smallest_detectable_difference=0.1, noise=False),
    )  # fmt: skip
    look = Look(number=1, time="2026-01-01T00:00:00", winner="trial_1", runs={"real": ("a",)}, clips=9, split="abc")
    kept = Confirmation(
        search=NAME, judge="temporal", steps=16, repetitions=2, judge_seeds=1, winner="trial_1", runs={"real": ("a",)},
        rows=confirmed, looks=1, look_log=(look,), test_clips=9,
    )  # fmt: skip
    confirmation.store(kept, folder.confirmation_file)
