"""What a person is shown of a trial beside its numbers: which clips it mined, and what of its settings was changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kinemic.config import TrialConfig
from search import study as studies
from search.folder import SearchFolder
from search.live import summary_line, trial_table
from search.records import as_table, rung_metrics
from search.registry import Registry, find_run
from search.status import trial_rows
from search.tracking import open_tracker
from tests.bench import Bench, search
from tests.test_tracking import VALUES, report

CLAMPED = "mining.top_k 700 is above the source's 600 clips: every clip is taken"
CUT = "judge profile temporal takes 20 clips"


def test_what_generated_clips_are_like_is_logged_by_its_name() -> None:
    metrics = rung_metrics(replace(report(5), diagnostics={"spread_generated_over_real": 0.5}), seconds=1.0)
    assert metrics["spread_generated_over_real"] == 0.5


def test_a_rung_is_logged_with_what_its_probabilities_are_worth() -> None:
    scores = {"log_likelihoods": (-1.0, -2.0), "briers": (0.2, 0.6)}
    ensemble = {"log_likelihood_ensemble": -1.2, "brier_ensemble": 0.3}
    metrics = rung_metrics(replace(report(5), **scores, **ensemble), seconds=1.0)
    found = {key: metrics[key] for key in metrics if "likelihood" in key or "brier" in key}
    assert found == {
        "dev_log_likelihood": -1.5,
        "dev_log_likelihood_ensemble": -1.2,
        "dev_brier": pytest.approx(0.4),
        "dev_brier_ensemble": 0.3,
    }
    assert not any("brier" in key for key in rung_metrics(replace(report(5), **_UNKNOWN), 1.0))  # an older report


_UNKNOWN: dict[str, Any] = {
    "log_likelihoods": (), "briers": (), "log_likelihood_ensemble": None, "brier_ensemble": None
}  # fmt: skip


def test_a_list_of_captions_is_one_readable_cell(tmp_path: Path) -> None:
    file = tmp_path / "mined.json"
    file.write_text(
        json.dumps([{"rank": 1, "captions": ["a man waves", "l\u2019homme salue"], "near": [0.5]}, {"rank": 2}])
    )
    table = as_table(file)
    assert table is not None
    assert table["columns"] == ["rank", "captions", "near"]
    assert table["data"] == [[1, "a man waves | l\u2019homme salue", "[0.5]"], [2, None, None]]


def test_warnings_are_a_tag_of_the_run_of_a_trial_that_has_some(empty_store: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = open_tracker(uri, "test", "study-1", "study", tmp_path / "store")
    for number, warnings in enumerate(((CLAMPED, CUT), ())):
        tracker.start_trial(number, VALUES, TrialConfig())
        tracker.log_rung(number, replace(report(5), warnings=warnings))
    assert tracker.close("FINISHED")
    tags = [find_run(Registry(uri, "test", "m"), "study-1", number).data.tags for number in (0, 1)]
    assert tags[0]["kinemic.warnings"] == f"{CLAMPED}; {CUT}"
    assert "kinemic.warnings" not in tags[1]


@pytest.mark.parametrize("warnings", [(CLAMPED, CUT), ()])
def test_the_status_counts_warnings_and_names_the_first_where_there_are_any(
    warnings: tuple[str, ...], tmp_path: Path
) -> None:
    bench = Bench(search(budget={"trials": 3}), tmp_path)
    bench.run_all()
    trial = bench.study.ask()
    studies.store_report(trial, replace(report(5), warnings=warnings))
    rows, console = trial_rows(bench.study), Console(width=200)
    with console.capture() as shown:
        console.print(trial_table(rows, SearchFolder(tmp_path)))
    head, *lines = shown.get().splitlines()
    assert ("warnings" in head.split()) == bool(warnings)
    assert lines[3].split()[:7] == ["3", "running", "5", "55.0", "+-", "5.0", "2.0"]
    assert lines[3].split()[7:8] == (["2"] if warnings else [])
    assert lines[0].split()[7] != "2"
    said = f"warnings in 1, trial 3: {CLAMPED}"
    assert (said in summary_line(rows, 3)) == bool(warnings)
