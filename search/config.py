"""One YAML file is one search; everything in it is checked here, before anything starts. No ray, optuna or mlflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from kinemic.config import ExperimentConfig, Frozen, HeldOutSplit, JudgeProfile
from kinemic.errors import ConfigError
from kinemic.reading import load_yaml, override, parse
from kinemic.store import DEFAULT_LIMIT_GB
from search.goal import Objective
from search.space import Space, dear_paths, default_space
from search.space_check import check_space
from search.urls import refuse_secrets

# Beside the folders of searches lie the cache and the default tracking store; some file systems ignore case.
RESERVED_NAMES = ("cache", "mlflow-artifacts", "mlflow.db", "mlflow.db-journal", "mlflow.db-shm", "mlflow.db-wal")


BaselineRow = Literal[
    "real", "none", "mined_clips", "mined_windows", "prior", "generated", "edited", "mixed", "published"
]


class ContendersConfig(Frozen):
    """The runs after the search: baselines, the published configuration and the best trial, again on fresh seeds."""

    seeds: int = Field(default=5, ge=2)  # repetitions of each; fewer than two give no standard error
    rows: tuple[BaselineRow, ...] = get_args(BaselineRow)  # besides the best trial and real + augmentation


class BudgetConfig(Frozen):
    """When to stop asking for new trials."""

    trials: int = Field(default=24, ge=1)  # in all, the published configuration among them
    hours: float | None = Field(default=None, gt=0)  # over all sittings; trials that run then are finished


class SamplerConfig(Frozen):
    """How values are proposed; same seed and one trial at a time give the same search."""

    kind: Literal["tpe", "random"] = "tpe"
    seed: int = 0
    startup_trials: int = Field(default=10, ge=0)  # known rows and random trials before TPE models anything
    variants: int = Field(default=1, ge=1)  # trials of one adapted generator: a finished one, and others of cheap paths


class NoPruner(Frozen):
    """Every trial runs to its last rung."""

    kind: Literal["none"] = "none"


class MedianPruner(Frozen):
    """Stop a trial that is below the median of the earlier ones at the same rung."""

    kind: Literal["median"] = "median"
    startup_trials: int = Field(default=4, ge=0)  # finished trials before anything is stopped


class HalvingPruner(Frozen):
    """Let the best 1/reduction_factor of the trials go beyond each rung."""

    kind: Literal["successive_halving"] = "successive_halving"
    reduction_factor: int = Field(default=2, ge=2)


class HyperbandPruner(Frozen):
    """Successive halving from several first rungs at once."""

    kind: Literal["hyperband"] = "hyperband"
    reduction_factor: int = Field(default=2, ge=2)


class WilcoxonPruner(Frozen):
    """Stop a trial that is below the best finished one by Wilcoxon's signed-rank test, paired by rung and judge seed.

    Pairs of one trial depend on each other, and the test is repeated at each rung: p measures how consistently a trial
    is worse, it is no error rate. With n pairs it can't be below 2^-n: at 0.1 four pairs are the fewest that can stop.
    """

    kind: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = Field(default=0.1, gt=0, lt=1)


PrunerConfig = Annotated[
    NoPruner | MedianPruner | HalvingPruner | HyperbandPruner | WilcoxonPruner, Field(discriminator="kind")
]


class RacingConfig(Frozen):
    """Stop a trial between repetitions where it is worse than the best finished one by more than luck.

    Of use with two and more repetitions (``seeds``), and on by default: it stops next to none of the trials that would
    have been the best (``search.racing`` has the numbers), and spares hopeless ones most of their repetitions.
    """

    p_threshold: float = Field(default=0.02, gt=0, lt=0.5)  # of one look at a trial as good as its rival


class ResourcesConfig(Frozen):
    """What one trial takes; None is decided from the machine: one CPU core, and a quarter of a GPU if there is one."""

    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)  # at most 1: a trial uses one
    max_concurrent: int | None = Field(default=None, ge=1)
    address: str | None = None  # of a running Ray cluster; None starts Ray on this machine alone


class TrackingConfig(Frozen):
    """Where MLflow keeps the runs; None is ``mlflow.db`` and ``mlflow-artifacts/`` in the folder of all searches."""

    uri: str | None = None
    experiment: str = "kinemic"


class StagesConfig(Frozen):
    """What trials keep for each other, and for one that goes on: captions, pools, adapted generators, clips, judges."""

    limit_gb: float = Field(default=DEFAULT_LIMIT_GB, ge=0)  # below one --runs; what was used longest ago goes


class ConfirmConfig(HeldOutSplit):
    """The test split, and what is run again before it is opened; a trial never gets it, not even its path."""

    best: int = Field(default=3, ge=1)  # trials, the best on dev by the objective, of which one is the winner
    seeds: int = Field(default=3, ge=2)  # repetitions of each row: adaptation and generation seeds
    judge_seeds: int = Field(default=2, ge=1)  # in each repetition
    classifiers: tuple[JudgeProfile, ...] = ()  # that score winner and baselines beside the search's own judge


class SearchConfig(ExperimentConfig):
    """One search: an experiment (data, text, prior, trial defaults, seeds) with a space, a budget and where it runs."""

    name: str
    space: Space
    objective: Objective = "accuracy"  # what is maximised, on dev; a Brier score is minimised
    budget: BudgetConfig = BudgetConfig()
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = MedianPruner()
    racing: RacingConfig | None = RacingConfig()  # false in a file: every trial that passes its rungs gets all
    contenders: ContendersConfig = ContendersConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: str | None = None  # URL of the Optuna study; None is a SQLite file in the search's folder
    tracking: TrackingConfig = TrackingConfig()
    stages: StagesConfig = StagesConfig()
    patience: float = Field(default=300.0, ge=0)  # seconds to wait for a disk or a server that refuses
    confirm: ConfirmConfig | None = None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ValueError("a search's name becomes a folder: letters, digits, dot, dash and underscore, at most 64")
        if name.casefold() in RESERVED_NAMES:
            raise ValueError(f"{name!r} is taken: --runs keeps {', '.join(RESERVED_NAMES)} itself; take another name")
        return name

    @field_validator("pruner", "sampler", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("racing", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _pruner_can_act(self) -> SearchConfig:
        if isinstance(self.pruner, WilcoxonPruner):
            rungs, seeds, p = len(self.trial.adapt.rungs) - 1, self.judge_seeds, self.pruner.p_threshold
            if rungs * seeds < 2 or 0.5 ** (rungs * seeds) >= p:
                raise ValueError(
                    f"pruner wilcoxon could never stop a trial: {rungs} rungs before the last and {seeds} judge seeds "
                    f"make {rungs * seeds} pairs, whose p is at least {0.5 ** (rungs * seeds):g}, and p_threshold is "
                    f"{p:g}; give more rungs (trial.adapt.rungs), more seeds (seeds.judge) or a higher p_threshold"
                )
        return self

    @model_validator(mode="after")
    def _further_classifiers(self) -> SearchConfig:
        judges = [self.trial.judge.profile, *(self.confirm.classifiers if self.confirm else ())]
        if len(set(judges)) < len(judges):
            raise ValueError(
                f"confirm.classifiers: {', '.join(judges[1:])}, and the search's own judge is {judges[0]}; "
                "name each further profile once"
            )
        return self

    @property
    def steps(self) -> int:
        """Adaptation steps of a full trial."""
        return self.trial.adapt.rungs[-1]


def load(path: Path, settings: Sequence[str] = ()) -> SearchConfig:
    """Read a search's YAML file with ``path=value`` settings applied, and check it and its space.

    Raises ConfigError, one line that names the file, the key, what came and what to do.
    """
    return build(load_yaml(path), str(path), settings)


def build(data: dict[str, Any], where: str, settings: Sequence[str] = ()) -> SearchConfig:
    """Build a configuration from the values of a search's YAML file, as ``load`` does. Raises ConfigError."""
    refuse_secrets({}, where, settings)
    return validate(_set_all(data, settings), where)


def validate(data: dict[str, Any], where: str) -> SearchConfig:
    """Build a configuration from plain values and check its space against its trial. Raises ConfigError."""
    refuse_secrets(data, where)
    config = parse(SearchConfig, data, where)
    if not config.space:
        raise ConfigError(f"{where}: space is empty; leave it out for the default space")
    check_space(config.space, config.trial, where)
    _check_variants(config, where)
    return config


def _check_variants(config: SearchConfig, where: str) -> None:
    dear, variants = dear_paths(config.space), config.sampler.variants
    if variants > 1 and len(dear) in (0, len(config.space)):
        raise ConfigError(
            f"{where}: sampler.variants is {variants}, but all paths of the space are {'dear' if dear else 'cheap'}; "
            "variants take dear values and vary cheap ones, so give a path of the other kind or leave variants out"
        )


def _set_all(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply settings; those of the space name a dotted path inside a dotted path: ``space.mining.top_k.high=9``."""
    plain = [setting for setting in settings if not setting.startswith("space.")]
    data = override(data, plain)
    if data.get("space") in (None, "default"):
        data["space"] = default_space()
    for setting in settings:
        if not setting.startswith("space."):
            continue
        key, equals, value = setting.removeprefix("space.").partition("=")
        path, _, field = key.rpartition(".")
        space = data["space"]
        if not equals or not isinstance(space, dict) or path not in space or not isinstance(space[path], dict):
            known = ", ".join(space) if isinstance(space, dict) else space
            raise ConfigError(f"--set {setting}: expected space.PATH.FIELD=value with a PATH of this space: {known}")
        domain = override(space[path], [f"{field}={value}"])
        data = {**data, "space": {**space, path: domain}}
    return data
