"""What a search's best trials are compared with, at equal seeds and budget (METHOD section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from kinemic.config import TrialConfig
from kinemic.reading import with_values
from search import study as studies
from search.config import SearchConfig
from search.space import Domain, Scalar, published_values

REAL = "real"  # the key of the row of real clips only
_TRIAL = "trial_"  # what a candidate's key begins with, before its number


@dataclass(frozen=True)
class Contender:
    """One row to be: its key, its title and the trial configuration that is run; only the last rung is scored."""

    key: str
    title: str
    config: TrialConfig


def contenders(
    study: optuna.Study, config: SearchConfig, space: Mapping[str, Domain], source_clips: int
) -> list[Contender]:
    """Return the few rows of a search's own end: real clips, the published configuration, the best trial.

    Real-only rows generate nothing, so nothing is mined or adapted for them. Raises KinemicError without a best trial.
    """
    chosen = _candidate(config, studies.best_trial(study))
    published = Contender("published", "published configuration", _published(config, space, source_clips))
    return [*_real(config), published, Contender("best", f"best {chosen.title}", chosen.config)]


def candidates(study: optuna.Study, config: SearchConfig, count: int) -> list[Contender]:
    """Return the best trials of a search, best first. Raises KinemicError without one."""
    return [_candidate(config, trial) for trial in studies.best_trials(study, count)]


def trial_number(key: str) -> int | None:
    """Return the number of the trial that a candidate's key stands for, None for a baseline's key."""
    number = key.removeprefix(_TRIAL)
    return int(number) if number != key else None


def baselines(config: SearchConfig, space: Mapping[str, Domain], source_clips: int) -> list[Contender]:
    """Return every baseline of METHOD section 7; what is not said by its name is as in the published configuration."""
    published = _published(config, space, source_clips)

    def but(values: Mapping[str, Scalar]) -> TrialConfig:
        return with_values(published, values)

    single_stream: dict[str, Scalar] = {"loss.contrastive": 0.0, "loss.window_rec": 0.0, "loss.window_distill": 0.0}
    # The windows are found by what the contrastive term trains, so this row can't go without it.
    windows: dict[str, Scalar] = {
        "synthesis.source": "mined_windows",
        "loss.contrastive": published.loss.contrastive or 1.0,
    }
    top_k, full = published.mining.top_k, min(TrialConfig().mining.top_k, source_clips)
    return [
        *_real(config),
        Contender("mined_clips", "mined clips as they are", but({"synthesis.source": "mined_clips"})),
        Contender("mined_windows", "mined windows as they are", but(windows)),
        Contender("prior", "prior without fine-tuning", but({"synthesis.source": "prior"})),
        Contender("single_stream", "single-stream fine-tuning", but(single_stream)),
        Contender("published", f"published configuration, top_k {top_k}", published),
        Contender("published_top_k", f"the same, top_k as published ({full})", but({"mining.top_k": full})),
    ]


def _real(config: SearchConfig) -> list[Contender]:
    """Return the rows of real clips alone: as they are, and augmented."""
    titles = {REAL: "real only", "augmented": "real + classical augmentation"}
    return [
        Contender(
            key,
            title,
            _last_rung(config, {"synthesis.clips_per_class": 0, "judge.augment": key == "augmented"}),
        )
        for key, title in titles.items()
    ]


def _published(config: SearchConfig, space: Mapping[str, Domain], source_clips: int) -> TrialConfig:
    return _last_rung(config, published_values(space, source_clips))


def _candidate(config: SearchConfig, trial: FrozenTrial) -> Contender:
    note = ", the published one" if studies.is_published(trial) else ""
    values = studies.trial_values(trial)
    return Contender(f"{_TRIAL}{trial.number}", f"trial {trial.number}{note}", _last_rung(config, values))


def _last_rung(config: SearchConfig, values: Mapping[str, Scalar]) -> TrialConfig:
    return with_values(config.trial, {**values, "adapt.rungs": config.trial.adapt.rungs[-1:]})
