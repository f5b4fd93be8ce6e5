"""Paths and names reach no shell, printed commands can be pasted, and nobody's text steers a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.table import Table

from kinemic.cli import run as command
from kinemic.console import PlainConsole
from kinemic.quoting import command_line, without_control
from search import server
from search.folder import find
from search.sitting import search_command
from tests.toy import TOY

NASTY = 'it\'s  "a" $(touch PWNED) `touch PWNED` #1 50%41 ?;&'


def words(line: str) -> list[str]:
    """Return what a real shell makes of a line that was printed."""
    done = subprocess.run(
        ["bash", "-c", f"kinemic() {{ printf '%s\\0' \"$@\"; }}; {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def test_a_printed_command_is_split_by_a_shell_into_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert words(search_command("export", Path(NASTY), "mine", "DIR")) == [
        "search", "export", "mine", "DIR", "--runs", NASTY
    ]  # fmt: skip
    assert words(command_line("kinemic", "generate", "--model", Path(NASTY) / "m")) == [
        "generate", "--model", f"{NASTY}/m"
    ]  # fmt: skip
    assert not any(tmp_path.iterdir())


def test_the_page_of_a_folder_of_any_name_is_served_without_a_shell(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / NASTY
    runs.mkdir()
    (runs / "mlflow.db").write_bytes(empty_store.read_bytes())
    program = tmp_path / "mlflow"  # says what it was started with
    program.write_text(f"#!{sys.executable}\nimport os, sys\nprint(sys.argv, os.environ['MLFLOW_BACKEND_STORE_URI'])\n")
    program.chmod(0o755)
    monkeypatch.setattr(server, "_mlflow", lambda: str(program))
    monkeypatch.chdir(tmp_path)
    assert command(["search", "ui", "--runs", str(runs), "--port", "47113"]) == 0
    out = capfd.readouterr().out
    assert repr((runs / "mlflow-artifacts").as_uri()) in out
    assert "--backend-store-uri" not in out  # anybody may read a process's words
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((NASTY, "mlflow"))


def test_an_error_keeps_the_blanks_of_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / NASTY
    assert command(["search", "status", "none", "--runs", str(runs)]) == 2
    assert f"no search 'none' in {runs}:" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["a\nb", "a\x1b[31m", "a\rb", "a\udcff", "a\u2028b"])
def test_control_characters_in_paths_and_names_are_refused_in_one_line(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(TOY | {"name": "mine", "prior": {"path": word}}))
    for arguments in (
        ["search", "run", "x.yaml", "--runs", word],
        ["search", "status", word],
        ["generate", "--model", word],
        ["cluster", "submit", word],
        *([["mine", str(file)], ["search", "run", str(file)]] if "\udcff" not in word else []),  # no YAML has it
    ):
        assert command(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "control character" in line
        assert line.isprintable()
    if "\udcff" not in word:
        monkeypatch.setenv("KINEMIC_RUNS", word)
        assert command(["search", "status", "mine"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_search_is_found_by_its_name_and_not_by_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.json").write_text("{}")
    (tmp_path / "runs").mkdir()
    assert find(tmp_path, "other").path == tmp_path / "other"
    for name in ("../other", str(tmp_path / "other")):
        assert command(["search", "status", name, "--runs", str(tmp_path / "runs")]) == 2
        assert "no search" in capsys.readouterr().err


def test_markup_and_escapes_of_other_peoples_text_are_shown_and_not_obeyed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = "[/] [bold]x [link=http://x]y\x1b[2J\x1b]0;t\x07 :smile:"
    table = Table(evil, title=evil)
    table.add_row(evil)
    console = PlainConsole()
    console.width = 200
    console.print(table)
    console.print(f"wrote {evil}", style="yellow")
    out = capsys.readouterr().out
    assert out.count(without_control(evil)) == 4
    assert "\x1b" not in out
    assert "\x07" not in out
