"""An exported model as MLflow's pyfunc flavour loads it: this module by name, weights from safetensors, no pickle.

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    labels = model.predict(pandas.DataFrame({"joints": [clip]}))
    clips = model.predict(pandas.DataFrame({"action": ["wave"], "count": [20]}), params={"seed": 1})

Whoever loads it has kinemic installed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kinemic.bundle import GeneratorBundle
from kinemic.classify import Classifier
from kinemic.config import SynthesisConfig
from kinemic.device import resolve_device
from kinemic.errors import ConfigError
from kinemic.metrics import softmax
from kinemic.motion import features_to_joints
from kinemic.reading import parse
from search.exported import ExportedModel


class Predictor:
    """Labels clips and, with a generator, generates them: what a request holds says which."""

    def __init__(self, model: ExportedModel, device: str) -> None:
        self._model, self._device = model, device

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return labels of the clips in a column ``joints``, or clips of the classes in ``action``, ``count`` a row.

        Labels: a row a clip with ``label``, its ``probability``, and the ``probabilities`` of all classes, in the order
        of the model's metadata. A clip is an array (frames, 22, 3) in metres, y up. Clips: one row each, in the order
        asked for, with ``action``, ``caption`` (what the clip was generated from), ``frames`` and ``joints`` at 20
        frames a second. ``params`` may hold ``seed`` and ``guidance``; the same seed gives the same clips, and a row
        goes on where the one before of its class ended. Raises ConfigError for a request that the model can't answer,
        an unknown class, a count below 1, and a guidance below 0, and DataError for joints that can't be used.
        """
        if "joints" in model_input and "action" not in model_input:
            return self._label(model_input["joints"])
        if "action" in model_input and "count" in model_input and "joints" not in model_input:
            return self._generate(model_input, dict(params or {}))
        found = ", ".join(map(str, model_input.columns)) or "none"
        raise ConfigError(f"expected a column joints, to label clips, or action and count, to generate; got {found}")

    def _label(self, clips: pd.Series[Any]) -> pd.DataFrame:
        classifier: Classifier | None = self._model.classifier
        if classifier is None:
            raise ConfigError("this model was exported without a classifier; it generates by action and count")
        logits_NC, _ = classifier.score([np.asarray(clip, np.float32) for clip in clips])
        probabilities_NC = softmax(logits_NC)
        best_N = probabilities_NC.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": [self._model.classes[best] for best in best_N],
                "probability": probabilities_NC.max(axis=1),
                "probabilities": list(probabilities_NC),
            },
            index=clips.index,
        )

    def _generate(self, model_input: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
        bundle = self._model.generator
        if bundle is None:
            raise ConfigError("this model has no generator; it labels the clips of a column joints")
        seed = int(settings.pop("seed", 0))
        synthesis = parse(SynthesisConfig, bundle.trial.synthesis.model_dump() | settings, "params")
        asked = [(str(a), int(n)) for a, n in zip(model_input["action"], model_input["count"], strict=True)]
        totals: Counter[int] = Counter()
        for action, count in asked:
            if count < 1:
                raise ConfigError(f"count of {action!r}: expected at least 1, got {count}")
            totals[bundle.class_index(action)] += count
        made = {label: self._clips(bundle, label, count, seed, synthesis) for label, count in totals.items()}
        rows = [next(made[bundle.class_index(action)]) for action, count in asked for _ in range(count)]
        return pd.DataFrame(rows, columns=["action", "caption", "frames", "joints"])

    def _clips(
        self, bundle: GeneratorBundle, label: int, count: int, seed: int, synthesis: SynthesisConfig
    ) -> Iterator[tuple[str, str, int, object]]:
        made = bundle.generate([label], count, seed, self._device, synthesis)
        assert made.prompts is not None
        for features, prompt in zip(made.features, made.prompts, strict=True):
            caption = bundle.captions[label][prompt]
            yield bundle.classes[label], caption, len(features), features_to_joints(features)


def _load_pyfunc(data_path: str) -> Predictor:
    """Load the model from the folder that was exported; MLflow asks for a function of this name."""
    device = resolve_device()
    return Predictor(ExportedModel.load(Path(data_path), device), device)
