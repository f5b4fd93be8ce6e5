"""An exported folder as it is opened: the classifier, the generator, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kinemic.bundle import FILE_NAME, GeneratorBundle
from kinemic.classify import Classifier
from kinemic.errors import CheckpointError
from kinemic.judges import CLASSIFIER, load_classifier


@dataclass(frozen=True)
class ExportedModel:
    """What a trial left, by class; folders of earlier versions hold a generator alone."""

    classes: tuple[str, ...]
    classifier: Classifier | None
    generator: GeneratorBundle | None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> ExportedModel:
        """Open a folder. Raises CheckpointError where it holds neither, and where the two have other classes."""
        classifier, known = load_classifier(folder, device) if (folder / CLASSIFIER).exists() else (None, ())
        if classifier is not None and not (folder / FILE_NAME).exists():
            return cls(known, classifier, None)
        generator = GeneratorBundle.load(folder)
        if classifier is not None and known != generator.classes:
            raise CheckpointError(f"{folder}: {CLASSIFIER} and {FILE_NAME} have other classes; export the trial again")
        return cls(generator.classes, classifier, generator)
