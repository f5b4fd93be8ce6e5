"""Confirming a search: best trials and baselines again on dev, the winner fixed there, then one look at the test split.

The one place that opens the test split (METHOD section 6). Before it does, the winner is on disk and the look is in the
study. What trains gets none of it: the judges of the dev phase are kept, and score the test clips in this process.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from kinemic.data.corpus import Corpus
from kinemic.data.prepare import prepare
from kinemic.data.splits import Indices, TrialData, choose_test, load_trial_data, make_test_data
from kinemic.errors import KinemicError
from kinemic.files import replacing
from kinemic.progress import ProgressCallback, silent
from kinemic.reading import with_values
from kinemic.seeding import derive_seed
from search import study as studies
from search.again import Result, Run, fresh_seeds, plan, run_all
from search.baselines import Contender, baselines, candidates
from search.board import board_of
from search.config import ConfirmConfig, SearchConfig
from search.confirmation import (
    Confirmation,
    ConfirmedRow,
    Correct,
    FurtherRows,
    Look,
    choose_winner,
    dev_row,
    load,
    store,
    tested_row,
    under,
)
from search.folder import SearchFolder, State
from search.goal import Objective
from search.messages import first_line
from search.resources import connected, share
from search.sitting import Opened, Sat, Sitting, Watch, search_command, sit
from search.status import trial_rows
from search.tags import CONFIRMED_TAG
from search.trainable import RunTrial

LOOKS, RESULT = "test_looks", "confirmation"  # attributes of the study

_ROW = "correct."  # arrays (K, J, N) of a look's file


@dataclass(frozen=True)
class _Plan:
    """What is to be confirmed: every row's runs, and which clips are the test split. No motion has been read yet."""

    opened: Opened
    settings: ConfirmConfig
    trials: list[Contender]
    baselines: list[Contender]
    runs: Mapping[str, list[Run]]
    target: Corpus
    data: TrialData
    split: str  # hash of the test clips' names
    clips: int

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The folder names of every row's runs."""
        return _names(self.runs)

    def further_runs(self, winner: str, judge: str) -> dict[str, list[Run]]:
        """The runs of winner and baselines under a further judge: what makes their clips is as it was."""
        keys = dict.fromkeys((*(row.key for row in self.baselines), winner))
        configs = {key: with_values(self.runs[key][0].config, {"judge.profile": judge}) for key in keys}
        rows = [Contender(under(key, judge), key, config) for key, config in configs.items()]
        seeds = [run.seeds for run in self.runs[winner]]
        found = plan(rows, seeds, self.opened.folder.confirmation)
        return {key: found[under(key, judge)] for key in keys}

    def tested(self, fixed: Confirmation, keys: Sequence[str]) -> dict[str, list[Run]]:
        """The runs whose judges score the test clips: of these rows, and of theirs under further judges."""
        runs = {key: self.runs[key] for key in keys}
        for each in fixed.further:
            planned = self.further_runs(fixed.winner, each.judge)
            runs |= {under(row.key, each.judge): planned[row.key] for row in each.rows if not row.failures}
        return runs


def confirm(
    opened: Opened,
    runs: Path,
    *,
    again: bool = False,
    without_failed: bool = False,
    run_trial: RunTrial | None = None,
    watch: Watch | None = None,
) -> Sat[Confirmation]:
    """Confirm a search, or go on with an interrupted confirmation; a finished one of the same rows is returned as is.

    ``again`` allows a further look at the test split, by other rows than it was opened for; ``without_failed`` opens it
    though a baseline failed. Raises KinemicError, and FirewallError where test clips are not unseen.
    """
    planned = _plan(opened, runs)
    name = opened.config.name

    def body(sitting: Sitting) -> Confirmation:
        stored = load(opened.folder.confirmation_file)
        if stored is None or not _is_of(stored, planned):
            with connected(opened.config.resources.address):
                stored = _test(planned, _run_on_dev(planned, sitting), again, without_failed)
        tags = {CONFIRMED_TAG: stored.winning_row.title}
        sitting.tracker.log_parent(stored.metrics(), tags, {"confirmation.json": stored.model_dump_json(indent=1)})
        board_of(sitting, runs).update(trial_rows(opened.study), last=True)
        return stored

    command, kept = search_command("confirm", runs, name), "stopped, finished runs are kept"
    # A refused confirmation does not make the search a failed one.
    return sit(opened, runs, body, lambda: kept, command, run_trial=run_trial, watch=watch, refused="FINISHED")


def choose_clips(
    config: SearchConfig, settings: ConfirmConfig, data: TrialData, cache: Path, progress: ProgressCallback = silent
) -> tuple[Corpus, Indices]:
    """Return the target corpus and which of its clips are the test split; no motion is read.

    Raises DataError where they are not there, FirewallError where they are not unseen.
    """
    target = prepare(config.data.target, cache / "corpora", progress, role="target")
    return target, choose_test(target, data, settings.test_subjects, settings.test)


def _plan(opened: Opened, runs: Path) -> _Plan:
    config, folder = opened.config, opened.folder
    settings = config.confirm
    if settings is None:
        raise KinemicError(
            f"search {config.name!r} names no test split; add `confirm: {{test_subjects: [...]}}` or "
            f"`confirm: {{test: {{file: FILE}}}}` to {folder.path / 'search.yaml'}"
        )
    unfinished = studies.counts(opened.study).get("running", 0)
    if unfinished:
        raise KinemicError(
            f"{unfinished} trials of {config.name!r} are unfinished, and the winner may be among them; "
            f"first `{search_command('resume', runs, config.name)}`"
        )
    data = load_trial_data(opened.state.inputs.trial_data)
    target, test = choose_clips(config, settings, data, (runs / "cache").resolve())
    trials, rivals, planned = rows_of(config, settings, opened.study, folder, opened.state)
    split = _hash([target.names[i] for i in test])
    return _Plan(opened, settings, trials, rivals, planned, target, data, split, len(test))


def rows_of(
    config: SearchConfig, settings: ConfirmConfig, study: optuna.Study, folder: SearchFolder, state: State
) -> tuple[list[Contender], list[Contender], dict[str, list[Run]]]:
    """Return the best trials, the baselines, and the runs of each. Raises KinemicError before a trial has finished."""
    trials = candidates(study, config, settings.best)
    rivals = baselines(config, state.space(config), state.source_clips)
    seeds = [fresh_seeds(config.sampler.seed, "confirm", k, settings.judge_seeds) for k in range(settings.seeds)]
    keeping = [replace(c, config=with_values(c.config, {"judge.keep": True})) for c in (*rivals, *trials)]
    return trials, rivals, plan(keeping, seeds, folder.confirmation)


def _is_of(stored: Confirmation, planned: _Plan) -> bool:
    """Whether a stored confirmation is finished, and of these very runs, judges and test clips."""
    same_judges = tuple(each.judge for each in stored.further) == planned.settings.classifiers
    same_rows = stored.runs == planned.names and same_judges
    return stored.tested and same_rows and stored.look_log[-1].split == planned.split


def _run_on_dev(planned: _Plan, sitting: Sitting) -> Confirmation:
    config, settings = planned.opened.config, planned.settings
    part, told = share(config.resources), sitting.watch.contending

    def run(rows: Mapping[str, list[Run]]) -> dict[str, list[Result]]:
        return run_all(rows, sitting.work, part, told, patience=config.patience)

    results = run(planned.runs)
    objective = studies.objective(planned.opened.study)
    rows = [dev_row(c, results[c.key], True, objective) for c in planned.baselines]
    rows += [dev_row(c, results[c.key], False, objective) for c in planned.trials]
    winner, log = choose_winner(rows), _looks(planned.opened)
    # Only now, when what makes the clips is kept for every row.
    further = [(judge, planned.further_runs(winner, judge)) for judge in settings.classifiers]
    return Confirmation(
        search=config.name,
        judge=config.trial.judge.profile,
        steps=config.steps,
        repetitions=settings.seeds,
        judge_seeds=settings.judge_seeds,
        winner=winner,
        objective=objective,
        runs=planned.names,
        rows=tuple(rows),
        looks=len(log),
        look_log=log,
        further=tuple(
            FurtherRows(judge=judge, runs=_names(runs), rows=_further_rows(rows, run(runs), objective))
            for judge, runs in further
        ),
    )


def _further_rows(
    rows: Sequence[ConfirmedRow], results: Mapping[str, list[Result]], objective: Objective
) -> tuple[ConfirmedRow, ...]:
    return tuple(dev_row(row, results[row.key], row.baseline, objective) for row in rows if row.key in results)


def _names(runs: Mapping[str, list[Run]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(run.workdir.name for run in row) for key, row in runs.items()}


def _test(planned: _Plan, fixed: Confirmation, again: bool, without_failed: bool) -> Confirmation:
    """Open the test split for the winner and the baselines, unless an earlier look has seen just that."""
    file = planned.opened.folder.confirmation_file
    runs = planned.tested(fixed, _tested_keys(fixed, without_failed))
    look = _look(planned, fixed, runs, again)
    saw = planned.opened.folder.confirmation / f"look-{look.number}.npz"
    if not saw.exists():
        _check_judges(planned, runs)
        store(fixed, file)
        _record(planned.opened, look)  # before anything is read: a look that is broken off was one all the same
        _score(planned, runs, saw)
    correct, seed = _read(saw), derive_seed(planned.opened.config.sampler.seed, "confirm")
    log = _looks(planned.opened)

    def tested(
        rows: Sequence[ConfirmedRow], runs: Mapping[str, tuple[str, ...]], correct: Correct
    ) -> tuple[ConfirmedRow, ...]:
        own = runs[fixed.winner]
        return tuple(tested_row(row, fixed.winner, runs[row.key] == own, correct, seed) for row in rows)

    further = []
    for each in fixed.further:
        named = {row.key: under(row.key, each.judge) for row in each.rows}
        seen = {key: correct[name] for key, name in named.items() if name in correct}
        further.append(each.model_copy(update={"rows": tested(each.rows, each.runs, seen)}))
    done = {"looks": len(log), "look_log": log, "test_clips": look.clips, "further": tuple(further)}
    done["rows"] = tested(fixed.rows, fixed.runs, correct)
    confirmation = fixed.model_copy(update=done)
    planned.opened.study.set_user_attr(RESULT, confirmation.model_dump(mode="json"))
    store(confirmation, file)
    return confirmation


def _tested_keys(fixed: Confirmation, without_failed: bool) -> list[str]:
    rows = [row for row in fixed.rows if row.baseline]
    failed = [row for row in (*rows, *(row for each in fixed.further for row in each.rows)) if row.failures]
    if failed and not without_failed:
        raise KinemicError(
            f"{len(failed)} rows failed, first {failed[0].title} ({failed[0].failures[0]}), and the test split is "
            "opened once; confirm again when it is mended, or leave them out with --without-failed"
        )
    whole = [row.key for row in rows if not row.failures]
    return [fixed.winner, *whole]


def _look(planned: _Plan, fixed: Confirmation, runs: Mapping[str, list[Run]], again: bool) -> Look:
    """Return the look that saw, or was to see, these rows; a new one otherwise. Raises KinemicError for a second."""
    log = _looks(planned.opened)
    look = Look(
        number=len(log) + 1,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        winner=fixed.winner,
        runs=_names(runs),
        clips=planned.clips,
        split=planned.split,
    )
    same = {"number", "time"}
    for earlier in log:
        if earlier.model_dump(exclude=same) == look.model_dump(exclude=same):
            return earlier
    if log and not again:
        raise KinemicError(
            f"the test split was opened {len(log)} time(s), last {log[-1].time} for {log[-1].winner}, and the rows are "
            f"others now, winner {fixed.winner}; a further look is recorded and weakens the claim: --again"
        )
    return look


def _looks(opened: Opened) -> tuple[Look, ...]:
    return studies.attribute(opened.study, LOOKS, tuple[Look, ...], ())


def _record(opened: Opened, look: Look) -> None:
    log = _looks(opened)
    if look not in log:
        opened.study.set_user_attr(LOOKS, [one.model_dump(mode="json") for one in (*log, look)])


def _check_judges(planned: _Plan, runs: Mapping[str, list[Run]]) -> None:
    """Raise KinemicError for a judge that is gone or another, before a look is spent on it."""
    from kinemic.judges import check_judge, judge_file

    for run in (run for row in runs.values() for run in row):
        for number, seed in enumerate(run.seeds.judge):
            file = judge_file(run.workdir, number)
            if not file.exists():
                raise KinemicError(f"{file}: the judge is gone; delete {run.workdir} and confirm again")
            check_judge(file, run.config.judge.profile, planned.data.corpus.classes, seed)


def _score(planned: _Plan, runs: Mapping[str, list[Run]], file: Path) -> None:
    """Read the test clips, have every kept judge say what they are, and write whether it was right."""
    from kinemic.device import resolve_device
    from kinemic.judges import judge_file, load_judge

    settings, device = planned.settings, resolve_device()
    with tempfile.TemporaryDirectory() as folder:  # no test clip is left lying about
        place = Path(folder) / "test"
        test = make_test_data(planned.target, planned.data, place, settings.test_subjects, settings.test)
        joints = [test.joints(i) for i in range(len(test))]
        names, labels = np.array(test.names), test.labels

    def right(run: Run, number: int) -> Any:
        return load_judge(judge_file(run.workdir, number), device).score(joints)[0].argmax(axis=1) == labels

    judges = range(settings.judge_seeds)
    correct: dict[str, Any] = {
        f"{_ROW}{key}": np.array([[right(run, j) for j in judges] for run in row]) for key, row in runs.items()
    }
    with replacing(file) as part:
        np.savez(part, names=names, labels=labels, **correct)


def _read(file: Path) -> Correct:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name.removeprefix(_ROW): arrays[name] for name in arrays if name.startswith(_ROW)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise KinemicError(f"{file}: damaged ({first_line(error)}); delete it and confirm again") from error


def _hash(names: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=8).hexdigest()
