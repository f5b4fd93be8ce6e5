"""Options that several commands share: one experiment file, its overrides, where results and cached inputs go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def experiment_options(command: Command) -> Command:
    """Add FILE, ``--set``, ``--runs`` and ``--device`` to a command."""
    for decorator in (
        click.option(
            "--device", default=None, help="Torch device, for example cpu or cuda:0.  [default: cuda:0 if there is one]"
        ),
        click.option(
            "--runs",
            type=click.Path(path_type=Path),
            default=Path("runs"),
            show_default=True,
            envvar="KINEMIC_RUNS",
            help="Folder of results and of the cache of prepared inputs.",
        ),
        click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Override a setting of FILE."),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        command = decorator(command)
    return command
