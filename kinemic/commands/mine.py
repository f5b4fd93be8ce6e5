"""``kinemic mine``: which source clips would serve a class, seen by their captions."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from kinemic.commands.options import experiment_options
from kinemic.console import console, progress_bars, show_warnings
from kinemic.reading import load_experiment


@click.command()
@experiment_options
@click.option("--caption", "captions", multiple=True, help="Mine for this caption, repeatable, instead of the classes.")
@click.option("--show", type=click.IntRange(1), default=5, show_default=True, help="Captions to print per class.")
def mine(
    file: Path, settings: tuple[str, ...], runs: Path, device: str | None, captions: tuple[str, ...], show: int
) -> None:
    """Print the source captions closest to each target class of FILE, with their cosine similarity.

    Pools follow trial.mining: top_k clips, threshold (a quantile of the class's similarities), min_pool, floor (a
    similarity) and per_caption (clips of one sentence). A class that no clip comes close enough to has an empty pool.
    """
    from kinemic.data.prepare import prepare
    from kinemic.data.splits import classes_of
    from kinemic.device import resolve_device
    from kinemic.inputs import prepare_encoder
    from kinemic.mining import mine_corpus
    from kinemic.mining_tables import best_captions, pool_table

    experiment = load_experiment(file, settings)
    cache = runs / "cache"
    prompts: list[tuple[str, ...]]
    with progress_bars() as progress:
        source = prepare(experiment.data.source, cache / "corpora", progress, "source")
        if captions:
            classes, prompts = captions, [(caption,) for caption in captions]
        else:
            target = prepare(experiment.data.target, cache / "corpora", progress, "target")
            classes = classes_of(target, experiment.data.split)
            prompts = [target.class_captions[target.classes.index(name)] for name in classes]
        encoder, _ = prepare_encoder(experiment.text, source, cache, resolve_device(device))
        result = mine_corpus(source, prompts, encoder, experiment.trial.mining)
    console.print(_pools(pool_table(result, source, classes, prompts)))
    for label, name in enumerate(classes):
        table = Table("similarity", "clips", "caption", title=name, title_justify="left")
        for caption, similarity, clips in best_captions(result, source, label, prompts[label], show):
            table.add_row(f"{similarity:.3f}", str(clips), caption)
        console.print(table)
    show_warnings(result.warnings)


def _pools(rows: list[dict[str, object]]) -> Table:
    columns = {
        "class": "class",
        "clips": "clips",
        "similarity_best": "best",
        "similarity_mean": "mean",
        "similarity_last": "last",
        "threshold_similarity": "threshold",
        "shared_words": "share a content word",
        "in_other_pools": "in other pools",
        "fallback": "fell back",
    }
    table = Table(*columns.values(), title="mined pools (cosine similarity)", title_justify="left")
    for row in rows:
        table.add_row(*(_shown(row[key]) for key in columns))
    return table


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
