"""The study on a PostgreSQL server, one that the test starts: the same search as in a SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinemic.errors import KinemicError
from search import study as studies
from search.folder import dump
from tests.bench import Bench, search
from tests.conftest import PG_PASSWORD

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
