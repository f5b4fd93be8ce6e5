"""Options that several commands share: one experiment file, its overrides, where results and cached inputs go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def runs_option(help_text: str) -> Callable[[Command], Command]:
    """Return what adds ``--runs`` to a command; ``help_text`` says what the command keeps there."""
    return click.option(
        "--runs",
        type=click.Path(path_type=Path),
        default=Path("runs"),
        show_default=True,
        envvar="KINEMIC_RUNS",
        show_envvar=True,
        help=help_text,
    )


def experiment_options(command: Command) -> Command:
    """Add FILE, ``--set``, ``--runs`` and ``--device`` to a command."""
    for decorator in (
        click.option(
            "--device", default=None, help="Torch device, for example cpu or cuda:0.  [default: cuda:0 if there is one]"
        ),
        runs_option("Folder of results and of the cache of prepared inputs."),
        click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Override a setting of FILE."),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        command = decorator(command)
    return command


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Say, where Ctrl-C stops the block, what is ``kept`` and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; {kept}, the same command goes on from there") from stop
