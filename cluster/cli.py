"""``kinemic cluster``: a search on a Ray cluster that the user already runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from kinemic.console import PlainConsole
from kinemic.quoting import command_line, printable
from kinemic.redaction import without_secrets

# Ray takes a second to import, so the commands import it on use: help and mistakes answer at once.

SETTLE_S = 10.0  # seconds that a started search is watched: a missing folder or package shows in its first ones

console = PlainConsole(soft_wrap=True)

address_option = click.option(
    "--address",
    default="http://127.0.0.1:8265",
    show_default=True,
    envvar="RAY_API_SERVER_ADDRESS",
    show_envvar=True,
    help="Dashboard of the cluster, http://HEAD:8265.",
)
job_argument = click.argument("job_id", metavar="ID")


@click.group()
def cluster() -> None:
    """Submit a search to a Ray cluster, follow it, stop it.

    Where the cluster wants a token, set RAY_AUTH_TOKEN_PATH to the file that holds it.
    """


@cluster.command("submit")
@click.argument("file", type=click.Path(path_type=Path))
@address_option
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Override a setting of FILE, repeatable.")
@click.option("-f", "--follow", is_flag=True, help="Show the search's output until it ends.")
@click.option(
    "--working-dir", type=click.Path(path_type=Path), help="Folder of own code and configs to upload as well."
)
@click.option(
    "--runs",
    default="~/kinemic-runs",
    show_default=True,
    help="Folder of results on the cluster; on several nodes, one that they share.",
)
@click.option(
    "--driver-cpus", type=click.FloatRange(0), default=0, show_default=True, help="Cores kept for the search itself."
)
@click.option(
    "--driver-gpus",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    help="GPUs kept for the search itself, which pretrains the prior.",
)
@click.option(
    "--start-timeout",
    type=click.FloatRange(1, 50),
    default=40,
    show_default=True,
    help="Seconds after which a search that has not started is given up.",
)
@click.option("--no-check", is_flag=True, help="Submit even where no node has what the search asks for.")
def submit_command(file: Path, address: str, settings: tuple[str, ...], **options: Any) -> None:
    """Run the search of FILE on a cluster, or go on with it where it was stopped.

    Code and FILE are uploaded (at most 50 MB); data and checkpoints must already be there, at the absolute paths that
    FILE names. Exit code 0: started, or with --follow ended well. 1: it ended badly. 2: it could not be started.
    """
    from cluster.connection import connect
    from cluster.jobs import wait_started
    from cluster.submit import check_fits, check_idle, prepare, start
    from search.shares import Resources

    driver = Resources(options["driver_cpus"], options["driver_gpus"])
    submission = prepare(file, settings, options["working_dir"], options["runs"], driver)
    client = connect(address)
    check_idle(client, submission)
    if not options["no_check"]:
        check_fits(client, submission)
    job_id = start(client, submission)
    console.print(f"submitted {job_id} ({len(submission.uploads)} files); waiting until it runs")
    if submission.left_out:
        console.print(f"not uploaded (links, keys, tokens): {', '.join(map(str, submission.left_out))}")
    wait_started(client, job_id, driver, options["start_timeout"], 0 if options["follow"] else SETTLE_S)
    if options["follow"]:
        _follow(client, job_id)
    else:
        console.print(f"it runs; {_what_to_do(job_id)}")


@cluster.command("list")
@address_option
def list_command(address: str) -> None:
    """Show the searches that were submitted to a cluster, the newest first."""
    from cluster.connection import connect
    from cluster.jobs import SEARCH_KEY, search_jobs

    table = Table("id", "search", "state", "started", "took")
    for job in search_jobs(connect(address)):
        table.add_row(str(job.submission_id), job.metadata[SEARCH_KEY], job.status.value, *_times(job))
    console.print(table)


@cluster.command("status")
@job_argument
@address_option
def status_command(job_id: str, address: str) -> None:
    """Show one search: its state, since when, and why it failed or waits."""
    from cluster.connection import connect
    from cluster.jobs import details, failure

    job = details(connect(address), job_id)
    started, took = _times(job)
    console.print(f"{job_id}: {job.status.value}, started {started}, took {took}")
    console.print(failure(job))
    console.print(without_secrets(job.entrypoint), style="dim")


@cluster.command("logs")
@job_argument
@address_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the search ends.")
def logs_command(job_id: str, address: str, follow: bool) -> None:
    """Show what a search has printed. With -f the exit code is 1 where it ends badly."""
    from cluster.connection import connect, translated
    from cluster.jobs import details

    client = connect(address)
    details(client, job_id)
    if follow:
        _follow(client, job_id)
        return
    with translated(client.get_address()):
        _echo_output(client.get_job_logs(job_id))


@cluster.command("stop")
@job_argument
@address_option
def stop_command(job_id: str, address: str) -> None:
    """Stop a search. What it has done is kept: submitted again, it goes on."""
    from cluster.connection import connect
    from cluster.jobs import details, stop

    client = connect(address)
    before = details(client, job_id).status
    if before.is_terminal():
        console.print(f"{job_id} had already ended: {before.value}")
        return
    after = stop(client, job_id).status
    if after.is_terminal():
        console.print(f"{job_id}: {after.value}")
    else:
        console.print(f"{job_id} is still {after.value}: it was told to stop, and ends as soon as it starts or answers")


def _follow(client: Any, job_id: str) -> None:
    """Show a job's output until it ends; leaving with Ctrl-C leaves the job running."""
    from cluster.jobs import failure, follow

    try:
        job = follow(client, job_id, _echo_output)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{job_id} goes on without you; {_what_to_do(job_id)}") from None
    if job.status.value == "SUCCEEDED":
        console.print(f"{job_id}: {job.status.value}")
        return
    click.echo(printable(f"{job_id}: {job.status.value}: {failure(job)}"), err=True)
    click.get_current_context().exit(1)


def _echo_output(text: str) -> None:
    """Show what a job has printed, which others may have written: it steers no terminal and shows no password."""
    click.echo(printable(without_secrets(text), keep="\n\t"), nl=False)


def _what_to_do(job_id: str) -> str:
    lines = [command_line("kinemic", "cluster", *words, job_id) for words in (("logs", "-f"), ("stop",))]
    return f"follow it: {lines[0]}   stop it: {lines[1]}"


def _times(job: Any) -> tuple[str, str]:
    """Return when a job started, in local time, and how long it has taken; Ray counts in milliseconds."""
    if not job.start_time:
        return "-", "-"
    end = (job.end_time or time.time() * 1000) / 1000
    seconds = max(0, round(end - job.start_time / 1000))
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.start_time / 1000))
    return started, f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
