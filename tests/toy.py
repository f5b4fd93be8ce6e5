"""The smallest true experiment: a generated corpus of a few clips and a prior of a few steps."""

from __future__ import annotations

from typing import Any

from kinemic.config import ExperimentConfig
from kinemic.reading import parse

TOY: dict[str, Any] = {
    "data": {
        "source": {"format": "generated", "part": "source", "clips": 40},
        "target": {"format": "generated", "part": "target", "clips": 24},
        "split": {
            "classes": ["wave", "squat", "kick"],
            "shots": 2,
            "train_subjects": ["s01", "s02"],
            "dev_subjects": ["s03", "s04", "s05"],
        },
    },
    "text": {"encoder": "tfidf", "dim": 16},
    "prior": {"pretrain": {"model": {"width": 16, "layers": 1, "heads": 2, "ff": 32}, "steps": 3, "batch_size": 4}},
    "trial": {
        "mining": {"top_k": 5},
        "adapt": {"rungs": [2, 4], "batch_size": 4, "diffusion_steps": 10, "lora": {"rank": 2}},
        "synthesis": {"clips_per_class": 2, "sampling_steps": 3},
        "judge": {"profile": "smoke"},
    },
    "seeds": {"judge": [0, 1]},
}


def toy_experiment() -> ExperimentConfig:
    """Return the toy experiment."""
    return parse(ExperimentConfig, TOY, "toy")
