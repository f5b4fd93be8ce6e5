"""``kinemic pretrain`` and ``kinemic prior``: making, importing and describing priors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from kinemic.commands.options import experiment_options, interruptible
from kinemic.console import console, progress_bars
from kinemic.errors import ConfigError
from kinemic.files import need_writable, replacing
from kinemic.reading import load_experiment

DEFAULT_ENCODER = "open_clip-ViT-B-32-openai"


@click.command()
@experiment_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Prior checkpoint to write (.safetensors).")
def pretrain(file: Path, settings: tuple[str, ...], runs: Path, device: str | None, out: Path) -> None:
    """Train a text-to-motion prior on the source corpus of FILE by its recipe prior.pretrain.

    Interrupted with Ctrl-C it keeps its last checkpoint; the same command goes on from there.
    """
    from kinemic.data.prepare import prepare
    from kinemic.device import resolve_device
    from kinemic.inputs import prepare_encoder, prepare_prior

    experiment = load_experiment(file, settings)
    if experiment.prior.pretrain is None:
        raise ConfigError(f"{file}: prior.path names a finished prior; give prior.pretrain, a recipe, to train one")
    device = resolve_device(device)
    need_writable(out.parent)
    with interruptible("the last checkpoint is kept"), progress_bars() as progress:
        source = prepare(experiment.data.source, runs / "cache" / "corpora", progress, role="source")
        encoder, _ = prepare_encoder(experiment.text, source, runs / "cache", device)
        path = prepare_prior(experiment.prior, source, encoder, runs / "cache", device, progress)
    with replacing(out) as temporary:
        shutil.copyfile(path, temporary)
    console.print(f"wrote {out}")


@click.group()
def prior() -> None:
    """Import public priors and describe checkpoints."""


@prior.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Prior checkpoint to write (.safetensors).")
@click.option(
    "--args",
    "args_json",
    type=click.Path(path_type=Path),
    default=None,
    help="Settings that it was trained with.  [default: args.json beside FILE]",
)
@click.option(
    "--statistics",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with the Mean.npy and Std.npy it was trained with.",
)
@click.option(
    "--encoder",
    help=f"Id of the text encoder that it was trained with; a file's ends in its hash.  [default: {DEFAULT_ENCODER}]",
)
@click.option(
    "--for",
    "experiment_file",
    type=click.Path(path_type=Path),
    help="Take the encoder of this experiment's or search's file, instead of --encoder.",
)
def import_(
    file: Path, out: Path, args_json: Path | None, statistics: Path, encoder: str | None, experiment_file: Path | None
) -> None:
    """Turn a public MDM checkpoint FILE (.pt with args.json) into a prior; one that is there is replaced.

    args.json is read first: a checkpoint that can't be used as it was trained is refused, with each reason. CLIP
    weights inside are ignored. Its captions will be cut after 20 tokens, as in its training; mining reads all of them.
    """
    from kinemic.prior import save_prior
    from kinemic.prior_import import import_public

    if encoder is not None and experiment_file is not None:
        raise ConfigError("give --encoder or --for, not both")
    text_dim = None
    if experiment_file is not None:
        encoder, text_dim = _encoder_of(experiment_file)
    arguments = (file, args_json or file.parent / "args.json", statistics, encoder or DEFAULT_ENCODER, text_dim)
    save_prior(import_public(*arguments), out)
    console.print(f"wrote {out}, for the text encoder {encoder or DEFAULT_ENCODER}")


def _encoder_of(file: Path) -> tuple[str, int]:
    """Id and width of a file's text encoder, which is opened: weights that can't be read are an error now."""
    from kinemic.text import build_encoder

    text = load_experiment(file).text
    if text.encoder != "open_clip":
        raise ConfigError(
            f"{file}: text.encoder is {text.encoder}, a public prior knows CLIP's embeddings; set it to open_clip"
        )
    encoder = build_encoder(text)
    return encoder.id, encoder.dim


@prior.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of the loss curve to write (.png).")
def show(file: Path, plot: Path | None) -> None:
    """Describe a checkpoint FILE: sizes, steps, text encoder, seed, version, loss.

    FILE may be the .partial.safetensors of a pretraining that is under way.
    """
    from kinemic import checkpoint
    from kinemic.pretrain import CURVE

    tensors, meta = checkpoint.load(file)
    losses = meta.pop("losses", [])
    console.print_json(data=meta)
    console.print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers")
    if losses:
        console.print(f"loss: {losses[0]:.4f} over the first {CURVE} steps, {losses[-1]:.4f} over the last")
    if plot is not None:
        if not losses:
            raise ConfigError(f"{file}: keeps no loss curve; only a prior that kinemic pretrain made has one")
        _draw_curve(losses, CURVE, plot)
        console.print(f"wrote {plot}")


def _draw_curve(losses: Sequence[float], every: int, path: Path) -> None:
    """Write a picture of the loss, a point for the mean of ``every`` steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel=f"loss, mean of {every} steps", yscale="log")
    axes.plot([every * (i + 1) for i in range(len(losses))], losses, marker="." if len(losses) < 2 else "")
    axes.grid(which="both", alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
