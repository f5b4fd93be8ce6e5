"""A search as one HTML file that opens anywhere: what was found, how sure it is, what it cost, what it looks like."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kinemic.documents import load_result
from kinemic.files import write_text
from kinemic.report import mean, shown
from search import confirmation, contenders, noise_report
from search import study as studies
from search.baselines import BEST, NONE
from search.board import importances
from search.figures import figures, importances_note, plotly_js
from search.folder import SearchFolder, differences
from search.goal import TITLES
from search.status import TrialRow, trial_rows
from search.wording import (
    DIAGNOSTICS,
    accuracy,
    by_objective,
    described,
    objective_cell,
    objective_column,
    percent,
    ranked,
    ratio,
    span,
    states,
)

LEADERS = 20
_PICTURED = 3  # trials whose clips are shown


def write_report(folder: SearchFolder, study: optuna.Study, path: Path) -> None:
    """Write a search's report as one self-contained HTML file, also while the search runs.

    Raises KinemicError where no trial has finished yet, or where the file can't be written.
    """
    write_text(path, render(folder, study))


def render(folder: SearchFolder, study: optuna.Study) -> str:
    """Return the report as HTML. Raises KinemicError where no trial has finished yet."""
    config, rows = folder.config(), trial_rows(study)
    studies.best_trial(study)  # raises where there is nothing to report
    leaders, found = ranked(rows), importances(study)
    noise = noise_report.load(folder.noise_file)
    others = differences(noise.settings, noise_report.settings_of(config)) if noise and noise.settings else ()
    environment = Environment(
        loader=PackageLoader("search"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "accuracy": accuracy, "shown": shown, "share": span, "ratio": ratio}
    environment.filters |= {"objective_cell": objective_cell, "by_objective": by_objective}
    template = environment.get_template("report.html")
    return template.render(
        name=config.name,
        facts=_facts(config.budget.trials, rows, config.trial.judge.profile, config.judge_seeds),
        objective_column=objective_column(leaders),
        best=leaders[0],
        best_settings=leaders[0].values,
        leaders=[(row, described(row, len(row.own))) for row in leaders[:LEADERS]],
        diagnostics={
            name: head for name, head in DIAGNOSTICS.items() if any(name in row.diagnostics for row in leaders)
        },
        figures=[(f.title, f.note, Markup(f.html)) for f in figures(study, list(found))],
        importances_note=importances_note(len(leaders)),
        contenders=contenders.load(folder.contenders_file),
        confirmation=confirmation.load(folder.confirmation_file),
        noise=noise,
        noise_of_others=list(others),
        repetitions=len(config.seeds),
        classes=class_gains(folder, study),
        confusion=_data_uri(_artifacts(folder, leaders[0].number) / "confusion.png"),
        failures=_failures(rows),
        compute=compute_by_stage(study),
        clips=[
            (row, uri)
            for row in leaders[:_PICTURED]
            if (uri := _data_uri(_artifacts(folder, row.number) / "clips.gif"))
        ],
        plotly_js=Markup(plotly_js()),
    )


def compute_by_stage(study: optuna.Study) -> dict[str, float]:
    """Return the seconds that all trials spent in each stage, the dearest first."""
    spent: Counter[str] = Counter()
    for trial in study.get_trials(deepcopy=False):
        for report in studies.reports(trial):
            spent.update(report.seconds)
    return dict(spent.most_common())


def class_gains(folder: SearchFolder, study: optuna.Study) -> list[dict[str, Any]]:
    """Return accuracy (0..1) by class of the contenders "real + augmentation" and best, over the same fresh seeds.

    Empty where one of them was not run yet. The largest gain comes first.
    """
    runs = _contender_folders(folder, study)
    real, chosen = (_by_class(runs.get(key, ())) for key in (NONE, BEST))
    rows = [
        {"name": name, "real": real[name], "best": chosen[name], "gain": chosen[name] - real[name]}
        for name in real
        if name in chosen
    ]
    return sorted(rows, key=lambda row: -row["gain"])


def _contender_folders(folder: SearchFolder, study: optuna.Study) -> dict[str, list[Path]]:
    """Return by key where each repetition of a contender is run; those of an earlier best trial are left out."""
    planned = contenders.planned_of(study, folder.config(), folder)
    return {key: [run.workdir for run in runs] for key, runs in planned.items()}


def _by_class(runs: Sequence[Path]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for file in (run / "artifacts" / "per_class.json" for run in runs):
        for row in load_result(file, list[dict[str, Any]], "delete it, the report does without") or ():
            if row["dev_accuracy"] is not None:
                found.setdefault(row["class"], []).append(row["dev_accuracy"])
    return {name: mean(values) for name, values in found.items()}


def _facts(budget: int, rows: Sequence[TrialRow], profile: str, judge_seeds: int) -> dict[str, str]:
    running = any(row.state == "running" for row in rows)
    return {
        "trials": f"{len(rows)} of {budget}: {states(rows)}" + (" (the search goes on)" if running else ""),
        "objective": TITLES[rows[0].objective],
        "judge": f"profile {profile}, {judge_seeds} seed{'s' if judge_seeds > 1 else ''} a trial",
        "compute of all trials": _compute(rows),
    }


def _compute(rows: Sequence[TrialRow]) -> str:
    spent, reused = sum(row.seconds for row in rows), sum(row.reused for row in rows)
    return f"{spent:.0f} s" + (f", and {reused:.0f} s spared by shared stages" if reused >= 1 else "")


def _failures(rows: Sequence[TrialRow]) -> list[tuple[str, int, str]]:
    """Return each kind of failure, how often it came, and the first message."""
    failed = [row for row in rows if row.failure_kind]
    counted = Counter(row.failure_kind for row in failed)
    first = {row.failure_kind: row.failure_message for row in reversed(failed)}
    return [(kind, count, first[kind]) for kind, count in counted.most_common()]


def _artifacts(folder: SearchFolder, number: int) -> Path:
    return folder.trials / f"{number:04d}" / "artifacts"


def _data_uri(path: Path) -> str:
    """Return a picture as a data URI; empty where there is none."""
    if not path.exists():
        return ""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
