"""From an experiment's file to the inputs of its trials: packed corpora, encoder, prior; each made once and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from kinemic import text_tfidf
from kinemic.clips import ClipSet
from kinemic.config import DataConfig, ExperimentConfig, PretrainConfig, PriorConfig, SplitConfig, TextConfig
from kinemic.data.copies import warn_of_moved
from kinemic.data.corpus import Corpus
from kinemic.data.prepare import prepare
from kinemic.data.splits import SPLIT_VERSION, choose, load_trial_data, make_trial_data, moved_copies
from kinemic.errors import DataError
from kinemic.pretrain import pretrain, recipe
from kinemic.prior import load_prior, read_caption_tokens
from kinemic.progress import ProgressCallback, silent
from kinemic.report import TrialInputs
from kinemic.store import CAPTIONS, STAGES
from kinemic.text import CachedEncoder, TextEncoder, build_encoder, load_encoder, save_encoder


def prepare_inputs(
    experiment: ExperimentConfig, root: Path, device: str = "cpu", progress: ProgressCallback = silent
) -> TrialInputs:
    """Prepare everything that a trial reads, below the cache folder ``root``; what is already there is reused.

    Raises ConfigError, DataError or CheckpointError before any trial starts.
    """
    source = prepare(experiment.data.source, root / "corpora", progress, role="source")
    trial_data = prepare_trial_data(experiment.data, root, progress)
    encoder, encoder_folder = prepare_encoder(experiment.text, source, root, device)
    check_captions(encoder, source, Corpus.open(trial_data))
    prior = prepare_prior(experiment.prior, source, encoder, root, device, progress)
    conditioning = encoder.limited(read_caption_tokens(prior))
    if conditioning is not encoder:
        check_captions(conditioning, source, Corpus.open(trial_data))
    return TrialInputs(source.path, trial_data, prior, encoder_folder, root / CAPTIONS, root / STAGES)


def prepare_trial_data(data: DataConfig, root: Path, progress: ProgressCallback = silent) -> Path:
    """Return the folder of an experiment's few shots and dev clips, below ``root``; made where it isn't there."""
    target = prepare(data.target, root / "corpora", progress, role="target")
    path = root / "trial-data" / _split_key(target, data.split)
    if not path.exists():
        make_trial_data(target, data.split, path)
    warn_of_moved(moved_copies(load_trial_data(path)), ("train", "dev"))
    return path


def prepare_prior(
    prior: PriorConfig, source: Corpus, encoder: TextEncoder, root: Path, device: str, progress: ProgressCallback
) -> Path:
    """Return the prior's checkpoint: the given file, checked, or one pretrained by the recipe and kept."""
    if prior.path is not None:
        load_prior(prior.path, encoder.id, encoder.dim)
        return prior.path
    assert prior.pretrain is not None
    config = fit_text_dim(prior.pretrain, encoder)
    path = root / "priors" / f"{_key(source.content_hash, encoder.id, recipe(config))}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pretrain(source_clips(source, encoder, config), config, path, encoder.id, device, progress)
    return path


def fit_text_dim(recipe: PretrainConfig, encoder: TextEncoder) -> PretrainConfig:
    """Return the recipe with the text width that the encoder has."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"text_dim": encoder.dim})})


def source_clips(source: Corpus, encoder: TextEncoder, recipe: PretrainConfig) -> ClipSet:
    """Return the clips that a recipe trains on, normalised by the source's statistics, with their caption embeddings.

    Raises DataError where the recipe leaves every clip out.
    """
    kept = np.flatnonzero(recipe.crop | (source.lengths <= recipe.max_frames))
    if len(kept) == 0:
        raise DataError(f"{source.path}: every clip is longer than max_frames {recipe.max_frames}; raise it, or crop")
    return ClipSet.build(source, kept, source.statistics, encoder, recipe.max_frames)


def check_captions(encoder: TextEncoder, source: Corpus, target: Corpus) -> None:
    """Embed every caption once, so that one that can't be embedded is an error now, not inside a trial."""
    without = [name for name, captions in zip(source.names, source.captions, strict=True) if not captions]
    if without:
        raise DataError(
            f"{source.path}: {len(without)} source clips have no caption, first {without[0]}; caption or drop them"
        )
    encoder.encode(sorted({c for captions in (*source.captions, *target.class_captions) for c in captions}))


def prepare_encoder(config: TextConfig, source: Corpus, root: Path, device: str) -> tuple[TextEncoder, Path]:
    """Return the text encoder with its disk cache, and its folder; it is fitted where it needs fitting."""
    # CLIP does not depend on the corpus.
    fitted_on = f"{source.content_hash}-{text_tfidf.VERSION}" if config.encoder == "tfidf" else ""
    folder = root / "encoders" / _key(fitted_on, config.model_dump(mode="json"))
    if not folder.exists():
        captions = [c for captions in source.captions for c in captions]
        save_encoder(build_encoder(config, captions, device), config, folder)
    return CachedEncoder(load_encoder(folder, device), root / CAPTIONS), folder


def _split_key(target: Corpus, split: SplitConfig) -> str:
    """Name a split by its clips, so that an edited list of ids is another split."""
    chosen = choose(target, split)
    sides = [chosen.train.tolist(), chosen.dev.tolist()]
    folds = [] if chosen.folds is None else [chosen.folds.tolist()]
    return _key(SPLIT_VERSION, target.content_hash, chosen.classes, *sides, *folds)


def _key(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=10).hexdigest()
