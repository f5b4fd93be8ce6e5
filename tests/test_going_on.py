"""Who may go on with a search, and with which file: one process at a time, and the settings it was started with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kinemic.cli import run as command
from kinemic.errors import KinemicError
from search import runner
from search import study as studies
from search.baselines import contenders as contender_rows
from search.config import ConfirmConfig, SearchConfig
from search.contenders import planned
from search.folder import SearchFolder
from search.lock import sole
from search.sitting import sit
from tests import analytic
from tests.bench import RUNGS, SPACE, Bench, search

NAME = "mine"
CONFIRM = {"test_subjects": ["s09"]}


def of(**more: object) -> SearchConfig:
    return search(**{"name": NAME, "storage": None, **more})


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    """A search that was started; its inputs are there, so that nothing is prepared again."""
    inputs = analytic.inputs(tmp_path)
    for path in (inputs.source, inputs.trial_data, inputs.prior, inputs.encoder, inputs.cache):
        path.touch()
    return runner.start(of(), tmp_path, prepared=(inputs, analytic.SOURCE_CLIPS)).folder


def again(folder: SearchFolder, config: SearchConfig) -> SearchConfig:
    return runner.start_or_reopen(config, folder.path.parent).config


def test_a_test_split_that_came_later_or_changed_is_taken_until_the_confirmation_begins(folder: SearchFolder) -> None:
    first = ConfirmConfig.model_validate(CONFIRM)
    changed = ConfirmConfig.model_validate(CONFIRM | {"seeds": 5})
    assert again(folder, of(confirm=CONFIRM)).confirm == folder.config().confirm == first
    assert again(folder, of(confirm=CONFIRM | {"seeds": 5})).confirm == folder.config().confirm == changed
    assert again(folder, of()).confirm == changed  # a file without one takes nothing away
    folder.confirmation.mkdir()
    assert again(folder, of(confirm=CONFIRM | {"seeds": 5})).confirm == changed
    with pytest.raises(KinemicError, match=r"has begun: confirm\.seeds was 5 and is 3 now; .*search\.yaml") as caught:
        again(folder, of(confirm=CONFIRM))
    assert "\n" not in str(caught.value)
    assert folder.config().confirm == changed


def test_a_file_of_other_settings_is_refused_with_the_first_of_them(folder: SearchFolder) -> None:
    guidance = {**SPACE["synthesis.guidance"], "high": 4.0}
    other = of(space={**SPACE, "synthesis.guidance": guidance}, sampler={"kind": "tpe", "seed": 7}, confirm=CONFIRM)
    line = (
        r"other settings, .* space\.synthesis\.guidance\.high was 5\.0 and is 4\.0 now \(and 1 more\); .*--set name=NEW"
    )
    with pytest.raises(KinemicError, match=line):
        again(folder, other)
    with pytest.raises(KinemicError, match=rf"trial\.adapt\.rungs was \[.*{RUNGS[-1]}\] and is \[4, 8\] now; take"):
        again(folder, of(trial={"adapt": {"rungs": [4, 8]}}))
    assert folder.config() == of()


def test_what_changes_no_trial_may_change_also_after_the_confirmation_began(folder: SearchFolder) -> None:
    folder.confirmation.mkdir()
    more: dict[str, object] = {"budget": {"trials": 7}, "resources": {"cpus": 2}, "stages": {"limit_gb": 1}}
    assert again(folder, of(**more)) == folder.config() == of(**more)


def test_shared_stages_that_cant_be_removed_leave_no_run_running(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "stages" / "adapted" / "not-a-file.safetensors").mkdir(parents=True)
    inputs = replace(analytic.inputs(tmp_path), stages=tmp_path / "stages")
    opened = runner.start(of(stages={"limit_gb": 0}), tmp_path, prepared=(inputs, analytic.SOURCE_CLIPS))
    assert sit(opened, tmp_path, lambda sitting: "made", str, "").made == "made"
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which sits at the search until it is killed."""
    code = (
        "import pathlib, sys; from search.lock import sole\n"
        "with sole(pathlib.Path(sys.argv[1])): print('sat', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / NAME)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sat\n"
        yield process
        process.kill()


def test_a_second_sitting_is_refused_and_told_who_sits(
    folder: SearchFolder, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(folder.path.parent)]
    for word in ("resume", "contenders"):
        assert command(["search", word, NAME, *runs]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert f"search '{NAME}' is being run by process {holder.pid} on {socket.gethostname()} since " in line
    assert not (folder.path.parent / "mlflow.db").exists()  # its runs were not touched
    assert command(["search", "status", NAME, *runs]) == 0
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with sole(folder.path):
        assert str(os.getpid()) in (folder.path / ".holder.json").read_text()


def test_what_goes_on_with_folds_says_first_what_is_left_to_pay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"format": "generated", "part": "target"}
    data = {"source": {"format": "generated"}, "target": target, "split": {"folds": 3}}
    config = of(
        data=data,
        budget={"trials": 5},
        pruner="none",
        racing=False,
        seeds=[{"adaptation": k, "judge": [0]} for k in range(2)],
        contenders={"seeds": 4},
        confirm=CONFIRM | {"best": 2},
    )
    opened = runner.start(config, tmp_path, prepared=(analytic.inputs(tmp_path), analytic.SOURCE_CLIPS))
    bench = Bench(config, opened.folder.path, opened.study)
    (tmp_path / "cache").touch()  # what is gone can't be prepared again

    def said(word: str) -> str:
        assert command(["search", word, NAME, "--runs", str(tmp_path)]) == 2
        *costs, last = capsys.readouterr().err.splitlines()
        assert last.startswith("error: ")
        return costs[0].partition(" will take")[0] if costs else ""

    for _ in range(2):
        assignment = bench.ledger.next()
        assert assignment is not None
        bench.run(assignment)
    bench.ledger.next()  # still runs
    assert said("resume") == "dev is 3-fold: 3 trials and 12 runs on fresh seeds"
    bench.ledger = bench.sitting()
    bench.run_all()
    best = studies.best_trial(opened.study).number
    assert best != 0
    assert said("resume") == said("contenders") == "dev is 3-fold: 12 runs on fresh seeds"
    # Two best trials, what the sources share, single stream, the published pool and another.
    assert said("confirm") == "dev is 3-fold: 18 runs on fresh seeds"
    found = contender_rows(opened.study, config, opened.space, analytic.SOURCE_CLIPS)
    for run in planned(found, config, opened.folder.contenders)["published"]:
        (run.workdir / "rung-16").mkdir(parents=True)
        (run.workdir / "rung-16" / "report.json").touch()
    assert said("resume") == "dev is 3-fold: 8 runs on fresh seeds"
    for key in ("best", "generated", "edited", "mixed", "mined_windows"):
        for run in planned(found, config, opened.folder.contenders)[key]:
            (run.workdir / "rung-16").mkdir(parents=True, exist_ok=True)
            (run.workdir / "rung-16" / "report.json").touch()
    assert said("resume") == said("contenders") == ""


def test_a_start_beside_another_leaves_no_trace(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(KinemicError, match=f"process {holder.pid}"):
        runner.start(of(), tmp_path, prepared=(analytic.inputs(tmp_path), analytic.SOURCE_CLIPS))
    assert not SearchFolder(tmp_path / NAME).started
    assert not (tmp_path / NAME / "search.yaml").exists()
