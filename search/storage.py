"""The study's storage, which outlasts a lock, a full disk and a server that restarts: every call is made again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import sqlalchemy
import sqlalchemy.exc
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from kinemic.errors import InfrastructureError
from kinemic.faults import refusal
from kinemic.redaction import without_secrets
from search.messages import first_line
from search.patience import OutOfPatienceError, patiently

T = TypeVar("T")

# s and ms: a server that has lost its power says nothing.
_POSTGRES: dict[str, float] = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
_SETTINGS: dict[str, dict[str, float]] = {  # of drivers, where the address has no other
    "pysqlite": {"timeout": 1.0},  # s, that SQLite itself waits for a lock, in silence
    "psycopg": _POSTGRES,
    "psycopg2": _POSTGRES,
}


class PatientStorage(RDBStorage):
    """Optuna's storage with calls that wait, up to ``patience`` seconds each, and happen once, however often tried.

    Raises OutOfPatienceError; from then on nothing waits any more.
    """

    def __init__(self, url: str, patience: float) -> None:
        self._patience, self._url = patience, url
        self._gave_up: OutOfPatienceError | None = None
        self._created: int | None = None  # the id that the trial which is being created got in an earlier try
        super().__init__(url, engine_kwargs=_engine_settings(url))
        sqlalchemy.event.listen(self.engine, "handle_error", self._renamed)

    def _renamed(self, context: sqlalchemy.engine.ExceptionContext) -> InfrastructureError | None:
        """Give an error of the database that is the machine's a class of its own, before Optuna calls it bad data."""
        error = context.sqlalchemy_exception
        if context.is_pre_ping or not isinstance(error, sqlalchemy.exc.DBAPIError) or not _is_the_machines(error):
            return None
        return InfrastructureError(_told(self._url, error))

    def patiently(self, call: Callable[[], T]) -> T:
        """Return what a call of this storage returns, made again while the database refuses."""
        try:
            return patiently(call, 0.0 if self._gave_up else self._patience)
        except OutOfPatienceError as error:
            self._gave_up = self._gave_up or error
            raise self._gave_up from error

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        self._created = None
        return self.patiently(lambda: super(PatientStorage, self)._create_new_trial(study_id, template_trial))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        # The study's row is locked here. An earlier try whose commit was never answered may have arrived all the same.
        arrived = self._created and session.get(models.TrialModel, self._created)
        trial = arrived or super()._get_prepared_new_trial(study_id, template_trial, session)
        self._created = int(trial.trial_id)
        return trial

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a trial's state as Optuna does; found done by an earlier try, it is done."""
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            if tries > 1 and self.get_trial(trial_id).state == state:
                return True
            return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)

        return self.patiently(once)


def _waits(name: str) -> Callable[..., Any]:
    call = getattr(RDBStorage, name)

    @wraps(call)
    def waits(self: PatientStorage, *given: Any, **named: Any) -> Any:
        return self.patiently(lambda: call(self, *given, **named))

    return waits


# What these write a second time is what they wrote at first.
for _name in (
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_all_studies"),
    *("get_study_user_attrs", "get_study_system_attrs", "get_trial_user_attrs", "get_trial_system_attrs"),
    *("get_trial_id_from_study_id_trial_number", "get_trial", "_get_trials", "_get_best_trial_id"),
    *("set_study_user_attr", "set_study_system_attr", "set_trial_user_attr", "set_trial_system_attr"),
    *("set_trial_intermediate_value", "_set_trial_param"),
):
    setattr(PatientStorage, _name, _waits(_name))


def open_storage(url: str, patience: float) -> PatientStorage:
    """Open a storage that was in use before, or was proven: what the machine refuses is waited out.

    Raises OutOfPatienceError, SQLAlchemyError.
    """

    def once() -> PatientStorage:
        try:
            return PatientStorage(url, patience)
        except sqlalchemy.exc.DBAPIError as error:
            # A file that is not there, or that is no database, was named wrongly: a server that is away may come back.
            if not (refusal(error) if isinstance(error.orig, sqlite3.Error) else _is_the_machines(error)):
                raise
            raise InfrastructureError(_told(url, error)) from error

    return patiently(once, patience)


def prove(storage: RDBStorage) -> None:
    """Write a study and take it back, all in one transaction. Raises SQLAlchemyError, InfrastructureError."""
    with storage.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(sqlalchemy.insert(models.StudyModel).values(study_name=f"kinemic-{id(transaction)}"))
        transaction.rollback()


def _engine_settings(url: str) -> dict[str, Any]:
    address = sqlalchemy.make_url(url)
    known = _SETTINGS.get(address.get_driver_name(), {})
    # SQLAlchemy has pools of its own for SQLite, whose connections are not lost.
    ping = {} if address.get_backend_name() == "sqlite" else {"pool_pre_ping": True}
    return ping | {"connect_args": {name: value for name, value in known.items() if name not in address.query}}


def _is_the_machines(error: sqlalchemy.exc.DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR  # that is a wrong statement
    lost = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    return error.connection_invalidated or isinstance(error, lost)


def _told(url: str, error: sqlalchemy.exc.DBAPIError) -> str:
    return f"study in {without_secrets(url)}: {first_line(error.orig or error)}"
