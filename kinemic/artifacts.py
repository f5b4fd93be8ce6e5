"""What a finished trial leaves to look at: mined pools, accuracy by class, confusion, clips beside real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kinemic.files import replacing, write_text
from kinemic.metrics import per_class_accuracy
from kinemic.mining_tables import clip_table, pool_table
from kinemic.motion import features_to_joints
from kinemic.render import gif, in_place, strip_png
from kinemic.report import mean, standard_error
from kinemic.synthesis import Synthetic, synthesise

if TYPE_CHECKING:
    from kinemic.bundle import GeneratorBundle
    from kinemic.material import Material
    from kinemic.mining import MiningResult

SHOWN_CLASSES = 6  # columns of the picture
SHOWN_MINED = 50  # clips of a pool, the best
_TITLE_LETTERS = 11  # of a class, under a body

matplotlib.use("Agg")


def write_artifacts(
    folder: Path,
    material: Material,
    mined: MiningResult | None,
    synthetic: Synthetic | None,
    bundle: GeneratorBundle | None,
) -> None:
    """Write what there is of ``pools.json``, ``mined.json`` (the best clips of each pool), ``clips.gif`` and ``.png``.

    ``bundle`` is the adapted generator of a source that has one.
    """
    corpus = material.data.corpus
    if mined is not None:
        rows = pool_table(mined, material.source, corpus.classes, corpus.class_captions)
        write_text(folder / "pools.json", json.dumps(rows, indent=1))
        clips = clip_table(mined, material.source, corpus.classes, SHOWN_MINED)
        write_text(folder / "mined.json", json.dumps(clips, indent=1))
    if synthetic is not None and bundle is not None:
        draw_clips(folder, material, synthetic, bundle)


def write_scores(folder: Path, classes: tuple[str, ...], confusions: Sequence[np.ndarray]) -> None:
    """Write ``per_class.json``, ``confusion.json`` and ``confusion.png`` into a folder.

    ``confusions`` (C, C) are counts, rows the truth, one a judge seed of every repetition.
    """
    confusion = np.sum(confusions, axis=0)
    write_text(folder / "per_class.json", json.dumps(class_table(classes, confusions), indent=1))
    write_text(
        folder / "confusion.json", json.dumps({"classes": classes, "rows_are_truth": confusion.tolist()}, indent=1)
    )
    with replacing(folder / "confusion.png") as path:
        confusion_figure(confusion, classes).savefig(path, dpi=100, format="png")


def class_table(classes: tuple[str, ...], confusions: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Return one row per class: dev accuracy (0..1) and its standard error over all seeds, clips, usual mistake."""
    confusion = np.sum(confusions, axis=0)
    rows = []
    for label, name in enumerate(classes):
        clips = int(confusion[label].sum()) // len(confusions)
        accuracies = [float(per_class_accuracy(each)[label]) for each in confusions]
        wrong = np.where(np.arange(len(classes)) == label, 0, confusion[label])
        rows.append(
            {
                "class": name,
                "dev_accuracy": mean(accuracies) if clips else None,
                "dev_accuracy_se": standard_error(accuracies) if clips else None,
                "dev_clips": clips,
                "mistaken_for": classes[int(wrong.argmax())] if wrong.any() else None,
            }
        )
    return rows


def draw_clips(folder: Path, material: Material, synthetic: Synthetic, bundle: GeneratorBundle) -> None:
    """Draw a clip a class of the few shots, of the prior without fine-tuning, and of the trial's synthetic ones.

    ``clips.gif`` has a row for each of these, ``clips.png`` moments of every clip, class by class. A class that has no
    synthetic clip is left out.
    """
    corpus, train = material.data.corpus, material.data.train
    classes = np.unique(synthetic.labels)[:SHOWN_CLASSES].tolist()
    first = [int(np.flatnonzero(synthetic.labels == c)[0]) for c in classes]
    rows = {
        "real": [corpus.joints(int(next(i for i in train if corpus.labels[i] == c))) for c in classes],
        "prior": _of_the_prior(material, bundle, classes),
        bundle.trial.synthesis.source: [features_to_joints(synthetic.features[i]) for i in first],
    }
    titles = [[f"{row}: {_fitting(corpus.classes[c])}" if row == "real" else row for c in classes] for row in rows]
    gif(folder / "clips.gif", [[in_place(clip) for clip in row] for row in rows.values()], titles)
    strip_png(
        folder / "clips.png",
        [clip for clips in zip(*rows.values(), strict=True) for clip in clips],
        [title for column in zip(*titles, strict=True) for title in column],
    )


def _of_the_prior(material: Material, bundle: GeneratorBundle, classes: Sequence[int]) -> list[np.ndarray]:
    device = str(next(bundle.model.parameters()).device)
    made = synthesise(
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
    return [features_to_joints(features) for features in made.features]


def confusion_figure(confusion_CC: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Return the confusion matrix, rows the truth, as a figure with the share of each row in every cell."""
    share = confusion_CC / np.maximum(confusion_CC.sum(1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)  # a $ is a $
    axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth (dev)")
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value > 0.5 else "k"
            )
    return figure


def _fitting(name: str) -> str:
    """Cut a class's name to what fits under a body."""
    return name if len(name) <= _TITLE_LETTERS else f"{name[: _TITLE_LETTERS - 1]}."
