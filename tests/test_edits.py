"""What was edited or damaged by hand in a search's folder: a line that names file and setting, and nothing goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from kinemic.cli import run as command
from kinemic.documents import dump_yaml, parse_yaml
from kinemic.errors import DataError, DataWarning, KinemicError
from search import confirmation, contenders, noise_report, runner
from search import study as studies
from search.confirm import LOOKS, _read
from search.folder import SearchFolder
from search.trainable import PROGRESS_FILE, read_progress
from tests import analytic
from tests.bench import RUNGS, search

NAME = "mine"


@pytest.fixture
def opened(tmp_path: Path) -> runner.Opened:
    """A search that was started; its inputs are there, so that nothing is prepared again."""
    inputs = analytic.inputs(tmp_path)
    for path in (inputs.source, inputs.trial_data, inputs.prior, inputs.encoder, inputs.cache):
        path.touch()
    config = search(name=NAME, storage=None, confirm={"test_subjects": ["s9"]})
    return runner.start(config, tmp_path, prepared=(inputs, analytic.SOURCE_CLIPS))


def edit(folder: SearchFolder, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder.path / "search.yaml"
    data = parse_yaml(file.read_text())
    change(data)
    file.write_text(dump_yaml(data))


def kinemic(folder: SearchFolder, *words: str) -> int:
    return command(["search", words[0], "--runs", str(folder.path.parent), NAME, *words[1:]])


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "rungs": (
        lambda data: data["trial"]["adapt"].update(rungs=[1, RUNGS[-1]]),
        f"trial.adapt.rungs was {list(RUNGS)} and is [1, {RUNGS[-1]}] now",
    ),
    "split": (lambda data: data["data"]["split"].update(seed=7), "data.split.seed was 0 and is 7 now"),
    "space": (
        lambda data: data["space"]["synthesis.guidance"].update(high=9.0),
        "space.synthesis.guidance.high was 5.0 and is 9.0 now",
    ),
    "seeds": (lambda data: data["sampler"].update(seed=99), "sampler.seed was"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_that_changes_trials_is_refused_with_its_path(
    what: str, opened: runner.Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    change, line = EDITS[what]
    edit(opened.folder, change)
    for words in (["resume"], ["contenders"], ["confirm"], ["best"], ["export", str(opened.folder.path / "out")]):
        assert kinemic(opened.folder, *words) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert line in error
        assert str(opened.folder.path / "search.yaml") in error
    assert not (opened.folder.path / "out").exists()
    with pytest.warns(DataWarning, match="was edited by hand: .*; what is shown is from before"):
        assert kinemic(opened.folder, "status") == 0
    with pytest.raises(KinemicError, match="was edited by hand"):
        runner.reopen(NAME, opened.folder.path.parent)


def test_an_edit_that_changes_no_trial_is_taken(opened: runner.Opened) -> None:
    def change(data: dict[str, Any]) -> None:
        data["budget"]["trials"] = 77
        data["resources"]["cpus"] = 2
        data["stages"]["limit_gb"] = 1.5
        data["confirm"]["seeds"] = 7
        data["tracking"]["experiment"] = "elsewhere"

    edit(opened.folder, change)
    assert opened.folder.edits() == []
    assert runner.reopen(NAME, opened.folder.path.parent).config.budget.trials == 77
    assert kinemic(opened.folder, "status") == 0


def test_a_search_of_before_settings_were_kept_opens_with_one_line_and_keeps_them(opened: runner.Opened) -> None:
    file = opened.folder.path / "state.json"
    old = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("settings", "identity")}
    file.write_text(json.dumps(old))
    assert opened.folder.state().identity == opened.study.study_name
    with pytest.warns(DataWarning, match="of an earlier version"):
        runner.reopen(NAME, opened.folder.path.parent)
    assert opened.folder.edits() == []
    edit(opened.folder, EDITS["rungs"][0])
    assert len(opened.folder.edits()) == 1


def test_a_search_of_an_earlier_judge_is_shown_under_its_name_of_today_and_gets_no_further_trial(
    opened: runner.Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(opened.folder, lambda data: data["trial"]["judge"].update(profile="small"))
    file = opened.folder.path / "state.json"
    state = json.loads(file.read_text())
    state["settings"]["trial"]["judge"]["profile"] = "small"
    file.write_text(json.dumps(state))
    with pytest.warns(DataWarning, match="judge.profile: small is called stgcn now") as said:
        assert kinemic(opened.folder, "status") == 0
    assert len({str(each.message) for each in said}) == 1
    with pytest.warns(DataWarning, match="small is called stgcn"):
        assert kinemic(opened.folder, "resume") == 2
    assert "scored by the judge small of an earlier version" in capsys.readouterr().err
    del state["settings"]  # as in searches of before they were kept
    file.write_text(json.dumps(state))
    for _ in range(2):  # the first writes them
        with pytest.warns(DataWarning):
            assert kinemic(opened.folder, "resume") == 2
        assert "scored by the judge small of an earlier version" in capsys.readouterr().err


def test_no_password_is_kept_twice(opened: runner.Opened) -> None:
    assert opened.folder.state().settings is not None
    assert not {"storage", "tracking"} & set(opened.folder.state().settings or ())


# --- damage -------------------------------------------------------------------------------------------------------

JUNK = ("", "{", "[]", "null", "[" * 100_000, '{"study": 1, "study": 2}', '{"rows": [{}]}', '{"a": "\\ud800"}', "\x00")


def test_a_damaged_state_is_one_line(opened: runner.Opened, capsys: pytest.CaptureFixture[str]) -> None:
    for junk in JUNK:
        (opened.folder.path / "state.json").write_text(junk)
        for words in (["status"], ["best"], ["resume"]):
            assert kinemic(opened.folder, *words) == 2
            lines = capsys.readouterr().err.strip().splitlines()
            assert len(lines) == 1
            assert "state.json: damaged (" in lines[0]
            assert "start the search under another name" in lines[0]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_damaged_results_are_one_line(junk: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert contenders.load(file) is confirmation.load(file) is noise_report.load(file) is None
    file.write_text(junk)
    for load in (contenders.load, confirmation.load, noise_report.load):
        with pytest.raises(DataError, match=r"result\.json: damaged \(.*\); delete it") as caught:
            load(file)
        assert "\n" not in str(caught.value)


def test_status_shows_the_line_of_a_damaged_table(opened: runner.Opened, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (opened.folder.contenders_file, opened.folder.confirmation_file):
        file.write_text('{"rows": 3}')
        assert kinemic(opened.folder, "status") == 2
        assert f"{file}: damaged" in capsys.readouterr().err
        file.unlink()


def test_a_damaged_attribute_of_a_trial_is_one_line(opened: runner.Opened, capsys: pytest.CaptureFixture[str]) -> None:
    trial = opened.study.ask()
    damaged: dict[str, list[object]] = {
        "rung:4": [{"x": 1}, "junk", [1]],
        "fixed": ["junk"],
        "variant_of": ["junk"],
        "failure_kind": [{"x": 1}],
    }
    for key, values in damaged.items():
        for value in values:
            trial.set_user_attr(key, value)
            assert kinemic(opened.folder, "status") == 2
            line = capsys.readouterr().err.strip()
            assert f"attribute '{key}' of trial 0 is damaged in the study's storage" in line
            assert "\n" not in line
        trial.set_user_attr(key, None)
    assert kinemic(opened.folder, "status") == 0


def test_damaged_attributes_of_a_study_are_one_line(opened: runner.Opened) -> None:
    opened.study.set_user_attr(LOOKS, [{"number": 1}])
    with pytest.raises(KinemicError, match="attribute 'test_looks' of the study is damaged"):
        studies.attribute(opened.study, LOOKS, tuple[confirmation.Look, ...], ())
    opened.study.set_user_attr("searched_seconds", "long")
    with pytest.raises(KinemicError, match="'searched_seconds' of the study"):
        studies.searched_seconds(opened.study)


def test_a_study_whose_json_is_damaged_is_one_line(opened: runner.Opened, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    trial = opened.study.ask()
    trial.set_user_attr("x", 1)
    with sqlite3.connect(opened.folder.path / "study.db") as database:
        database.execute("UPDATE trial_user_attributes SET value_json = '{'")
    database.close()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert kinemic(opened.folder, "status") == 2
    assert "holds a damaged study" in capsys.readouterr().err


def test_a_damaged_look_and_a_damaged_progress_are_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "look-1.npz").write_bytes(b"PK\x03\x04 junk")
    with pytest.raises(KinemicError, match=r"look-1\.npz: damaged"):
        _read(tmp_path / "look-1.npz")
    for junk in JUNK:
        (tmp_path / PROGRESS_FILE).write_text(junk)
        assert read_progress(tmp_path) is None
