"""What a finished trial leaves to look at: mined pools, confusion matrix, clips real / prior / adapted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kinemic.files import replacing, write_text
from kinemic.mining import pool_table
from kinemic.motion import features_to_joints
from kinemic.render import gif, in_place
from kinemic.synthesis import Synthetic, synthesise

if TYPE_CHECKING:
    from kinemic.bundle import GeneratorBundle
    from kinemic.classify import JudgeReport
    from kinemic.material import Material
    from kinemic.mining import MiningResult

SHOWN_CLASSES = 6  # columns of the picture

matplotlib.use("Agg")


def write_artifacts(
    folder: Path,
    material: Material,
    mined: MiningResult | None,
    bundle: GeneratorBundle,
    synthetic: Synthetic,
    verdicts: list[JudgeReport],
) -> None:
    """Write ``pools.json``, ``confusion.json``, ``confusion.png`` and ``clips.gif`` into a folder."""
    corpus = material.data.corpus
    if mined is not None:
        rows = pool_table(mined, material.source, corpus.classes, corpus.class_captions)
        write_text(folder / "pools.json", json.dumps(rows, indent=1))
    confusion = np.sum([v.confusion for v in verdicts], axis=0)
    write_text(
        folder / "confusion.json",
        json.dumps({"classes": corpus.classes, "rows_are_truth": confusion.tolist()}, indent=1),
    )
    with replacing(folder / "confusion.png") as path:
        confusion_figure(confusion, corpus.classes).savefig(path, dpi=100, format="png")
    clips_gif(folder / "clips.gif", material, bundle, synthetic)


def clips_gif(path: Path, material: Material, bundle: GeneratorBundle, synthetic: Synthetic) -> None:
    """Draw one clip a class and row: real few shot, the prior without fine-tuning, the adapted generator."""
    corpus, train = material.data.corpus, material.data.train
    classes = list(range(min(len(corpus.classes), SHOWN_CLASSES)))
    device = str(next(bundle.model.parameters()).device)
    prior = synthesise(
        material.prior.model.to(device),
        material.prior.diffusion_steps,
        class_text=list(bundle.text),
        lengths_per_class=list(bundle.lengths),
        config=bundle.trial.synthesis.model_copy(update={"clips_per_class": 1}),
        statistics=bundle.statistics,
        seed=bundle.seeds.generation,
        device=device,
        classes=classes,
    )
    first = [int(np.flatnonzero(synthetic.labels == c)[0]) for c in classes]
    real = [corpus.joints(int(next(i for i in train if corpus.labels[i] == c))) for c in classes]
    rows = {
        "real": real,
        "prior": [features_to_joints(f) for f in prior.features],
        "adapted": [features_to_joints(synthetic.features[i]) for i in first],
    }
    gif(
        path,
        [[in_place(clip) for clip in row] for row in rows.values()],
        [[f"{row}: {corpus.classes[c]}" for c in classes] for row in rows],
    )


def confusion_figure(confusion_CC: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Return the confusion matrix, rows the truth, as a figure with the share of each row in every cell."""
    share = confusion_CC / np.maximum(confusion_CC.sum(1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth (dev)")
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value > 0.5 else "k"
            )
    return figure
