"""Synthetic training clips by where they come from: ``synthesis.source`` (METHOD sections 5 and 7).

What is made of an adapted generator, of the prior or by a trained MIC is kept for all trials; mined clips as they are
cost nothing. Every clip is drawn from a seed of its own, so that the number of clips changes none.
Shapes: B batch, T frames, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinemic.adapt import fingerprint
from kinemic.clips import ClipSet
from kinemic.config import ClipSource
from kinemic.device import to_host
from kinemic.losses import prior_timesteps
from kinemic.seeding import numpy_generator
from kinemic.stages import Stages
from kinemic.synthesis import Synthetic, edit, synthesise

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_SAMPLING = {"guidance", "sampler", "sampling_steps", "batch_size"}
_EDITING = {*_SAMPLING, "strength", "edited_from"}


def synthetic_clips(stages: Stages) -> Synthetic | None:
    """Return the clips of the configured source as the fine-tuning stands, class by class; None if there are none.

    A class whose pool is empty is given none, whatever the source. Raises DataError, DivergedError.
    """
    parts = stages.config.synthesis.parts if stages.classes else {}
    made = [_MAKERS[source](stages, count) for source, count in parts.items()]
    return _joined(made) if made else None


def _generated(stages: Stages, count: int) -> Synthetic:
    def make() -> Synthetic:
        return stages.generator.generate(
            stages.classes, count, stages.seeds.generation, stages.device, progress=stages.progress
        )

    return stages.kept_clips(make, "generated", stages.adapted_key, _settings(stages, _SAMPLING), count)


def _from_prior(stages: Stages, count: int) -> Synthetic:
    material, prior = stages.material, stages.material.prior
    text, lengths = material.class_text(), material.few_shot_lengths

    def make() -> Synthetic:
        return synthesise(
            prior.model.to(stages.device),
            prior.diffusion_steps,
            text,
            lengths,
            stages.config.synthesis.model_copy(update={"clips_per_class": count}),
            prior.statistics,
            stages.seeds.generation,
            stages.device,
            stages.progress,
            stages.classes,
        )

    known = [fingerprint(prior), prior.diffusion_steps, prior.encoder_id, prior.caption_tokens]
    asked = [material.data.corpus.class_captions, lengths, _settings(stages, _SAMPLING)]
    return stages.kept_clips(make, "prior", known, asked, count)


def _edited(stages: Stages, count: int) -> Synthetic:
    """Edits of mined clips, windows or the few shots: of as many as there are, then of the same again by other noise.

    In a mixture those that are drawn last are edited first, as the others are in it already.
    """
    synthesis = stages.config.synthesis
    order = -1 if synthesis.source == "mixed" else 1

    def make() -> Synthetic:
        draw, cut = _EDITED_FROM[synthesis.edited_from]
        drawn = {label: np.resize(clips[::order], count) for label, clips in draw(stages)}
        generator = stages.generator
        return edit(
            generator.model.to(stages.device),
            generator.diffusion_steps,
            generator.text,
            {label: cut(stages, label, clips) for label, clips in drawn.items()},
            synthesis,
            generator.statistics,
            stages.seeds.generation,
            stages.device,
            stages.progress,
        )

    known = [stages.adapted_key, stages.pools_key, stages.material.few_shot_lengths, order]
    return stages.kept_clips(make, "edited", known, _settings(stages, _EDITING), count)


def _mined_clips(stages: Stages, count: int) -> Synthetic:
    return _as_they_are(stages, count, _whole)


def _mined_windows(stages: Stages, count: int) -> Synthetic:
    make = partial(_as_they_are, stages, count, _windows)
    if not stages.trains:
        return make()
    return stages.kept_clips(make, "windows", stages.adapted_key, stages.pools_key, count)


def _settings(stages: Stages, names: set[str]) -> dict[str, Any]:
    return stages.config.synthesis.model_dump(mode="json", include=names)


def _drawn(stages: Stages) -> Iterator[tuple[int, Indices]]:
    """Each class's pool in the order that its clips are taken in."""
    assert stages.pools is not None
    for label in stages.classes:
        rng = numpy_generator(stages.seeds.generation, "mined", label)
        yield label, rng.permutation(stages.pools.pools[label].indices)


def _few_shots(stages: Stages) -> Iterator[tuple[int, Indices]]:
    data = stages.material.data
    for label in stages.classes:
        yield label, data.train[data.corpus.labels[data.train] == label]


def _as_they_are(stages: Stages, count: int, cut: Callable[[Stages, int, Indices], list[Floats]]) -> Synthetic:
    """``count`` clips a class, or each of its pool's once where there are fewer, with a warning."""
    drawn = {label: clips[:count] for label, clips in _drawn(stages)}
    labels = np.repeat(list(drawn), [len(clips) for clips in drawn.values()])
    short = [f"{label} ({len(clips)})" for label, clips in drawn.items() if len(clips) < count]
    told = f"pools hold fewer than {count} clips in classes {', '.join(short)}: each clip is taken once"
    features = [clip for label, clips in drawn.items() for clip in cut(stages, label, clips)]
    return Synthetic(features, labels.astype(np.int64), warnings=(told,) if short else ())


def _whole(stages: Stages, label: int, clips: Indices) -> list[Floats]:
    return [np.asarray(stages.material.source.clip(int(i))[: stages.material.max_frames]) for i in clips]


def _shots(stages: Stages, label: int, clips: Indices) -> list[Floats]:
    return [np.asarray(stages.material.data.corpus.clip(int(i))[: stages.material.max_frames]) for i in clips]


def _windows(stages: Stages, label: int, clips: Indices) -> list[Floats]:
    """Cut each clip to a window as long as one of the class's few shots, unless it is shorter.

    The trained MIC chooses it, by its attention; where none is trained (``loss.contrastive`` 0), it lies anywhere.
    """
    source, shots = stages.material.source, stages.material.few_shot_lengths[label]
    draws = [numpy_generator(stages.seeds.generation, "window", label, k) for k in range(len(clips))]
    wanted = [int(rng.choice(shots)) for rng in draws]
    if stages.config.loss.contrastive > 0:
        spans = _attended(stages, clips, wanted)
    else:
        full = [int(source.lengths[i]) for i in clips]
        frames = [min(most, whole) for most, whole in zip(wanted, full, strict=True)]
        starts = [int(r.integers(whole - n + 1)) for r, whole, n in zip(draws, full, frames, strict=True)]
        spans = list(zip(starts, frames, strict=True))
    return [np.asarray(source.clip(i)[start : start + n]) for i, (start, n) in zip(clips.tolist(), spans, strict=True)]


@torch.inference_mode()
def _attended(stages: Stages, clips: Indices, wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Return start and length of each clip's window of largest attention.

    The clip is shown at the first timestep and without noise, where there is most to see.
    """
    material, adaptation = stages.material, stages.adaptation
    found = ClipSet.build(
        material.source, clips, material.prior.statistics, material.condition_encoder, material.max_frames
    )
    batch = found.on_device(adaptation.device).batch(torch.arange(len(clips)))
    lengths_B = torch.tensor(wanted, device=adaptation.device)
    t_B = torch.zeros_like(lengths_B)
    t_prior_B = prior_timesteps(t_B, adaptation.adapt.diffusion_steps, material.prior.diffusion_steps)
    seen = adaptation.streams.see_source(batch, lengths_B, t_B, t_prior_B, torch.zeros_like(batch.x_BTF))
    starts, frames = to_host(torch.stack((seen.starts_B, seen.lengths_B))).tolist()
    return list(zip(starts, frames, strict=True))


def _joined(made: Sequence[Synthetic]) -> Synthetic:
    """Return the parts of a mixture as one, class by class; the prompt of a mined clip is -1."""
    if len(made) == 1:
        return made[0]
    labels = np.concatenate([part.labels for part in made])
    features = [clip for part in made for clip in part.features]
    order = np.argsort(labels, kind="stable")
    warnings = dict.fromkeys(line for part in made for line in part.warnings)
    prompts = np.concatenate([np.full(len(p.labels), -1) if p.prompts is None else p.prompts for p in made])
    return Synthetic([features[i] for i in order], labels[order], prompts[order], tuple(warnings))


_EDITED_FROM = {
    "mined_clips": (_drawn, _whole),
    "mined_windows": (_drawn, _windows),
    "few_shots": (_few_shots, _shots),
}
_MAKERS: dict[ClipSource, Callable[[Stages, int], Synthetic]] = {
    "generated": _generated,
    "prior": _from_prior,
    "edited": _edited,
    "mined_clips": _mined_clips,
    "mined_windows": _mined_windows,
}
