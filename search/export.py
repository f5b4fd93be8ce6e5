"""The best trial, checked and ready to be used elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml

import kinemic
from kinemic.bundle_check import FILE_NAME as CHECK
from kinemic.bundle_check import BundleCheck
from kinemic.errors import KinemicError
from kinemic.files import new_folder, write_text
from kinemic.progress import Progress, ProgressCallback, silent
from search import study as studies
from search.config import SearchConfig
from search.folder import SearchFolder
from search.space import Scalar

if TYPE_CHECKING:
    from search.registry import Registry

GENERATOR = "generator.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was exported: the trial's number, what the check found, and the registry's version of the model."""

    number: int
    check: BundleCheck
    version: str | None


def settings(values: dict[str, Scalar]) -> list[str]:
    """Return searched values as ``--set`` arguments of a trial."""
    return [f"trial.{path}={yaml.safe_dump(value).splitlines()[0]}" for path, value in values.items()]


def export_best(
    config: SearchConfig,
    folder: SearchFolder,
    study: optuna.Study,
    target: Path,
    registry: Registry | None = None,
    progress: ProgressCallback = silent,
) -> Exported:
    """Copy the best trial's generator and its configuration into a new folder, check it, and register it.

    The folder appears whole or not at all. Raises KinemicError where it is there already with something in it, where
    the trial left no generator, where the generator can't generate, and where the registry can't take it.
    """
    best = studies.best_trial(study)
    source = folder.trials / f"{best.number:04d}" / GENERATOR
    if not source.exists():
        raise KinemicError(f"trial {best.number} left no {GENERATOR} in {source.parent}; run the search again")
    last = studies.reports(best)[-1]
    facts = {"search": config.name, "trial": best.number}
    facts |= {"dev_accuracy": last.dev_accuracy, "dev_accuracy_se": last.dev_accuracy_se}
    trial = studies.trial_config(config, studies.trial_values(best))
    with new_folder(target) as bundle:
        shutil.copyfile(source, bundle / GENERATOR)
        seeds = config.seeds.model_dump(mode="json")
        data = facts | {"seeds": seeds, "config": trial.model_dump(mode="json")}
        write_text(bundle / "config.yaml", yaml.safe_dump(data, sort_keys=False))
        write_text(bundle / "README.md", _readme(facts))
        progress(Progress("check", 0, 1))
        found = check_in_fresh_process(bundle, folder.state().inputs.trial_data)
        progress(Progress("check", 1, 1))
        version = _register(bundle, registry, study.study_name, facts, trial.synthesis.guidance) if registry else None
    return Exported(best.number, found, version)


def check_in_fresh_process(bundle: Path, few_shots: Path) -> BundleCheck:
    """Let a new Python load the folder, generate and judge; what it found is written into the folder.

    Clips go unjudged where the few shots are no longer there. Raises KinemicError with that Python's own last line.
    """
    shots = ["--shots", str(few_shots)] if few_shots.exists() else []
    check = ["synth", "check", "--model", str(bundle), "--out", str(bundle / CHECK), *shots]
    done = subprocess.run(
        [sys.executable, "-m", "kinemic.cli", *check],
        cwd=Path(kinemic.__file__).parents[1],  # so that it finds this very kinemic, installed or not
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        *_, why = done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"]
        raise KinemicError(f"nothing exported, the generator fails its check: {why.removeprefix('error: ')}")
    return BundleCheck.from_json((bundle / CHECK).read_text(encoding="utf-8"))


def _register(bundle: Path, registry: Registry, study: str, facts: dict[str, Any], guidance: float) -> str:
    from kinemic.checkpoint import read_meta
    from search.registry import register

    meta = read_meta(bundle / GENERATOR)
    known = {"encoder_id": meta["encoder_id"], "classes": meta["classes"]}
    return register(bundle, registry, study, facts | known, guidance)


def _readme(facts: dict[str, Any]) -> str:
    return (
        f"# Generator of trial {facts['trial']} of the search {facts['search']}\n\n"
        f"Dev accuracy {facts['dev_accuracy']:.4f} (chosen on these clips); `{CHECK}` says what its clips are like. "
        f"Everything that generation needs is in {GENERATOR}:\n\n"
        '    kinemic generate --model . --action "NAME" -n 20\n'
        "    kinemic synth write --model . --format npz -n 100 SET\n"
    )
