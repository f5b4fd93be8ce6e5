"""The best trial, ready to be used elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import optuna
import yaml

from kinemic.errors import KinemicError
from search import study as studies
from search.config import SearchConfig
from search.folder import SearchFolder
from search.space import Scalar

GENERATOR = "generator.safetensors"


def settings(values: dict[str, Scalar]) -> list[str]:
    """Return searched values as ``--set`` arguments of a trial."""
    return [f"trial.{path}={yaml.safe_dump(value).splitlines()[0]}" for path, value in values.items()]


def export_best(config: SearchConfig, folder: SearchFolder, study: optuna.Study, target: Path) -> int:
    """Copy the best trial's generator, its configuration and a note into a new folder; returns the trial's number.

    The folder appears whole or not at all. Raises KinemicError where it is there already with something in it, or
    where the trial left no generator.
    """
    best = studies.best_trial(study)
    source = folder.trials / f"{best.number:04d}" / GENERATOR
    if not source.exists():
        raise KinemicError(f"trial {best.number} left no {GENERATOR} in {source.parent}; run the search again")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise KinemicError(f"{target}: is there already and not empty; give a new folder")
    trial = studies.trial_config(config, studies.trial_values(best))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            bundle = Path(temporary) / "bundle"
            bundle.mkdir()
            shutil.copyfile(source, bundle / GENERATOR)
            data = {"search": config.name, "trial": best.number, "dev_accuracy": best.value}
            data |= {"seeds": config.seeds.model_dump(mode="json"), "config": trial.model_dump(mode="json")}
            (bundle / "config.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
            (bundle / "README.md").write_text(_readme(config, best.number, best.value), encoding="utf-8")
            bundle.replace(target)
    except OSError as error:
        raise KinemicError(f"{target}: cannot be written ({error.strerror}); give another folder") from error
    return best.number


def _readme(config: SearchConfig, number: int, accuracy: float | None) -> str:
    return (
        f"# Generator of trial {number} of the search {config.name}\n\n"
        f"Dev accuracy {accuracy:.4f} (chosen on these clips). Everything that generation needs is in {GENERATOR}:\n\n"
        '    kinemic generate --model . --action "NAME" -n 20\n'
    )
