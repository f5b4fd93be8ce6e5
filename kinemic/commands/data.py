"""``kinemic data``: packing data sets, looking for what is wrong with them, drawing few-shot splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from kinemic.commands.data_options import id_list, is_experiment, named_data, reader_options
from kinemic.commands.options import runs_option
from kinemic.config import SplitConfig
from kinemic.console import console, progress_bars
from kinemic.reading import parse

if TYPE_CHECKING:
    from kinemic.data.corpus import Corpus
    from kinemic.data.measures import Finding

COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}


@click.group()
def data() -> None:
    """Pack data sets, check them, and draw few-shot splits."""


@data.command()
@reader_options
@runs_option("Folder of results; searches look for packed corpora in its cache/corpora.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for packed corpora; one that is there already is reused.  [default: RUNS/cache/corpora]",
)
def prepare(runs: Path, out: Path | None, **options: Any) -> None:
    """Pack the data set at PATH (a folder, or both of an experiment's YAML file) into one memory-mapped corpus."""
    from kinemic.data.prepare import prepare as pack

    for named in named_data(**options):
        with progress_bars() as progress:
            corpus = pack(named.reader, out or runs / "cache" / "corpora", progress, named.role)
        console.print(corpus_table(named.name, corpus))


@data.command()
@reader_options
@click.option(
    "--list",
    "list_file",
    type=click.Path(path_type=Path),
    default=None,
    help="Write the id of every clip with an error or a warning, a tab, and what it is; a reader's `drop` takes it.",
)
def check(list_file: Path | None, **options: Any) -> None:
    """Look for what is wrong with the data set at PATH: raw, packed, or all that an experiment's YAML file names.

    Checked are unusable clips, lengths, frame rate, scale, axes, sides, floor, bones, dead and repeated frames,
    captions, labels, subjects; of an experiment also its split, test split, text encoder and prior. The exit code is 1
    where there is an error; a warning is worth a look.
    """
    from kinemic.commands.data_check import check_experiment, check_set, clip_lines
    from kinemic.files import write_text

    path = options["path"]
    if is_experiment(path):
        found = check_experiment(path)
    else:
        found = {named.name: check_set(named)[0] for named in named_data(**options)}
    for name, findings in found.items():
        console.print(findings_table(name, findings))
    if list_file is not None:
        write_text(list_file, "".join(f"{line}\n" for line in clip_lines(found)))
    if any(finding.level == "error" for findings in found.values() for finding in findings):
        raise SystemExit(1)


@data.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the trial data.")
@click.option("--class", "classes", multiple=True, help="Class to take, repeatable.  [default: every class]")
@click.option(
    "--shots", type=click.IntRange(1), default=None, help="Clips per class to train on.  [default: 10; all of --train]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draw.")
@click.option(
    "--train-subject",
    "train_subjects",
    multiple=True,
    help="Subject to draw shots from, repeatable.  [default: all but dev's]",
)
@click.option("--dev-subject", "dev_subjects", multiple=True, help="Subject whose clips score a trial, repeatable.")
@click.option(
    "--train", metavar="FILE[:KEY]", default=None, help="List of ids to take shots from, instead of subjects."
)
@click.option("--dev", metavar="FILE[:KEY]", default=None, help="List of ids that score a trial, instead of subjects.")
@click.option("--folds", type=click.IntRange(2), default=None, help="Hold the shots out in turn, without dev clips.")
def split(target: Path, out: Path, train: str | None, dev: str | None, **options: Any) -> None:
    """Draw a few-shot split of the packed corpus TARGET into a folder that holds its train and dev clips alone."""
    from kinemic.data.check import check_split
    from kinemic.data.prepare import open_packed
    from kinemic.data.splits import load_trial_data, make_trial_data

    settings = {name: value for name, value in options.items() if value not in ((), None)}
    lists = {name: id_list(text).model_dump() for name, text in (("train", train), ("dev", dev)) if text}
    config = parse(SplitConfig, settings | lists, "split")
    make_trial_data(open_packed(target, "target"), config, out)
    trial = load_trial_data(out)
    corpus = trial.corpus
    table = Table("class", "train", "dev", "train clips", title=str(out), title_justify="left")
    for label, name in enumerate(corpus.classes):
        shots = [corpus.names[i] for i in trial.train if corpus.labels[i] == label]
        scored = sum(int((corpus.labels[view.dev] == label).sum()) for view in trial.views)
        table.add_row(
            name, str(len(shots)), f"{scored} held out" if trial.folds is not None else str(scored), " ".join(shots)
        )
    console.print(table)
    console.print(findings_table("split", check_split(trial)))


def corpus_table(name: str, corpus: Corpus) -> Table:
    """Return what a corpus holds as a table."""
    table = Table(show_header=False, title=name, title_justify="left")
    rows: dict[str, object] = {
        "folder": corpus.path,
        "role": corpus.role,
        "clips": len(corpus),
        "frames at 20 fps": len(corpus.features),
        "classes": len(corpus.classes),
        "captions": sum(map(len, corpus.captions)),
    }
    bad, left_out = corpus.notes.get("bad", []), corpus.notes.get("left_out", [])
    notes = {
        "too_short": "dropped, too short",
        "cropped": "cropped to 196 frames",
        "missing": "listed, but not there",
    }
    rows |= {what: corpus.notes[key] for key, what in notes.items() if corpus.notes.get(key)}
    if left_out:
        rows["left out by `drop`"] = len(left_out)
    if bad:
        rows["unusable, dropped"] = f"{len(bad)}: {', '.join(name for name, _ in bad[:5])}{' ...' if bad[5:] else ''}"
    for what, value in rows.items():
        table.add_row(what, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def findings_table(name: str, findings: list[Finding]) -> Table:
    """Return findings as a table."""
    table = Table("", "what", "count", "first", title=name, title_justify="left")
    for finding in findings:
        level = Text(finding.level, style=COLOURS[finding.level])
        table.add_row(level, finding.what, f"{finding.count:,}", finding.example)
    return table
