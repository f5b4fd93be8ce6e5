"""What was recorded of the effect: accuracies by target, shots, draw, row and seeds; and what each row was run with.

Two files beside each other, both lists, sorted, an entry a line, so that a recording that goes on changes few lines:
``effect.json`` holds the accuracies, ``effect_settings.json`` the settings of every row. No ids of clips in either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from kinemic.config import Frozen, TrialConfig
from kinemic.errors import ConfigError, DataError, one_line
from kinemic.files import write_text
from kinemic.judge_profiles import PROFILES

FILE = Path(__file__).parent / "effect.json"
WINNER = "winner"  # the row of what a search has chosen


class Place(NamedTuple):
    """Which row is meant."""

    target: str
    shots: int
    row: str


class Key(NamedTuple):
    """Which record is meant."""

    target: str
    shots: int
    row: str
    draw: int
    adaptation_seed: int
    classifier_seed: int


class Record(Frozen):
    """Accuracy on dev (0..1) of one classifier."""

    target: str
    shots: int
    draw: int  # of the few shots: the seed of the split
    row: str
    adaptation_seed: int  # of adaptation and generation
    classifier_seed: int
    accuracy: float

    @property
    def place(self) -> Place:
        """The row that it is of."""
        return Place(self.target, self.shots, self.row)

    @property
    def key(self) -> Key:
        """What no other record has."""
        return Key(*self.place, self.draw, self.adaptation_seed, self.classifier_seed)


class Row(Frozen):
    """What a row of a target at some shots was run with, and the seconds of a core that its first run took."""

    target: str
    shots: int
    row: str
    seconds: float
    settings: dict[str, Any]

    @classmethod
    def of(cls, place: Place, settings: Mapping[str, Any], seconds: float = 0.0) -> Row:
        """Return the row of a place."""
        return cls(**place._asdict(), seconds=seconds, settings=settings)

    @property
    def place(self) -> Place:
        """Which row it is."""
        return Place(self.target, self.shots, self.row)


class Recording:
    """The records of a file, and the settings of their rows in the file beside it.

    Raises DataError where either is damaged.
    """

    def __init__(self, file: Path = FILE) -> None:
        self.file, self.settings_file = file, file.with_name(f"{file.stem}_settings{file.suffix}")
        self._records = {record.key: record for record in _load(file, list[Record])}
        self.rows = {row.place: row for row in _load(self.settings_file, list[Row])}

    @property
    def records(self) -> list[Record]:
        """All records, sorted."""
        return [self._records[key] for key in sorted(self._records)]

    def has(self, key: Key) -> bool:
        """Return whether a classifier's accuracy is recorded."""
        return key in self._records

    def check(self, row: Row) -> None:
        """Raise ConfigError, naming the first setting, where a row is recorded with other settings."""
        known = self.rows.get(row.place)
        for path in sorted({*known.settings, *row.settings}) if known else ():
            there, here = known.settings.get(path), row.settings.get(path)
            if there != here:
                raise ConfigError(
                    f"{self.file}: {row.row} of {row.target}, shots {row.shots}, was recorded with {path} {there!r}, "
                    f"not {here!r}; --again records it anew, --file elsewhere"
                )

    def forget(self, place: Place) -> None:
        """Drop a row and its records; what is on disk changes with the next ``add``."""
        self._records = {key: record for key, record in self._records.items() if record.place != place}
        self.rows.pop(place, None)

    def forget_target(self, target: str) -> None:
        """Drop all rows of a target, as ``forget`` does."""
        for place in [place for place in self.rows if place.target == target]:
            self.forget(place)

    def add(self, row: Row, records: Sequence[Record]) -> None:
        """Write a run's records, and its row's settings where they are new."""
        self.rows.setdefault(row.place, row)
        self._records |= {record.key: record for record in records}
        # The settings first: records without them could not be told from those of other settings.
        _store(self.settings_file, [self.rows[place] for place in sorted(self.rows)])
        _store(self.file, self.records)


def _load(file: Path, kind: Any) -> Any:
    if not file.exists():
        return []
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(f"{file}: damaged ({one_line(error, 120)}); put back a copy of it") from error


def _store(file: Path, entries: Iterable[Frozen]) -> None:
    lines = ",\n".join(json.dumps(entry.model_dump(mode="json")) for entry in entries)
    write_text(file, f"[\n{lines}\n]\n")


def settings_of(trial: TrialConfig, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return by dotted path what a row's numbers depend on: of a trial and its inputs, what its source reads.

    So a change of what others read leaves the records of a row valid.
    """
    classifier = asdict(PROFILES[trial.judge.profile])
    everything = dict(_flat({**trial.model_dump(mode="json"), "classifier": classifier, **inputs}))
    sources = set(trial.synthesis.parts)
    read = ("",) if sources - {"mined_clips"} else _JUDGE + _MINED if sources else _JUDGE
    kept = {path: value for path, value in everything.items() if path.startswith(read) and path not in _NO_NUMBERS}
    return {"synthesis.source": trial.synthesis.source if sources else "none"} | kept


_JUDGE = ("judge.", "classifier.")  # which sees clips of the target, as every row does
_MINED = ("mining.", "text.", "source.", "synthesis.clips_per_class")
_NO_NUMBERS = ("judge.keep",)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value
