"""The root command: lazy groups, and every failure as one line with the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kinemic import cli

GROUP = '''
import errno
import warnings
import click
from kinemic.errors import DataError, InfrastructureError, UnwritableError

@click.command()
@click.argument("what")
def group(what):
    """Fail in the way that is asked for.

    A second paragraph.
    """
    if what == "data":
        raise DataError("clips.npy: expected 263 features,\\n got 100; prepare it again")
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a")
    if what == "denied":
        raise OSError(errno.EACCES, "Permission denied", "runs/a")
    if what == "machine":
        raise InfrastructureError("runs/a: cannot be written")
    if what == "place":
        raise UnwritableError("/a: cannot be written")
    if what == "bug":
        raise ValueError("what is this")
    if what == "ctrl-c":
        raise KeyboardInterrupt
    if what == "resumable":
        raise KeyboardInterrupt("stopped; go on with: kinemic search run demo.yaml")
    if what == "one":
        click.get_current_context().exit(1)
    if what == "warn":
        warnings.warn("odd\\nnews")
'''


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_group.py").write_text(GROUP)
    (tmp_path / "planted_needy.py").write_text('import no_such_package\ndef group():\n    """Need a package."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted_group", raising=False)
    monkeypatch.delenv("KINEMIC_DEBUG", raising=False)
    values = {
        "fail": "planted_group:group",
        "needy": "planted_needy:group",
        "gone": "planted_gone:group",
        "nameless": "planted_group:missing",
    }
    points = {name: EntryPoint(name, value, cli.ENTRY_POINTS) for name, value in values.items()}
    monkeypatch.setattr(cli.root, "points", points)


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("data", 2, "error: clips.npy: expected 263 features, got 100; prepare it again"),
        ("full", 1, "error: runs/a: No space left on device"),
        ("denied", 2, "error: runs/a: Permission denied"),
        ("machine", 1, "error: runs/a: cannot be written"),
        ("place", 2, "error: /a: cannot be written"),
        ("ctrl-c", 130, "interrupted"),
        ("resumable", 130, "stopped; go on with: kinemic search run demo.yaml"),
        ("bug", 1, "error: ValueError: what is this (unexpected; run again with `kinemic --debug ...` to see where)"),
    ],
)
@pytest.mark.usefixtures("groups")
def test_a_failure_is_one_line_with_its_exit_code(
    what: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["fail", what]) == code
    assert capsys.readouterr().err.strip() == line


@pytest.mark.usefixtures("groups")
def test_a_command_chooses_its_own_exit_code() -> None:
    assert cli.run(["fail", "one"]) == 1
    assert cli.run(["fail", "nothing"]) == 0


@pytest.mark.usefixtures("groups")
def test_debug_shows_where_an_error_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINEMIC_DEBUG", "0")  # so that what --debug sets is undone after the test
    assert cli.run(["--debug", "fail", "data"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.strip().splitlines()[-1].startswith("error: clips.npy")


@pytest.mark.usefixtures("groups")
def test_a_broken_group_says_why_and_leaves_the_others_usable(capsys: pytest.CaptureFixture[str]) -> None:
    for name, reason in [("needy", "no_such_package"), ("gone", "planted_gone"), ("nameless", "missing")]:
        assert cli.run([name]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert name in lines[0]
        assert reason in lines[0]
    assert cli.run(["fail", "nothing"]) == 0


@pytest.mark.usefixtures("groups")
def test_help_lists_groups_from_their_sources_without_importing_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Fail in the way that is asked for." in text
    assert "second paragraph" not in text
    assert "Need a package." in text  # its import would fail
    assert "broken" in text.split("gone")[1]
    assert "planted_group" not in sys.modules


def test_every_declared_group_has_a_line_of_help() -> None:
    for name, point in cli.find_groups().items():
        assert cli.help_line(point), f"the function of the group {name!r} has no docstring for `kinemic --help`"


def test_groups_are_found_from_the_source_tree_where_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "kinemic"\n[project.entry-points."kinemic.commands"]\na = "b:c"'
    )
    assert {name: point.value for name, point in cli.find_groups(tmp_path).items()} == {"a": "b:c"}
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"')
    assert cli.find_groups(tmp_path) == {}


def test_unknown_groups_and_options_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["no-such-group"]) == 2
    assert "no-such-group" in capsys.readouterr().err
    assert cli.run(["--no-such-option"]) == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from kinemic import cli; cli.run(['--help'])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'rich', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m kinemic.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_a_warning_is_one_line(groups: None, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import EntryPoint; from kinemic import cli\n"
        "cli.root.points = {'fail': EntryPoint('fail', 'planted_group:group', cli.ENTRY_POINTS)}\n"
        "cli.main(['fail', 'warn'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stderr == "warning: odd news\n"
