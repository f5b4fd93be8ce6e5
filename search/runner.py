"""From a configuration to a finished search: prepare, search, run the contenders again; and going on after a stop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
from ray import tune
from ray.tune import TuneError

from kinemic.errors import KinemicError
from kinemic.files import need_writable
from kinemic.progress import ProgressCallback, silent
from kinemic.report import TrialInputs
from search import baselines, contenders, tracking
from search import study as studies
from search.board import Board, board_of
from search.config import SearchConfig
from search.contenders import ContenderTable
from search.folder import (
    CHANGE_NO_TRIAL,
    SearchFolder,
    State,
    differences,
    dump_tracked,
    find,
    new_identity,
    settings_of,
)
from search.ledger import Ledger, SearchStoppedError
from search.lock import sole
from search.memory import kills_as_actor_deaths
from search.patience import patiently
from search.resources import connected, share
from search.scheduler import StudyScheduler
from search.searcher import StudySearcher
from search.server import check_reachable, page_of
from search.sitting import Opened, Sitting, Watch, search_command, sit, tidy, tracking_uri
from search.status import TrialRow, trial_rows
from search.tags import BEST_TAG
from search.tracking import Tracker
from search.trainable import RunTrial, TrialActor, Work

Prepared = tuple[TrialInputs, int]  # what trials read, and the number of source clips


@dataclass(frozen=True)
class Outcome:
    """A finished search: its folder, its trials, the contenders' table, and how to open the MLflow page."""

    folder: SearchFolder
    rows: list[TrialRow]
    table: ContenderTable
    tracking_page: str  # its address, or the command that serves it
    tracked: bool  # whether everything reached the tracking server
    refused: list[str] = field(default_factory=list)  # tracking calls that the server refused


def run(
    config: SearchConfig, runs: Path, *, run_trial: RunTrial | None = None, prepared: Prepared | None = None
) -> Outcome:
    """Run a new search in ``runs/NAME`` to its end; see ``start`` and ``go_on``."""
    return go_on(start(config, runs, prepared=prepared), runs, run_trial=run_trial)


def resume(name: str, runs: Path, *, run_trial: RunTrial | None = None) -> Outcome:
    """Go on with a search to its end; see ``reopen`` and ``go_on``."""
    return go_on(reopen(name, runs, check_inputs=run_trial is None), runs, run_trial=run_trial)


def start(
    config: SearchConfig, runs: Path, *, prepared: Prepared | None = None, progress: ProgressCallback = silent
) -> Opened:
    """Check and prepare a new search in ``runs/NAME``; its inputs are made from its data unless they are given.

    Raises KinemicError before anything of the search is written: for a name that is taken, and for a tracking server, a
    storage or data that can't be used.
    """
    from kinemic.mining_ranges import ranges_of

    folder = SearchFolder((runs / config.name).resolve())
    _check_new(folder, config, runs)
    check_reachable(tracking_uri(config, runs))
    studies.prove_storage(config)
    inputs, source_clips = prepared or prepare(config, runs, progress)
    ranges = None if prepared else ranges_of(inputs)
    state = State("", source_clips, inputs, settings=settings_of(config), ranges=ranges)
    space = state.space(config)
    with sole(folder.path):
        _check_new(folder, config, runs)  # again: preparing takes minutes
        folder.create(config)
        study = studies.create_study(config, folder.path, space, source_clips)
        state = replace(state, study=study.study_name, identity=new_identity(study.study_name))
        folder.write_state(state)
    return Opened(config, folder, study, space, state)


def start_or_reopen(config: SearchConfig, runs: Path, *, progress: ProgressCallback = silent) -> Opened:
    """Start a search, or go on with it where it was started with the same configuration. Raises KinemicError.

    What changes no trial may have changed meanwhile, and the search's folder takes it: a larger budget for instance.
    ``confirm`` may until the confirmation begins.
    """
    folder = SearchFolder((runs / config.name).resolve())
    if not folder.started:
        return start(config, runs, progress=progress)
    started = folder.config()
    config = config if config.confirm else config.model_copy(update={"confirm": started.confirm})
    found = list(differences(started.model_dump(mode="json"), config.model_dump(mode="json")))
    other = [line for line in found if not line.startswith(CHANGE_NO_TRIAL)]
    more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
    if other:
        raise KinemicError(
            f"search {config.name!r} was started with other settings, its trials could not be compared: "
            f"{other[0]}{more}; take another name: --set name=NEW"
        )
    confirm = [line for line in found if line.startswith("confirm")]
    if confirm and folder.confirming:
        raise KinemicError(
            f"the confirmation of {config.name!r} has begun: {confirm[0]}; take the change back, or make it in "
            f"{folder.path / 'search.yaml'} and ask for it: {search_command('confirm', runs, config.name)}"
        )
    if found:
        with sole(folder.path):
            folder.write_config(config)
    return reopen(config.name, runs, progress=progress)


def reopen(name: str, runs: Path, *, check_inputs: bool = True, progress: ProgressCallback = silent) -> Opened:
    """Open a search that was started; inputs that are gone, or packed by an earlier version, are prepared again.

    Raises KinemicError, also for settings that were edited by hand.
    """
    folder = find(runs, name)
    folder.refuse_edits()
    config, state = folder.config(), folder.state()
    check_reachable(tracking_uri(config, runs))
    space = state.space(config)
    study = studies.open_study(config, folder.path, state.study)
    if check_inputs and not _all_there(state.inputs):
        inputs, source_clips = prepare(config, runs, progress)
        if source_clips != state.source_clips:
            raise KinemicError(
                f"the source of {name!r} had {state.source_clips} clips and now has {source_clips}; "
                "start a new search, its trials could not be compared"
            )
        state = replace(state, inputs=inputs)
        folder.write_state(state)
    if state.settings is None:
        state = replace(state, settings=settings_of(config))
        folder.write_state(state)
    return Opened(config, folder, study, space, state)


def prepare(config: SearchConfig, runs: Path, progress: ProgressCallback) -> Prepared:
    """Prepare what trials read, in ``runs/cache``; returns it with the number of source clips.

    A test split that can't be used is said now, not after days of search. What the machine refuses is waited out, but
    for a folder that can't be written to at all. Raises KinemicError.
    """
    need_writable((runs / "cache").resolve())
    return patiently(lambda: _prepare(config, runs, progress), config.patience)


def _prepare(config: SearchConfig, runs: Path, progress: ProgressCallback) -> Prepared:
    from kinemic.data.corpus import Corpus
    from kinemic.data.splits import load_trial_data
    from kinemic.device import resolve_device
    from kinemic.inputs import prepare_inputs, prepare_trial_data
    from search.confirm import choose_clips

    cache = (runs / "cache").resolve()
    if config.confirm is not None:
        data = load_trial_data(prepare_trial_data(config.data, cache, progress))
        choose_clips(config, config.confirm, data, cache, progress)
    inputs = prepare_inputs(config, cache, resolve_device(), progress)
    inputs = TrialInputs(**{name: path.resolve() for name, path in vars(inputs).items()})
    return inputs, len(Corpus.open(inputs.source))


def attach(folder: SearchFolder, runs: Path, file: Path) -> None:
    """Log a file on the MLflow run of a search, whether that goes on or is over. Raises KinemicError."""
    config = folder.config()
    uri = tracking_uri(config, runs)
    check_reachable(uri)
    tracking.attach(uri, config.tracking.experiment, folder.state().identity, file)


def go_on(
    opened: Opened,
    runs: Path,
    *,
    run_trial: RunTrial | None = None,
    watch: Watch | None = None,
    only_contenders: bool = False,
) -> Outcome:
    """Run what is left of a search, then its contenders: finished trials stay, interrupted ones continue.

    Interrupted, it raises KeyboardInterrupt with a line that says how to go on; nothing that is done is lost.
    """
    if not only_contenders:
        opened.folder.refuse_earlier_judge()

    def body(sitting: Sitting) -> ContenderTable:
        board = board_of(sitting, runs)
        try:
            with connected(opened.config.resources.address):
                return _search(sitting, board, only_contenders)
        except SearchStoppedError as stop:
            raise KinemicError(f"{stop}; mend it, then go on with `{_resume_command(opened, runs)}`") from stop

    resuming = _resume_command(opened, runs)
    sat = sit(opened, runs, body, lambda: _kept(opened), resuming, run_trial=run_trial, watch=watch)
    page = page_of(opened.config, runs)
    return Outcome(opened.folder, trial_rows(opened.study), sat.made, page, sat.tracked, sat.refused)


def _search(sitting: Sitting, board: Board, only_contenders: bool) -> ContenderTable:
    opened, tracker, watch = sitting.opened, sitting.tracker, sitting.watch
    config, folder, study = opened.config, opened.folder, opened.study
    part = share(config.resources)

    def changed(last: bool = False) -> None:
        rows = trial_rows(study)
        board.update(rows, last)
        watch.searching(folder, config.budget.trials, rows)
        tidy(config, opened.state.inputs)

    ledger = Ledger(study, config, opened.space, tracker, folder.trials, part, changed)
    ledger.reconcile()
    tracker.save_view(tuple(opened.space), studies.objective(opened.study))
    noise = {"noise.json": folder.noise_file.read_text(encoding="utf-8")} if folder.noise_file.exists() else {}
    tracker.log_parent({}, {}, {"search.yaml": dump_tracked(config), **noise})
    try:
        if not (ledger.finished or only_contenders):
            run_trials(ledger, sitting.work, folder.path)
    finally:
        ledger.keep_time()
        changed(last=True)
    _check_any(trial_rows(study))
    found = baselines.contenders(study, config, opened.space, opened.state.source_clips)
    table = contenders.run_contenders(found, config, sitting.work, part, folder.contenders, watch.contending)
    contenders.store(table, folder.contenders_file)
    _summarise(tracker, study, table)
    changed(last=True)  # the description ends with what the table says
    return table


def run_trials(ledger: Ledger, work: Work, folder: Path) -> None:
    """Let Ray Tune run what a ledger hands out. Raises what the ledger raises."""
    tuner = tune.Tuner(
        tune.with_parameters(TrialActor, work=work),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger),
            scheduler=StudyScheduler(ledger),
            num_samples=-1,
            reuse_actors=True,
        ),
        # The ledger keeps the state; what Tune writes here is never read again.
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    with kills_as_actor_deaths():
        try:
            tuner.fit()
        except TuneError as error:
            raise _raised_by_us(error) from error


def _raised_by_us(error: BaseException) -> BaseException:
    """Return the error of a callback, of which Tune raises the text alone; the error itself is the context of that."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KinemicError):
        link = link.__cause__ or link.__context__
    return link or error


def _summarise(tracker: Tracker, study: optuna.Study, table: ContenderTable) -> None:
    best = studies.best_trial(study)
    metrics = {f"trials_{state}": float(count) for state, count in studies.counts(study).items()}
    metrics |= {"dev_accuracy": studies.reports(best)[-1].dev_accuracy, "best_trial": float(best.number)}
    metrics |= table.metrics()
    tags = {BEST_TAG: f"{best.number:04d}"}
    tracker.log_parent(metrics, tags, {"contenders.json": table.to_json()})


def _check_new(folder: SearchFolder, config: SearchConfig, runs: Path) -> None:
    # A search that stopped before its first trial, over resources say, may be started anew.
    if folder.started and studies.counts(studies.open_study(folder.config(), folder.path, folder.state().study)):
        raise KinemicError(
            f"search {config.name!r} is there already; go on with "
            f"`{search_command('resume', runs, config.name)}`, "
            "or take another name: --set name=NEW"
        )


def _check_any(rows: list[TrialRow]) -> None:
    if not any(row.state == "complete" for row in rows):
        failed = [row for row in rows if row.failure]
        first = f", first trial {failed[0].number}: {failed[0].failure}" if failed else ""
        raise KinemicError(f"none of {len(rows)} trials finished, {len(failed)} failed{first}")


def _all_there(inputs: TrialInputs) -> bool:
    from kinemic.data.corpus import is_corpus, is_current

    needed = [path for name, path in vars(inputs).items() if name not in ("cache", "stages")]  # made when needed
    return all(path.exists() and (is_current(path) or not is_corpus(path)) for path in needed)


def _kept(opened: Opened) -> str:
    counted = studies.counts(opened.study)
    ended = sum(count for state, count in counted.items() if state != "running")
    return f"stopped after {ended} of {opened.config.budget.trials} trials, all state is kept"


def _resume_command(opened: Opened, runs: Path) -> str:
    return search_command("resume", runs, opened.config.name)
