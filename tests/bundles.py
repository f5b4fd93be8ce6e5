"""A whole generator bundle that was never trained: its clips are noise around a standing body, made in no time."""

from __future__ import annotations

from functools import lru_cache

import torch

from kinemic.bundle import GeneratorBundle
from kinemic.config import ModelConfig, TrialConfig, TrialSeeds
from kinemic.data.procedural import generate_target
from kinemic.models.mdm import MDM
from kinemic.motion import Statistics, compute_statistics, joints_to_features

CLASSES = ("wave", "kick", "squat")
CAPTIONS = (("A person waves.", "someone greets"), ("A person kicks.",), ("A person squats.",))


@lru_cache
def _statistics() -> Statistics:
    return compute_statistics([joints_to_features(clip.joints_TJ3) for clip in generate_target(1, seed=0)])


def random_bundle(lengths: tuple[int, ...] = (16, 24, 41), classes: tuple[str, ...] = CLASSES) -> GeneratorBundle:
    """Return a generator of random weights; every class has clips of these lengths, in frames."""
    config = ModelConfig(width=8, layers=1, heads=1, ff=8, text_dim=4)
    captions = CAPTIONS[: len(classes)]
    return GeneratorBundle(
        model=MDM(config, actions=len(classes)).eval(),
        model_config=config,
        statistics=_statistics(),
        diffusion_steps=4,
        classes=classes,
        captions=captions,
        text=tuple(torch.eye(4)[: len(c)] for c in captions),
        lengths=(lengths,) * len(classes),
        trial=TrialConfig.model_validate({"synthesis": {"sampling_steps": 2}, "judge": {"profile": "smoke"}}),
        seeds=TrialSeeds(),
        encoder_id="tfidf-4-test",
    )
