"""Damage to the study of a search, a SQLite file: its attributes, values and parameters."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.fuzz.damage import BYTES, PLACES, Damage, Document, documents
from tests.fuzz.texts import JSON

COLUMNS = {
    "study_user_attributes": ("key", "value_json"),
    "study_system_attributes": ("value_json",),
    "trial_user_attributes": ("key", "value_json"),
    "trial_system_attributes": ("value_json",),
    "trial_params": ("param_name", "param_value", "distribution_json"),
    "trial_values": ("value", "value_type", "objective"),
    "trial_intermediate_values": ("step", "intermediate_value", "intermediate_value_type"),
    "trials": ("number", "state", "datetime_start", "datetime_complete"),
    "studies": ("study_name",),
    "version_info": ("schema_version",),
}
CELLS = st.sampled_from([(table, column) for table, columns in COLUMNS.items() for column in columns])
VALUES = st.sampled_from(
    ("", "x", "null", -1, 0, 1, 1e308, float("inf"), None, 10**18, "COMPLETE", "RUNNING", "\u0000", b"\xff")
)


@dataclass(frozen=True)
class Cell:
    """One cell is another, as far as the table allows it."""

    cell: tuple[str, str]
    place: int
    value: object

    def __call__(self, data: bytes) -> bytes:
        return _changed(data, *self.cell, self.place, lambda _: self.value)


@dataclass(frozen=True)
class Attribute:
    """What is kept as JSON is damaged."""

    table: str
    place: int
    how: Document

    def __call__(self, data: bytes) -> bytes:
        column = COLUMNS[self.table][-1]
        return _changed(
            data, self.table, column, self.place, lambda old: self.how(old.encode()).decode(errors="replace")
        )


@dataclass(frozen=True)
class Deleted:
    """A row, or every row, is gone."""

    table: str
    place: int | None

    def __call__(self, data: bytes) -> bytes:
        with _opened(data) as study:
            which = "" if self.place is None else _row(study, self.table, self.place)
            study.execute(f"DELETE FROM {self.table} {which}")
            study.commit()
            return study.serialize()


def _changed(data: bytes, table: str, column: str, place: int, change: Callable[[str], object]) -> bytes:
    with _opened(data) as study, suppress(sqlite3.Error):
        row = _row(study, table, place)
        found = study.execute(f"SELECT {column} FROM {table} {row}").fetchone()
        if found is not None:
            study.execute(f"UPDATE {table} SET {column} = ? {row}", (change(str(found[0])),))
            study.commit()
            return study.serialize()
    return data


def _opened(data: bytes) -> closing[sqlite3.Connection]:
    study = sqlite3.connect(":memory:")
    study.deserialize(data)
    return closing(study)


def _row(study: sqlite3.Connection, table: str, place: int) -> str:
    rows = [row for (row,) in study.execute(f"SELECT rowid FROM {table}")]
    return f"WHERE rowid = {rows[place % len(rows)]}" if rows else "WHERE rowid = -1"


ATTRIBUTES = ("trial_user_attributes", "trial_user_attributes", "trial_params", "study_user_attributes")
STUDY: st.SearchStrategy[Damage] = st.one_of(
    st.builds(Attribute, st.sampled_from(ATTRIBUTES), PLACES, documents(JSON)),
    st.builds(Attribute, st.sampled_from(ATTRIBUTES), PLACES, documents(JSON)),
    st.builds(Cell, CELLS, PLACES, VALUES),
    st.builds(Deleted, st.sampled_from(sorted(COLUMNS)), st.one_of(st.none(), PLACES)),
    BYTES,
)
