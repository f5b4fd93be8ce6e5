"""The one command, ``kinemic``: finds its groups by name, loads them on use, and turns every failure into one line.

What a group may rely on: ``KinemicError`` and ``OSError`` end in one line and exit code 2, a fault of the machine in 1;
``KeyboardInterrupt`` in 130, with its own message where it has one (how to go on); anything else in one line and exit
code 1. A group is a click command whose function's docstring starts with the line that ``kinemic --help`` shows.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import itertools
import os
import sys
import tomllib
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NoReturn

import click

from kinemic import __version__
from kinemic.errors import ConfigError, KinemicError
from kinemic.faults import refusal
from kinemic.quoting import has_control, printable
from kinemic.redaction import without_secrets

ENTRY_POINTS = "kinemic.commands"
LONGEST = 1500  # characters of an error
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def find_groups(source_tree: Path | None = None) -> dict[str, EntryPoint]:
    """Return every group by name, none of them imported.

    Installed entry points, and over them those of a ``pyproject.toml`` beside the package: a checkout whose install is
    older, or the copy that a cluster job runs from, where nothing is installed.
    """
    groups = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    project = (source_tree or Path(__file__).resolve().parent.parent) / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if table.get("name") == "kinemic":
            declared = table.get("entry-points", {}).get(ENTRY_POINTS, {})
            groups |= {name: EntryPoint(name, value, ENTRY_POINTS) for name, value in declared.items()}
    return groups


def help_line(point: EntryPoint) -> str:
    """Return the first docstring line of a group's function, read from its source without importing it.

    Raises ImportError or SyntaxError where the module can't be found or read.
    """
    for node in _parse_module(point.module).body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@lru_cache
def _parse_module(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)


class LazyGroups(click.Group):
    """A click group whose subcommands are the entry points; one that can't be loaded leaves the others usable."""

    def __init__(self, *, points: dict[str, EntryPoint] | None = None, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # click's own settings, passed through
        self.points = find_groups() if points is None else points

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the groups' names in order."""
        return sorted(self.points)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one group. Raises KinemicError naming the reason where it can't be imported."""
        if cmd_name not in self.points:
            return None
        try:
            command = self.points[cmd_name].load()
        except (ImportError, AttributeError, SyntaxError) as error:
            raise KinemicError(
                f"the group {cmd_name!r} can't be loaded: {_describe(error)}; the other groups work without it"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of groups from their sources alone, so that help answers at once."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                rows.append((name, help_line(self.points[name])))
            except (ImportError, SyntaxError) as error:
                rows.append((name, f"(broken: {_describe(error)})"))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=LazyGroups,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110},
)
@click.version_option(__version__, prog_name="kinemic")
@click.option("--debug", is_flag=True, help="Show where an error came from (also: KINEMIC_DEBUG=1).")
def root(debug: bool) -> None:
    """Few-shot human-action synthesis: the method, its hyper-parameter search, and the way onto a cluster."""
    if debug:
        # Kept in the environment: the worker processes of a search inherit it.
        os.environ["KINEMIC_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 unexpected or the machine's, 2 the user can mend it, 130 interrupted."""
    if not _debugging():
        warnings.formatwarning = _one_line_warning
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every failure is one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_control(words)
        code = root.main(words, prog_name="kinemic", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        click.echo(printable(without_secrets(said.getvalue()), keep="\n"), err=True, nl=False)
        return error.exit_code
    except click.Abort as abort:
        # Click turns Ctrl-C into Abort; the interruption itself may say how to go on.
        return _fail(INTERRUPTED, abort, str(abort.__cause__ or "") or "interrupted")
    except KinemicError as error:
        return _fail(error.exit_code, error, f"error: {error}")
    except OSError as error:
        return _fail(2 if refusal(error) is None else 1, error, f"error: {_describe(error)}")
    except Exception as error:  # the outermost boundary: a user gets a line, --debug the rest
        hint = "" if _debugging() else " (unexpected; run again with `kinemic --debug ...` to see where)"
        return _fail(1, error, f"error: {_describe(error)}{hint}")
    return code if isinstance(code, int) else 0


def _fail(code: int, error: BaseException, line: str) -> int:
    if _debugging():
        click.echo(without_secrets("".join(traceback.format_exception(error))), err=True, nl=False)
    with suppress(OSError):  # the terminal was closed
        click.echo(_one_line(line), err=True)
    return code


def _one_line(text: str) -> str:
    """Break no line and steer no terminal; blanks stay as they are, a quoted path may have two of them."""
    lines = (line.strip() for line in without_secrets(text).splitlines())
    line = printable(" ".join(filter(None, lines)))
    # What came may be a whole file; the advice is at the end.
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def _refuse_control(words: Sequence[str]) -> None:
    """Refuse line breaks in paths and names before any of them is used; the value of a setting may be YAML."""
    settings = {word for before, word in itertools.pairwise(words) if before == "--set"}
    for word in (*words, os.environ.get("KINEMIC_RUNS", "")):
        if has_control(word) and word not in settings and not word.startswith("--set="):
            raise ConfigError(f"{word!r}: holds a line break or another control character; give a plain path or name")


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _debugging() -> bool:
    return os.environ.get("KINEMIC_DEBUG", "") not in ("", "0")


def _one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {_one_line(str(message))}\n"


if __name__ == "__main__":
    main()
