"""``kinemic search``: noise, run, resume, status, best, report, contenders, confirm, export, gc."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kinemic.commands import options
from kinemic.console import console, progress_bars
from kinemic.errors import KinemicError
from kinemic.quoting import command_line
from kinemic.redaction import without_secrets
from kinemic.store import DEFAULT_LIMIT_GB

if TYPE_CHECKING:
    import optuna

    from search.config import SearchConfig
    from search.folder import SearchFolder
    from search.runner import Outcome
    from search.sitting import Opened

runs_option = options.runs_option(
    "Folder of all searches, of the cache of prepared inputs, and of the default tracking store."
)


@click.group()
def search() -> None:
    """Search the method's hyper-parameters, and use what was found."""


@search.command()
@runs_option
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Override a setting of FILE.")
@click.option("--resume", is_flag=True, help="Where this very search was started before, go on with it.")
@click.argument("file", type=click.Path(path_type=Path))
def run(file: Path, settings: tuple[str, ...], runs: Path, resume: bool) -> None:
    """Run the search that FILE describes: prepare, search, run the contenders again on fresh seeds.

    Ctrl-C keeps everything; `kinemic search resume NAME` goes on.
    """
    from search.config import load

    config = load(file, settings)
    from search import runner
    from search.costs import cost_of_search

    _say(cost_of_search(config, runs))
    with progress_bars() as progress:
        begin = runner.start_or_reopen if resume else runner.start
        prepared = begin(config, runs, progress=progress)
    _go_on(prepared, runs)


@search.command()
@runs_option
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Override a setting of FILE.")
@click.option(
    "--configurations",
    type=click.IntRange(3),
    default=8,
    show_default=True,
    help="Configurations: the published one and random draws of the space.",
)
@click.option("--repetitions", type=click.IntRange(2), default=3, show_default=True, help="Adaptation seeds of each.")
@click.option("--generations", type=click.IntRange(2), default=2, show_default=True, help="Generation seeds in each.")
@click.option("--judges", type=click.IntRange(2), help="Judge seeds in each.  [default: the search's own, at least 2]")
@click.argument("file", type=click.Path(path_type=Path))
def noise(
    file: Path,
    settings: tuple[str, ...],
    runs: Path,
    configurations: int,
    repetitions: int,
    generations: int,
    judges: int | None,
) -> None:
    """Before the search of FILE: what seeds do to an accuracy, whether to prune, what difference can be seen.

    Runs configurations of its space on nested seeds. Ctrl-C keeps what is done; the same command goes on.
    """
    from search.config import load

    config = load(file, settings)
    from search.noise import measure
    from search.noise_report import Design
    from search.noise_table import noise_table

    judges = judges or max(2, config.judge_seeds)
    design = Design(configurations=configurations, adaptations=repetitions, generations=generations, judges=judges)
    with options.interruptible("finished runs are kept"), progress_bars() as progress:
        found = measure(config, runs, design, progress=progress, say=lambda line: click.echo(line, err=True))
    console.print(noise_table(found))


@search.command()
@runs_option
@click.argument("name")
def resume(name: str, runs: Path) -> None:
    """Go on with the search NAME: finished trials stay, interrupted ones continue from their last rung."""
    from search import runner
    from search.costs import cost_of_search
    from search.folder import find

    _say(cost_of_search(find(runs, name).config(), runs))
    with progress_bars() as progress:
        prepared = runner.reopen(name, runs, progress=progress)
    _go_on(prepared, runs)


@search.command()
@runs_option
@click.argument("name")
def status(name: str, runs: Path) -> None:
    """Show the trials of the search NAME, also while it runs, its contenders and its confirmation."""
    from search import confirmation, contenders
    from search.live import confirmation_table, contender_table, summary_line, trial_table
    from search.status import trial_rows

    config, folder, study = _open(name, runs, shown_only=True)
    rows = trial_rows(study)
    console.print(trial_table(rows, folder))
    console.print(summary_line(rows, config.budget.trials))
    table = contenders.load(folder.contenders_file)
    if table is not None:
        console.print(contender_table(table))
    confirmed = confirmation.load(folder.confirmation_file)
    if confirmed is not None:
        console.print(confirmation_table(confirmed))


@search.command()
@runs_option
@click.argument("name")
def best(name: str, runs: Path) -> None:
    """Show the trial of NAME to use, the confirmed winner or else the best on dev: settings ready to paste."""
    from search.choice import choose
    from search.export import settings
    from search.study import trial_values

    _, folder, study = _open(name, runs)
    chosen = choose(folder, study)
    console.print(chosen.line, soft_wrap=True)
    for setting in settings(trial_values(chosen.trial)):
        console.print(command_line("--set", setting), soft_wrap=True)


@search.command()
@runs_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="HTML file to write.  [default: RUNS/NAME/report.html]",
)
@click.argument("name")
def report(name: str, runs: Path, out: Path | None) -> None:
    """Write all about the search NAME into one HTML file that opens offline; also while it runs.

    The file is logged to the search's MLflow run too.
    """
    from search import runner
    from search.report import write_report

    _, folder, study = _open(name, runs, shown_only=True)
    path = out or folder.report_file
    write_report(folder, study, path)
    console.print(f"wrote {path}", soft_wrap=True)
    try:
        runner.attach(folder, runs, path)
    except KinemicError as error:
        click.echo(f"warning: the report is written, but not logged: {error}", err=True)


@search.command()
@runs_option
@click.option("--register-as", metavar="MODEL", default=None, help="Name in MLflow's model registry.  [default: NAME]")
@click.option("--no-register", is_flag=True, help="Write DIR alone.")
@click.option(
    "--trial",
    type=click.IntRange(0),
    help="Number of the trial.  [default: the confirmed winner, or else the best on dev]",
)
@click.argument("name")
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path))
def export(name: str, target: Path, runs: Path, register_as: str | None, no_register: bool, trial: int | None) -> None:
    """Copy the classifier and the generator of a trial of NAME into the new folder DIR, check it, and register it.

    A new process labels the few shots and generates from DIR alone, and a judge trained on the few shots looks at the
    clips; DIR/check.json keeps what it found. `models:/MODEL@champion` in MLflow is then this model. `kinemic classify
    --model DIR` labels clips, `kinemic generate --model DIR` generates. A trial without a generator says so.
    """
    from search.choice import choose
    from search.export import export_trial
    from search.registry import ALIAS, Registry
    from search.sitting import tracking_uri

    config, folder, study = _open(name, runs)
    model = register_as or config.name
    uri = tracking_uri(config, runs)
    registry = None if no_register else Registry(uri, config.tracking.experiment, model)
    chosen = choose(folder, study, trial)
    with progress_bars() as progress:
        exported = export_trial(config, folder, study, chosen, target, registry, progress)
    console.print(f"checked in a fresh process: {exported.check.line()}")
    if exported.version:
        console.print(f"registered models:/{model}@{ALIAS}, version {exported.version}, in {without_secrets(uri)}")
    console.print(chosen.line, soft_wrap=True)
    if exported.lacks:
        console.print(exported.lacks, soft_wrap=True)
    verb = "generate" if exported.check.labelled is None else "classify"
    console.print(f"wrote {target}; try: {command_line('kinemic', verb, '--model', target, '--help')}")


@search.command()
@runs_option
@click.argument("name")
def contenders(name: str, runs: Path) -> None:
    """Run the contenders of the search NAME again on fresh seeds; runs that are done already are not repeated."""
    from search import runner
    from search.costs import cost_of_contenders
    from search.folder import find
    from search.live import LiveTable, contender_table

    folder = find(runs, name)
    _say(cost_of_contenders(folder.config(), folder))
    with progress_bars() as progress:
        prepared = runner.reopen(name, runs, progress=progress)
    with LiveTable(prepared.folder) as table:
        outcome = runner.go_on(prepared, runs, watch=table, only_contenders=True)
    console.print(contender_table(outcome.table))


@search.command()
@runs_option
@click.option("--again", is_flag=True, help="Allow a further look at the test split, by other rows; it is recorded.")
@click.option("--without-failed", is_flag=True, help="Open the test split though a baseline failed.")
@click.argument("name")
def confirm(name: str, runs: Path, again: bool, without_failed: bool) -> None:
    """Run the best trials of NAME and all baselines again, choose the winner on dev, then open the test split once.

    A finished confirmation is shown again; an interrupted one goes on.
    """
    from search import confirm as confirming
    from search import runner
    from search.costs import cost_of_confirmation
    from search.folder import find
    from search.live import LiveTable, confirmation_table
    from search.sitting import search_command

    folder = find(runs, name)
    _say(cost_of_confirmation(folder.config(), folder))
    with progress_bars() as progress:
        prepared = runner.reopen(name, runs, progress=progress)
    with LiveTable(prepared.folder) as table:
        sat = confirming.confirm(prepared, runs, again=again, without_failed=without_failed, watch=table)
    console.print(confirmation_table(sat.made))
    _warn_of_tracking(sat.refused, sat.tracked, search_command("confirm", runs, name))


@search.command()
@runs_option
@click.option(
    "--limit",
    type=click.FloatRange(0),
    default=DEFAULT_LIMIT_GB,
    show_default=True,
    help="Gigabytes that may stay; what was used longest ago goes first.",
)
def gc(runs: Path, limit: float) -> None:
    """Remove what is kept for later trials: caption embeddings, pools, adapted generators, synthetic sets, judges.

    Nothing of a result is lost, and it may be done while searches run: a trial that misses something makes it again.
    """
    from kinemic.store import GIGABYTE, STAGES, collect, usage
    from search.live import usage_table

    folder = runs / "cache" / STAGES
    removed = collect(folder, int(limit * GIGABYTE))
    console.print(usage_table(usage(folder), removed))


@search.command()
@runs_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on this machine.")
@click.option("--store", metavar="URL", help="Database that tracking.uri names.  [default: the one in --runs]")
def ui(runs: Path, port: int, store: str | None) -> None:
    """Serve the MLflow page of all searches in --runs on this machine, until Ctrl-C."""
    from search.server import serve
    from search.urls import refuse_secrets

    refuse_secrets({"URL": store}, "--store")
    serve(runs, port, lambda page: console.print(f"{page}  (Ctrl-C ends it)", soft_wrap=True), store)


def _open(name: str, runs: Path, *, shown_only: bool = False) -> tuple[SearchConfig, SearchFolder, optuna.Study]:
    """Open a search to show it, edited by hand or not, or to use what it found, unless it was edited."""
    from search.folder import find
    from search.study import open_study

    folder = find(runs, name)
    (folder.warn_of_edits if shown_only else folder.refuse_edits)()
    config = folder.config()
    return config, folder, open_study(config, folder.path, folder.state().study)


def _say(cost: str) -> None:
    if cost:
        click.echo(cost, err=True)


def _go_on(prepared: Opened, runs: Path) -> None:
    from search import runner
    from search.live import LiveTable

    with LiveTable(prepared.folder) as table:
        outcome = runner.go_on(prepared, runs, watch=table)
    _show_outcome(outcome, runs)


def _show_outcome(outcome: Outcome, runs: Path) -> None:
    from search.live import contender_table, summary_line, trial_table
    from search.sitting import search_command

    console.print(trial_table(outcome.rows, outcome.folder))
    console.print(summary_line(outcome.rows, len(outcome.rows)))
    console.print(contender_table(outcome.table))
    _warn_of_tracking(outcome.refused, outcome.tracked, search_command("resume", runs, outcome.folder.path.name))
    console.print(f"MLflow page: {outcome.tracking_page}", soft_wrap=True)


def _warn_of_tracking(refused: Sequence[str], tracked: bool, command: str) -> None:
    for line in refused[:3]:
        click.echo(f"warning: MLflow refused a call: {line}", err=True)
    if not tracked:
        click.echo(f"warning: MLflow was away at the end; send it the rest: {command}", err=True)
