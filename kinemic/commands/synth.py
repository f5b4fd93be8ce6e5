"""``kinemic synth``: sets of generated clips for others to train on, and whether an exported model is sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kinemic.commands.generation import Generation, device_option, generation_options, model_option
from kinemic.console import console, progress_bars, show_warnings
from kinemic.errors import ConfigError

if TYPE_CHECKING:
    from kinemic.data.writers import LabelledClips, SetFormat


@click.group()
def synth() -> None:
    """Write sets of generated clips for others to train on, and check an exported model."""


@synth.command()
@generation_options
@click.option(
    "--format",
    "layout",
    type=click.Choice(["npz", "humanml3d", "ntu"]),
    required=True,
    help="npz: joints and JSON lines (format: joints); humanml3d: without labels; ntu: NTU-VIBE with A numbers.",
)
@click.option(
    "--ntu-metadata",
    type=click.Path(path_type=Path),
    default=None,
    help="ntu: take each class's A number from this ntu_metadata.json.  [default: 1, 2, ...]",
)
@click.argument("out", type=click.Path(path_type=Path))
def write(layout: SetFormat, ntu_metadata: Path | None, out: Path, **options: Any) -> None:
    """Generate clips from an exported model and write them as the new folder OUT, whole or not at all.

    `generated.json` in it says how they were made. `kinemic data check OUT` looks for what is wrong with them.
    """
    from kinemic.data.writers import LabelledClips
    from kinemic.files import new_folder

    if ntu_metadata and layout != "ntu":
        raise ConfigError(f"--ntu-metadata numbers the classes of --format ntu; leave it out with --format {layout}")
    generation = Generation.open(**options)
    bundle = generation.bundle
    with new_folder(out) as folder, progress_bars() as progress:
        made = generation.run(progress)
        # Only the classes that were asked for: one without a clip would be an error of the set.
        labels = [generation.classes.index(label) for label in made.labels]
        classes = [bundle.classes[c] for c in generation.classes]
        clips = LabelledClips(made.features, labels, classes, [bundle.captions[c] for c in generation.classes])
        _write(clips, generation, layout, ntu_metadata, folder)
        (folder / "generated.json").write_text(generation.to_json(), encoding="utf-8")
    show_warnings(filter(None, (*made.warnings, clips.too_short(layout))))
    console.print(f"wrote {len(clips.features)} clips to {out}")


@synth.command()
@model_option
@click.option(
    "--shots",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the few shots and dev clips that the model was adapted on; a judge trained on the shots then "
    "says what it recognises.",
)
@click.option("-n", "--clips", type=click.IntRange(1), default=4, show_default=True, help="Clips per class.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the clips.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="File to write the findings to, as JSON.")
@device_option
def check(model: Path, shots: Path | None, clips: int, seed: int, out: Path | None, device: str | None) -> None:
    """Generate a few clips of every class and say whether they are finite, how long, and recognised."""
    from kinemic.bundle_check import check_bundle
    from kinemic.device import resolve_device
    from kinemic.files import write_text

    with progress_bars() as progress:
        found = check_bundle(model, shots, clips, seed, resolve_device(device), progress)
    if out:
        write_text(out, found.to_json())
    console.print(found.line())


def _write(
    clips: LabelledClips, generation: Generation, layout: SetFormat, ntu_metadata: Path | None, folder: Path
) -> None:
    from kinemic.data.ntu import read_actions
    from kinemic.data.writers import write_humanml3d, write_npz, write_ntu

    match layout:
        case "npz":
            write_npz(folder, clips)
        case "humanml3d":
            write_humanml3d(folder, clips, generation.bundle.statistics)
        case "ntu":
            write_ntu(folder, clips, read_actions(ntu_metadata) if ntu_metadata else None)
