"""The durable Optuna study: the one truth about the trials of a search."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.trial import FrozenTrial, TrialState

from kinemic.config import TrialConfig
from kinemic.documents import validate_result
from kinemic.errors import ConfigError, InfrastructureError, KinemicError
from kinemic.reading import with_values
from kinemic.report import RungReport
from kinemic.seeding import derive_seed
from search.config import SamplerConfig, SearchConfig
from search.failures import INFRASTRUCTURE, OUT_OF_MEMORY, Failure
from search.goal import Objective, goal
from search.known_rows import PUBLISHED, first_rows
from search.messages import first_line
from search.space import Domain, Scalar, contains, ordered, space_hash
from search.storage import PatientStorage, open_storage, prove
from search.urls import resolve, sqlite_url

_FIXED, _ROLE, _RUNG, _DECISION, _LEADER = "fixed", "role", "rung:", "decision", "variant_of"
_FAILURE_KIND, _FAILURE_MESSAGE, _ENLARGED, _MEMORY = "failure_kind", "failure_message", "enlarged", "memory"
_FAULT = "fault"  # of the machine, that a trial waits out
_SEARCHED, _OBJECTIVE = "searched_seconds", "objective"  # of the study
_SQLITE_HEADER = 100  # bytes
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, AssertionError)  # Optuna's, of rows edited by hand

Kept = TypeVar("Kept")
Default = TypeVar("Default")


def study_name(config: SearchConfig, space: Mapping[str, Domain]) -> str:
    """Return the study's name: the search's and its resolved space's hash, since a study can't change its choices."""
    return f"{config.name}-{space_hash(space)}"


def storage_url(config: SearchConfig, folder: Path) -> str:
    """Return the URL of the study's storage, references as they are; by default a SQLite file in the folder."""
    return config.storage or sqlite_url(folder / "study.db")


def prove_storage(config: SearchConfig) -> None:
    """Open the storage that a search names, and write to it what is taken back, before anything is prepared.

    A default one lies in the search's folder, which is made later. Raises ConfigError, and KinemicError where it holds
    a search of that name, whatever its space.
    """
    if config.storage is None:
        return
    with _one_line_of(config.storage):
        storage = PatientStorage(resolve(config.storage), patience=0.0)
        prove(storage)
    names = (study.study_name for study in storage.get_all_studies())
    if any(re.fullmatch(rf"{re.escape(config.name)}-[0-9a-f]{{8}}", name) for name in names):
        raise _taken(config, config.storage)


def create_study(config: SearchConfig, folder: Path, space: Mapping[str, Domain], source_clips: int) -> optuna.Study:
    """Create the study of a search and enqueue what it tries first: the published configuration as trial 0, known rows.

    What an interrupted start has enqueued stays. All rows are enqueued, whatever the budget, which may be raised later.
    A published value outside the user's space is run all the same, as a fixed value that is no parameter of the study:
    the baseline stays honest and the sampler never models values it may not propose. Raises KinemicError.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = storage_url(config, folder)
    storage = _open_storage(url, config.patience)
    try:
        study = optuna.create_study(
            study_name=study_name(config, space),
            storage=storage,
            direction="maximize",
            # A file of this very folder can only be what an interrupted start left; elsewhere it is someone's search.
            load_if_exists=config.storage is None,
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise _taken(config, url) from error
    keep_objective(study, config.objective)
    enqueued = {role(trial) for trial in study.get_trials(deepcopy=False)}
    for name, values in first_rows(space, source_clips, config.trial):
        if name not in enqueued:
            enqueue(study, space, values, name)
    return study


def enqueue(study: optuna.Study, space: Mapping[str, Domain], values: Mapping[str, Scalar], role: str = "") -> None:
    """Enqueue a trial of these values; what lies outside the space is fixed, and no parameter of the study."""
    inside = {path: value for path, value in values.items() if path in space and contains(space[path], value)}
    outside = {path: value for path, value in values.items() if path not in inside}
    study.enqueue_trial(inside, user_attrs={_ROLE: role, _FIXED: outside})


def open_study(config: SearchConfig, folder: Path, name: str) -> optuna.Study:
    """Open the study of an earlier run; a storage that is away or locked is waited for.

    Raises KinemicError where the study is gone, OutOfPatienceError.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = storage_url(config, folder)
    try:
        if _is_empty(resolve(url)):  # Optuna would make a database of it
            raise KeyError(name)
        study = optuna.load_study(study_name=name, storage=_open_storage(url, config.patience))
    except KeyError as error:
        raise KinemicError(
            f"{url} holds no study {name!r}; the search {config.name!r} has no trials to show"
        ) from error
    try:
        for trial in study.get_trials(deepcopy=False):
            if odd := [key for key in (*trial.params, *trial.user_attrs) if not isinstance(key, str)]:
                raise ValueError(f"trial {trial.number} has {odd[0]!r} for a name")
    except _DAMAGED as error:
        raise KinemicError(
            f"{url} holds a damaged study {name!r} ({first_line(error)}); put back a copy of it"
        ) from error
    return study


def attribute(
    of: FrozenTrial | optuna.Trial | optuna.Study, key: str, kind: type[Kept], default: Default
) -> Kept | Default:
    """Return what is kept of a trial or study as a value of ``kind``, ``default`` where nothing is.

    Raises KinemicError, naming the attribute, for one that was damaged.
    """
    value = of.user_attrs.get(key)
    try:
        return default if value is None else validate_result(value, kind)
    except ValueError as error:
        whose = "the study" if isinstance(of, optuna.Study) else f"trial {of.number}"
        raise KinemicError(
            f"attribute {key!r} of {whose} is damaged in the study's storage ({error}); "
            "put back a copy of it, or start the search under another name"
        ) from error


def keep_objective(study: optuna.Study, objective: Objective) -> None:
    """Record what a study maximises."""
    study.set_user_attr(_OBJECTIVE, objective)


def objective(study: optuna.Study) -> Objective:
    """Return what a study maximises; one of before there was a choice, accuracy."""
    found: Objective = attribute(study, _OBJECTIVE, Objective, "accuracy")  # type: ignore[arg-type]
    return found


def make_sampler(config: SamplerConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial, seeded by its number: a resumed search proposes what an unbroken one would."""
    seed = derive_seed(config.seed, "sampler", number) % 2**32
    if config.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # Each setting by itself: a joint model would know those alone that every trial has, whatever its source.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.startup_trials)


def fixed_values(trial: FrozenTrial | optuna.Trial) -> dict[str, Scalar]:
    """Return the values that a trial takes without their being parameters of the study."""
    return attribute(trial, _FIXED, dict[str, Scalar], {})


def trial_values(trial: FrozenTrial) -> dict[str, Scalar]:
    """Return the value of every searched path that a trial ran with."""
    return fixed_values(trial) | trial.params


def trial_config(config: SearchConfig, values: Mapping[str, Scalar]) -> TrialConfig:
    """Return the trial configuration of searched values."""
    return with_values(config.trial, values)


def role(trial: FrozenTrial) -> str:
    """Return which of the rows that a search begins with a trial is; empty for any other."""
    return attribute(trial, _ROLE, str, "")


def is_published(trial: FrozenTrial) -> bool:
    """Return whether a trial is the published configuration."""
    return role(trial) == PUBLISHED


def enqueue_variant(study: optuna.Study, leader: FrozenTrial, dear: Container[str]) -> None:
    """Enqueue a trial with a leader's values of the ``dear`` paths; the sampler draws the others."""
    kept = {path: value for path, value in leader.params.items() if path in dear}
    fixed = {path: value for path, value in fixed_values(leader).items() if path in dear}
    study.enqueue_trial(kept, user_attrs={_LEADER: leader.number, _FIXED: fixed})


def leader(trial: FrozenTrial | optuna.Trial) -> int | None:
    """Return the number of the trial whose dear values a variant has; None for a trial that is no variant."""
    return attribute(trial, _LEADER, int, None)


def store_report(trial: optuna.Trial, report: RungReport) -> bool:
    """Keep a rung's whole report and its goal in the study; returns False where it is already there."""
    key = f"{_RUNG}{report.step}"
    if key in trial.user_attrs:
        return False
    if report.step not in _frozen(trial).intermediate_values:
        trial.report(goal(report, objective(trial.study)), report.step)
    trial.set_user_attr(key, json.loads(report.to_json()))
    return True


def reports(trial: FrozenTrial) -> list[RungReport]:
    """Return a trial's reports, rungs and then further repetitions."""
    found = [attribute(trial, key, RungReport, None) for key in trial.user_attrs if key.startswith(_RUNG)]
    return sorted((report for report in found if report), key=lambda report: report.step)


@dataclass(frozen=True)
class Decision:
    """What was decided about a trial after its latest report, by that report's step."""

    step: int
    stop: bool


def keep_decision(trial: optuna.Trial, decision: Decision) -> None:
    """Record what was decided; on resume nothing is asked again."""
    trial.set_user_attr(_DECISION, asdict(decision))


def decision(trial: optuna.Trial) -> Decision | None:
    """Return what was last decided about a trial, None where nothing was."""
    return attribute(trial, _DECISION, Decision, None)


def keep_failure(trial: optuna.Trial, failure: Failure) -> None:
    """Record why a trial fails; the kind last, which says that it does."""
    trial.set_user_attr(_FAILURE_MESSAGE, failure.message)
    trial.set_user_attr(_FAILURE_KIND, failure.kind)


def failure(trial: FrozenTrial) -> Failure | None:
    """Return why a trial failed, None where it did not."""
    kind, message = (attribute(trial, key, str, "") for key in (_FAILURE_KIND, _FAILURE_MESSAGE))
    return Failure(kind, message) if kind else None


def fault(trial: FrozenTrial) -> Failure | None:
    """Return the fault of the machine that a trial waits out, None where it has met none since its last report."""
    message = trial.user_attrs.get(_FAULT)
    return Failure(INFRASTRUCTURE, message) if message and not trial.state.is_finished() else None


def keep_fault(trial: optuna.Trial, fault: Failure) -> None:
    """Record the fault of the machine that a trial waits out."""
    trial.set_user_attr(_FAULT, fault.message)


def forget_fault(trial: optuna.Trial) -> None:
    """Record that a trial gets on again."""
    if trial.user_attrs.get(_FAULT):
        trial.set_user_attr(_FAULT, None)


def tell_failure(trial: optuna.Trial) -> None:
    """End a trial by the failure that was kept: FAIL, or for out of memory as infeasible.

    Infeasible is PRUNED with a violated constraint. Optuna's samplers pass over failed trials; from infeasible ones
    they learn, and propose such sizes less.
    """
    kept = failure(_frozen(trial))
    if kept is None or kept.kind != OUT_OF_MEMORY:
        trial.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        return
    if _MEMORY not in trial.constraints:
        trial.set_constraint(_MEMORY, 1.0)
    trial.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)


def state_name(trial: FrozenTrial) -> str:
    """Return a trial's state in lower case: Optuna's, or ``infeasible`` where no share of memory was enough."""
    return "infeasible" if trial.state == TrialState.PRUNED and failure(trial) else trial.state.name.lower()


def enlarge(trial: optuna.Trial) -> None:
    """Record that a trial gets the larger share from now on."""
    trial.set_user_attr(_ENLARGED, True)


def enlarged(trial: FrozenTrial | optuna.Trial) -> bool:
    """Return whether a trial gets the larger share."""
    return bool(trial.user_attrs.get(_ENLARGED, False))


def redraw(trial: optuna.Trial, space: Mapping[str, Domain]) -> None:
    """Bring the sampler of a trial whose driver died between two draws to where it was, by drawing again."""
    for path, _ in ordered(space):
        known = trial.relative_params.keys() | _frozen(trial).system_attrs.get("fixed_params", {}).keys()
        if path in trial.distributions and path not in known and not trial.distributions[path].single():
            seen = optuna.pruners._filter_study(trial.study, _frozen(trial))  # Hyperband's sampler sees a bracket alone
            trial.study.sampler.sample_independent(seen, _frozen(trial), path, trial.distributions[path])


def best_trial(study: optuna.Study) -> FrozenTrial:
    """Return the finished trial that reached the goal best, the earliest of equals. Raises KinemicError without one."""
    return best_trials(study, 1)[0]


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return up to ``count`` finished trials, best first, the earlier of equals first. Raises KinemicError for none."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise KinemicError(f"no trial of {study.study_name} has finished yet; look at `kinemic search status`")
    return sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))[:count]


def searched_seconds(study: optuna.Study) -> float:
    """Return how long the search has gone on, its contenders left out, over all sittings."""
    return attribute(study, _SEARCHED, float, 0.0)


def keep_searched_seconds(study: optuna.Study, seconds: float) -> None:
    """Note how long the search has gone on."""
    study.set_user_attr(_SEARCHED, round(seconds, 3))


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials are in each state, states in lower case; enqueued ones are left out."""
    found: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.WAITING:
            found[state_name(trial)] = found.get(state_name(trial), 0) + 1
    return found


def _frozen(trial: optuna.Trial) -> FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]


def _taken(config: SearchConfig, url: str) -> KinemicError:
    return KinemicError(f"{url} already holds a search {config.name!r}; take another name: --set name=NEW")


def _open_storage(url: str, patience: float) -> optuna.storages.BaseStorage:
    with _one_line_of(url):
        return optuna.storages.get_storage(open_storage(resolve(url), patience))


def _is_empty(url: str) -> bool:
    place = sqlalchemy.make_url(url)
    if place.get_backend_name() != "sqlite" or not place.database or place.database.startswith((":", "file:")):
        return False
    # SQLite, too, takes what is shorter than its own header for an empty database.
    return not Path(place.database).exists() or Path(place.database).stat().st_size < _SQLITE_HEADER


@contextmanager
def _one_line_of(url: str) -> Iterator[None]:
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, InfrastructureError, ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"storage {url}: cannot be opened ({first_line(error)}); give a URL such as sqlite:///PATH"
        ) from error
