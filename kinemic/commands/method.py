"""``kinemic adapt | generate | classify | trial``: the stages of the method, each usable alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from kinemic.commands.generation import Generation, generation_options
from kinemic.commands.options import experiment_options, interruptible
from kinemic.config import ExperimentConfig
from kinemic.console import console, progress_bars, show_warnings
from kinemic.errors import ConfigError, DataError
from kinemic.files import need_writable
from kinemic.reading import load_experiment
from kinemic.report import RungReport, TrialInputs, mean, shown, standard_error

if TYPE_CHECKING:
    from kinemic.progress import ProgressCallback


@click.command()
@experiment_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for rungs, generator and pictures.")
def trial(file: Path, settings: tuple[str, ...], runs: Path, device: str | None, out: Path) -> None:
    """Run one whole trial of FILE: mine, adapt, synthesise, classify on dev.

    Interrupted with Ctrl-C it keeps its finished rungs; the same command goes on from there.
    """
    from kinemic.bundle import FILE_NAME
    from kinemic.trial import run_trial

    experiment = load_experiment(file, settings)
    if cost := experiment.data.split.cost(trials=1, repetitions=len(experiment.seeds)):
        click.echo(cost, err=True)
    with interruptible("finished rungs are kept"), progress_bars() as progress:
        inputs, device = _prepared(experiment, runs, device, out, progress)
        reports = list(run_trial(inputs, experiment.trial, experiment.seeds, out, device, progress))
    console.print(_rung_table(reports))
    show_warnings(warning for report in reports for warning in report.warnings)
    if (out / FILE_NAME).exists():
        console.print(f"generator and pictures: {out}")


@click.command()
@experiment_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for generator.safetensors.")
def adapt(file: Path, settings: tuple[str, ...], runs: Path, device: str | None, out: Path) -> None:
    """Mine and fine-tune the generator of FILE up to its last rung, without scoring it."""
    from kinemic.bundle import FILE_NAME
    from kinemic.material import Material, mine_pools, start_adaptation
    from kinemic.stages import generator_bundle

    experiment = load_experiment(file, settings)
    with progress_bars() as progress:
        inputs, device = _prepared(experiment, runs, device, out, progress)
        material = Material.open(inputs, device)
        mines = experiment.trial.loss.mines or experiment.trial.mining.floor > 0
        mined = mine_pools(material, experiment.trial.mining) if mines else None
        adaptation = start_adaptation(material, mined, experiment.trial, experiment.seeds[0], device)
        losses = adaptation.run(experiment.trial.adapt.rungs[-1], progress)
        generator_bundle(material, adaptation, experiment.trial, experiment.seeds[0]).save(out / FILE_NAME)
    show_warnings(mined.warnings if mined else ())
    console.print("mean losses: " + "  ".join(f"{name} {value:.4g}" for name, value in losses.items()))
    console.print(f"wrote {out / FILE_NAME}")


@click.command()
@generation_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("generated"),
    show_default=True,
    help="Folder for clips.npz, clips.jsonl, clips.gif, clips.png.",
)
def generate(out: Path, **options: Any) -> None:
    """Generate clips from an exported bundle; no corpus, prior or text encoder has to be present.

    Clips are joints in metres, y up, 20 frames a second, in the plain joint layout that "format: joints" reads.
    """
    from kinemic.data.joints import write_joints
    from kinemic.motion import features_to_joints
    from kinemic.render import gif, in_place, strip_png

    generation = Generation.open(**options)
    bundle = generation.bundle
    need_writable(out)
    with progress_bars() as progress:
        made = generation.run(progress)
    joints = [features_to_joints(features) for features in made.features]
    labels = [bundle.classes[c] for c in made.labels]
    captions = [bundle.captions[c] for c in made.labels]
    write_joints(out, joints, labels, captions)
    first = dict(reversed(list(zip(labels, joints, strict=True))))
    gif(out / "clips.gif", [[in_place(clip) for clip in first.values()]], [list(first)])
    strip_png(out / "clips.png", list(first.values()), list(first))
    show_warnings(made.warnings)
    console.print(f"wrote {len(joints)} clips to {out}")


@click.command()
@experiment_options
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=None,
    help="Exported folder: FILE is then clips, and its classifier labels them.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="With --model: .csv or .json file for the labels."
)
@click.option(
    "--synthetic",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder that `kinemic generate` wrote (clips.npz, clips.jsonl), to add to training.",
)
def classify(
    file: Path,
    settings: tuple[str, ...],
    runs: Path,
    device: str | None,
    model: Path | None,
    out: Path | None,
    synthetic: Path | None,
) -> None:
    """Label the clips in FILE by an exported model, or train the judge of an experiment's FILE and score it.

    With --model, FILE is an npz set of joints as `kinemic generate` writes it, an npy array of joints (frames, 22, 3),
    or a folder that `kinemic data check` reads. Without, it is an experiment's YAML file: its judge is trained on the
    few shots (and generated clips) and scored on dev, once per judge seed.
    """
    if model is not None:
        if settings or synthetic:
            raise ConfigError("--set and --synthetic are for training; leave them out with --model")
        return _label(model, file, out, device)
    if out is not None:
        raise ConfigError("--out is for the labels that --model gives; leave it out")
    return _train(file, settings, runs, device, synthetic)


def _label(model: Path, file: Path, out: Path | None, device: str | None) -> None:
    from kinemic.commands.data_options import detected
    from kinemic.device import resolve_device
    from kinemic.labelling import label_clips, read_data, read_file, write_rows

    clips = read_data(detected(file)) if file.is_dir() else read_file(file)
    rows = label_clips(model, clips, resolve_device(device)).rows()
    table = Table("clip", "label", "probability", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["clip"], row["label"], f"{row['probability']:.3f}")
    console.print(table)
    if out is not None:
        write_rows(out, rows)
        console.print(f"wrote {out}")


def _train(file: Path, settings: tuple[str, ...], runs: Path, device: str | None, synthetic: Path | None) -> None:
    from kinemic.classify import limit_generated
    from kinemic.data.splits import load_trial_data
    from kinemic.device import resolve_device
    from kinemic.inputs import prepare_trial_data
    from kinemic.scoring import score_on

    experiment, device = load_experiment(file, settings), resolve_device(device)
    judge = experiment.trial.judge
    with progress_bars() as progress:
        data = load_trial_data(prepare_trial_data(experiment.data, runs / "cache", progress))
        made = _read_synthetic(synthetic, data.corpus.classes) if synthetic else None
        verdicts = score_on(data, made, judge, experiment.seeds[0].judge, device, progress)
    accuracies = [v.accuracy for v in verdicts]
    table = Table("class", "dev accuracy (0..1)", title=f"judge {judge.profile}, {len(verdicts)} seeds")
    for c, name in enumerate(data.corpus.classes):
        table.add_row(name, f"{mean([float(v.per_class[c]) for v in verdicts]):.3f}")
    table.add_section()
    table.add_row("all", f"{mean(accuracies):.3f} ± {shown(standard_error(accuracies), 3)} (standard error)")
    console.print(table)
    _, cut = limit_generated(made.labels, judge.profile) if made else (None, None)
    show_warnings((cut,) if cut else ())


def _prepared(
    experiment: ExperimentConfig, runs: Path, device: str | None, out: Path, progress: ProgressCallback
) -> tuple[TrialInputs, str]:
    from kinemic.device import resolve_device
    from kinemic.inputs import prepare_inputs

    device = resolve_device(device)
    need_writable(out)
    return prepare_inputs(experiment, runs / "cache", device, progress), device


def _read_synthetic(folder: Path, classes: tuple[str, ...]):  # type: ignore[no-untyped-def]
    import numpy as np

    from kinemic.data.joints import read_joints
    from kinemic.synthesis import Synthetic

    clips = read_joints(folder, ("clips.npz",), "clips.jsonl")
    unknown = sorted({str(c.label) for c in clips} - set(classes))
    if unknown:
        raise DataError(f"{folder}: class {unknown[0]!r} is not in this experiment; its classes: {', '.join(classes)}")
    return Synthetic([c.features for c in clips], np.array([classes.index(str(c.label)) for c in clips]))


def _rung_table(reports: list[RungReport]) -> Table:
    table = Table("rung", "steps", "dev accuracy (0..1)", "standard error", "seconds", title="on dev")
    for r in reports:
        seconds = sum(r.seconds.values())
        table.add_row(
            str(r.rung),
            f"{r.steps}/{r.total_steps}",
            f"{r.dev_accuracy:.3f}",
            shown(r.dev_accuracy_se, 3),
            f"{seconds:.1f}",
        )
    return table
