"""A trial's classifier and generator, checked and ready to be used elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

import kinemic
from kinemic.bundle_check import FILE_NAME as CHECK
from kinemic.bundle_check import BundleCheck
from kinemic.documents import dump_yaml
from kinemic.errors import KinemicError
from kinemic.files import new_folder, write_text
from kinemic.progress import Progress, ProgressCallback, silent
from kinemic.report import RungReport
from search import study as studies
from search.choice import Choice
from search.config import SearchConfig
from search.folder import SearchFolder
from search.space import Scalar
from search.status import trial_rows
from search.wording import ranked

if TYPE_CHECKING:
    from search.registry import Registry

GENERATOR, CLASSIFIER = "generator.safetensors", "classifier.safetensors"
_PARTS = (CLASSIFIER, GENERATOR)


@dataclass(frozen=True)
class Exported:
    """What was exported: what the check found, the registry's version of the model, and a line on what it lacks."""

    check: BundleCheck
    version: str | None
    lacks: str = ""


def settings(values: dict[str, Scalar]) -> list[str]:
    """Return searched values as ``--set`` arguments of a trial."""
    return [f"trial.{path}={dump_yaml(value).splitlines()[0]}" for path, value in values.items()]


def export_trial(
    config: SearchConfig,
    folder: SearchFolder,
    study: optuna.Study,
    chosen: Choice,
    target: Path,
    registry: Registry | None = None,
    progress: ProgressCallback = silent,
) -> Exported:
    """Copy a trial's classifier, its generator if it has one, and its configuration into a new folder; check, register.

    The folder appears whole or not at all. Raises KinemicError where it is there already with something in it, where
    the trial left neither, where they fail their check, and where the registry can't take it.
    """
    number = chosen.trial.number
    source = _workdir(folder, number)
    parts = [name for name in _PARTS if (source / name).exists()]
    if not parts:
        raise KinemicError(f"trial {number} left no {CLASSIFIER} in {source}; run the search again")
    trial = studies.trial_config(config, studies.trial_values(chosen.trial))
    report, state = studies.reports(chosen.trial)[-1], folder.state()
    register = _registration(registry, config, state.identity, number, report) if registry else None
    with new_folder(target) as bundle:
        for name in parts:
            shutil.copyfile(source / name, bundle / name)
        data = {"search": config.name, "trial": number, "chosen": chosen.line}
        data |= {"dev_accuracy": report.dev_accuracy, "dev_accuracy_se": report.dev_accuracy_se}
        data |= {
            "seeds": [each.model_dump(mode="json") for each in config.seeds],
            "config": trial.model_dump(mode="json"),
        }
        write_text(bundle / "config.yaml", dump_yaml(data))
        write_text(bundle / "README.md", _readme(config, chosen, parts))
        progress(Progress("check", 0, 1))
        found = check_in_fresh_process(bundle, state.inputs.trial_data)
        progress(Progress("check", 1, 1))
        version = register(bundle) if register else None
    return Exported(found, version, _lacks(config, folder, study, number, trial.synthesis.source, parts))


def _workdir(folder: SearchFolder, number: int) -> Path:
    return folder.trials / f"{number:04d}"


def _lacks(
    config: SearchConfig, folder: SearchFolder, study: optuna.Study, number: int, source: str, parts: list[str]
) -> str:
    """Return a line on the part that a trial has not, and which trial has one; empty if it has both."""
    if CLASSIFIER not in parts:
        return f"trial {number} is of an earlier version and kept no classifier: it generates, but labels nothing"
    if GENERATOR in parts:
        return ""
    able = [row.number for row in ranked(trial_rows(study)) if (_workdir(folder, row.number) / GENERATOR).exists()]
    other = f"; the best trial that has one: kinemic search export {config.name} DIR --trial {able[0]}" if able else ""
    return f"trial {number} has no generator: its synthetic clips are {source.replace('_', ' ')}{other}"


def check_in_fresh_process(bundle: Path, few_shots: Path) -> BundleCheck:
    """Let a new Python load the folder, generate and judge; what it found is written into the folder.

    Clips go unjudged where the few shots are no longer there. Raises KinemicError with that Python's own error.
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
        errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        why = errors[-1] if errors else f"its process ended with exit code {done.returncode}"
        raise KinemicError(f"nothing exported, the model fails its check: {why}")
    return BundleCheck.from_json((bundle / CHECK).read_text(encoding="utf-8"))


def _registration(
    registry: Registry, config: SearchConfig, identity: str, number: int, report: RungReport
) -> Callable[[Path], str]:
    """Return what registers a folder, once it is known that the registry can be reached and knows the trial."""
    from search.exported import ExportedModel
    from search.registry import Facts, find_run, register

    run = find_run(registry, identity, number)

    def register_bundle(bundle: Path) -> str:
        model = ExportedModel.load(bundle)
        generator = model.generator
        facts = Facts(
            search=config.name,
            trial=number,
            dev_accuracy=report.dev_accuracy,
            dev_accuracy_se=report.dev_accuracy_se,
            classes=model.classes,
            classifier=model.classifier.profile if model.classifier else None,
            encoder_id=generator.encoder_id if generator else None,
            guidance=generator.trial.synthesis.guidance if generator else None,
        )
        return register(bundle, registry, run, facts)

    return register_bundle


def _readme(config: SearchConfig, chosen: Choice, parts: list[str]) -> str:
    text = (
        f"# Trial {chosen.trial.number} of the search {config.name}\n\n{chosen.line}. `{CHECK}` says what it can do.\n"
    )
    if CLASSIFIER in parts:
        text += f"\n{CLASSIFIER} labels clips, joints (frames, 22, 3) in metres, y up:\n\n"
        text += "    kinemic classify --model . CLIPS --out labels.csv\n"
    if GENERATOR in parts:
        text += f"\nEverything that generation needs is in {GENERATOR}:\n\n"
        text += '    kinemic generate --model . --action "NAME" -n 20\n'
        text += "    kinemic synth write --model . --format npz -n 100 SET\n"
    return text
