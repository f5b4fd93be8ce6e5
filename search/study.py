"""The durable Optuna study: the one truth about the trials of a search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.trial import FrozenTrial, TrialState

from kinemic.config import TrialConfig, with_values
from kinemic.errors import ConfigError, KinemicError
from kinemic.report import RungReport
from kinemic.seeding import derive_seed
from search.config import HalvingPruner, HyperbandPruner, MedianPruner, SamplerConfig, SearchConfig
from search.space import Domain, Scalar, contains, published_values, space_hash

_FIXED, _ROLE, _RUNG, _PASSED = "fixed", "role", "rung:", "passed"
FAILURE_KIND, FAILURE_MESSAGE = "failure_kind", "failure_message"
PUBLISHED = "published"


def study_name(config: SearchConfig, space: Mapping[str, Domain]) -> str:
    """Return the study's name: the search's and its resolved space's hash, since a study can't change its choices."""
    return f"{config.name}-{space_hash(space)}"


def storage_url(config: SearchConfig, folder: Path) -> str:
    """Return the URL of the study's storage; by default a SQLite file in the search's folder."""
    return config.storage or f"sqlite:///{(folder / 'study.db').resolve()}"


def create_study(config: SearchConfig, folder: Path, space: Mapping[str, Domain], source_clips: int) -> optuna.Study:
    """Create the study of a search and enqueue the published configuration as trial 0.

    A published value outside the user's space is run all the same, as a fixed value that is no parameter of the study:
    the baseline stays honest and the sampler never models values it may not propose. Raises KinemicError.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = storage_url(config, folder)
    storage = _open_storage(url)
    try:
        study = optuna.create_study(
            study_name=study_name(config, space),
            storage=storage,
            direction="maximize",
            pruner=make_pruner(config),
            # A file of this very folder can only be what an interrupted start left; elsewhere it is someone's search.
            load_if_exists=config.storage is None,
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise KinemicError(f"{url} already holds a search {config.name!r}; take another name") from error
    if study.get_trials(deepcopy=False):
        return study
    published = published_values(space, source_clips)
    inside = {path: value for path, value in published.items() if contains(space[path], value)}
    outside = {path: value for path, value in published.items() if path not in inside}
    study.enqueue_trial(inside, user_attrs={_ROLE: PUBLISHED, _FIXED: outside})
    return study


def open_study(config: SearchConfig, folder: Path, name: str) -> optuna.Study:
    """Open the study of an earlier run. Raises KinemicError where it is gone."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = storage_url(config, folder)
    try:
        return optuna.load_study(study_name=name, storage=_open_storage(url), pruner=make_pruner(config))
    except KeyError as error:
        raise KinemicError(
            f"{url} holds no study {name!r}; the search {config.name!r} has no trials to show"
        ) from error


def make_sampler(config: SamplerConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial, seeded by its number: a resumed search proposes what an unbroken one would."""
    seed = derive_seed(config.seed, "sampler", number) % 2**32
    if config.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.startup_trials)


def make_pruner(config: SearchConfig) -> optuna.pruners.BasePruner:
    """Return the Optuna pruner; its resource is the step count of the rungs."""
    pruner, rungs = config.pruner, config.trial.adapt.rungs
    if isinstance(pruner, MedianPruner):
        return optuna.pruners.MedianPruner(n_startup_trials=pruner.startup_trials)
    if isinstance(pruner, HalvingPruner):
        return optuna.pruners.SuccessiveHalvingPruner(rungs[0], pruner.reduction_factor)
    if isinstance(pruner, HyperbandPruner):
        return optuna.pruners.HyperbandPruner(rungs[0], rungs[-1], pruner.reduction_factor)
    return optuna.pruners.NopPruner()


def fixed_values(trial: FrozenTrial | optuna.Trial) -> dict[str, Scalar]:
    """Return the values that a trial takes without their being parameters of the study."""
    return dict(trial.user_attrs.get(_FIXED, {}))


def trial_values(trial: FrozenTrial) -> dict[str, Scalar]:
    """Return the value of every searched path that a trial ran with."""
    return fixed_values(trial) | trial.params


def trial_config(config: SearchConfig, values: Mapping[str, Scalar]) -> TrialConfig:
    """Return the trial configuration of searched values."""
    return with_values(config.trial, values)


def is_published(trial: FrozenTrial) -> bool:
    """Say whether a trial is the published configuration."""
    return trial.user_attrs.get(_ROLE) == PUBLISHED


def store_report(trial: optuna.Trial, report: RungReport) -> bool:
    """Keep a rung's whole report and its accuracy in the study; returns False where it is already there."""
    key = f"{_RUNG}{report.steps}"
    if key in trial.user_attrs:
        return False
    trial.report(report.dev_accuracy, report.steps)
    trial.set_user_attr(key, json.loads(report.to_json()))
    return True


def reports(trial: FrozenTrial) -> list[RungReport]:
    """Return a trial's rung reports, by step."""
    found = [value for key, value in trial.user_attrs.items() if key.startswith(_RUNG)]
    return sorted((RungReport.from_json(json.dumps(value)) for value in found), key=lambda report: report.steps)


def mark_passed(trial: optuna.Trial, steps: int) -> None:
    """Record that the pruner let a trial go on beyond a rung; on resume it isn't asked again."""
    trial.set_user_attr(_PASSED, steps)


def passed(trial: optuna.Trial) -> int:
    """Return the last rung, in steps, that the pruner let a trial go beyond; 0 for none."""
    return int(trial.user_attrs.get(_PASSED, 0))


def best_trial(study: optuna.Study) -> FrozenTrial:
    """Return the finished trial of highest dev accuracy, the earliest of equals. Raises KinemicError without one."""
    return best_trials(study, 1)[0]


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return up to ``count`` finished trials, best first, the earlier of equals first. Raises KinemicError for none."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        raise KinemicError(f"no trial of {study.study_name} has finished yet; look at `kinemic search status`")
    return sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))[:count]


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials are in each state, states in lower case; enqueued ones are left out."""
    found: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.WAITING:
            found[trial.state.name.lower()] = found.get(trial.state.name.lower(), 0) + 1
    return found


def _open_storage(url: str) -> optuna.storages.BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, OSError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"storage {url}: cannot be opened ({first}); give a URL such as sqlite:///PATH") from error
