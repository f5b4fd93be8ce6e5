"""The generator as MLflow's pyfunc flavour loads it: this module by name, weights from safetensors, nothing unpickled.

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    clips = model.predict(pandas.DataFrame({"action": ["wave"], "count": [20]}), params={"seed": 1})

Whoever loads it has kinemic installed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kinemic.bundle import GeneratorBundle
from kinemic.config import SynthesisConfig
from kinemic.device import resolve_device
from kinemic.errors import ConfigError
from kinemic.motion import features_to_joints
from kinemic.reading import parse


class ClipGenerator:
    """Generates clips of the classes that a bundle knows."""

    def __init__(self, bundle: GeneratorBundle, device: str) -> None:
        self._bundle, self._device = bundle, device

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return one row a clip, in the order of the rows of ``action`` (a class's name) and ``count``.

        Columns are ``action``, ``caption`` (what the clip was generated from), ``frames`` and ``joints``, an array
        (frames, 22, 3) in metres, y up, 20 frames a second. ``params`` may hold ``seed`` and ``guidance``; the same
        seed gives the same clips, and a row goes on where the one before of its class ended. Raises ConfigError for an
        unknown class, a count below 1, and a guidance below 0.
        """
        settings = dict(params or {})
        seed = int(settings.pop("seed", 0))
        synthesis = parse(SynthesisConfig, self._bundle.trial.synthesis.model_dump() | settings, "params")
        asked = [(str(a), int(n)) for a, n in zip(model_input["action"], model_input["count"], strict=True)]
        totals: Counter[int] = Counter()
        for action, count in asked:
            if count < 1:
                raise ConfigError(f"count of {action!r}: expected at least 1, got {count}")
            totals[self._bundle.class_index(action)] += count
        made = {label: self._clips(label, count, seed, synthesis) for label, count in totals.items()}
        rows = [next(made[self._bundle.class_index(action)]) for action, count in asked for _ in range(count)]
        return pd.DataFrame(rows, columns=["action", "caption", "frames", "joints"])

    def _clips(
        self, label: int, count: int, seed: int, synthesis: SynthesisConfig
    ) -> Iterator[tuple[str, str, int, object]]:
        made = self._bundle.generate([label], count, seed, self._device, synthesis)
        assert made.prompts is not None
        for features, prompt in zip(made.features, made.prompts, strict=True):
            caption = self._bundle.captions[label][prompt]
            yield self._bundle.classes[label], caption, len(features), features_to_joints(features)


def _load_pyfunc(data_path: str) -> ClipGenerator:
    """Load the model from the folder that was exported; MLflow asks for a function of this name."""
    return ClipGenerator(GeneratorBundle.load(Path(data_path)), resolve_device())
