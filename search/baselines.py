"""What a search's best trials are compared with, at equal seeds and budget (METHOD section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from kinemic.config import TrialConfig
from kinemic.reading import with_values
from search import study as studies
from search.config import SearchConfig
from search.known_rows import PUBLISHED, TITLES, known_values
from search.space import Domain, Scalar, published_values

REAL, NONE, BEST = "real", "none", "best"  # keys of rows: real clips only, those and augmentation, the best trial
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
    """Return the rows of a search's own end: those of ``contenders.rows``, and the best trial.

    Real clips with augmentation, which the best trial is compared with, are always among them. Raises KinemicError
    without a best trial.
    """
    chosen = _candidate(config, studies.best_trial(study))
    published = Contender(PUBLISHED, "published configuration", _published(config, space, source_clips))
    rows = _distinct([*_real(config), *_sources(config, space, source_clips), published])
    wanted = {NONE, *config.contenders.rows}
    return [*(row for row in rows if row.key in wanted), Contender(BEST, f"best {chosen.title}", chosen.config)]


def candidates(study: optuna.Study, config: SearchConfig, count: int) -> list[Contender]:
    """Return the best trials of a search, best first. Raises KinemicError without one."""
    return [_candidate(config, trial) for trial in studies.best_trials(study, count)]


def trial_number(key: str) -> int | None:
    """Return the number of the trial that a candidate's key stands for, None for a baseline's key."""
    number = key.removeprefix(_TRIAL)
    return int(number) if number != key else None


def baselines(config: SearchConfig, space: Mapping[str, Domain], source_clips: int) -> list[Contender]:
    """Return every baseline of METHOD section 7, and each source as it is known."""
    published = _published(config, space, source_clips)
    single_stream: dict[str, Scalar] = {"loss.contrastive": 0.0, "loss.window_rec": 0.0, "loss.window_distill": 0.0}
    top_k, full = published.mining.top_k, min(TrialConfig().mining.top_k, source_clips)
    rows = [
        *_real(config),
        *_sources(config, space, source_clips),
        Contender("single_stream", "single-stream fine-tuning", with_values(published, single_stream)),
        Contender(PUBLISHED, f"published configuration, top_k {top_k}", published),
        Contender(
            "published_top_k",
            f"the same, top_k as published ({full})",
            with_values(published, {"mining.top_k": full}),
        ),
    ]
    return _distinct(rows)


def _real(config: SearchConfig) -> list[Contender]:
    """Return the row of real clips as they are; augmentation is the same for all others."""
    return [Contender(REAL, "real only", _last_rung(config, {"synthesis.source": NONE, "judge.augment": False}))]


def _sources(config: SearchConfig, space: Mapping[str, Domain], source_clips: int) -> list[Contender]:
    """Return a row for every source, at the values that are known of it."""
    rows = []
    for source, title in TITLES.items():
        title = title if source != NONE or config.trial.judge.augment else "real only"
        values = known_values(space, source, source_clips) if source != NONE else {"synthesis.source": NONE}
        rows.append(Contender(source, title, _last_rung(config, values)))
    return rows


def _distinct(rows: Sequence[Contender]) -> list[Contender]:
    """Leave out rows that would repeat an earlier one; what others are compared with stays: ``none``, published."""
    first: dict[TrialConfig, Contender] = {}
    for row in rows:
        if row.config not in first or row.key in (NONE, PUBLISHED):
            first[row.config] = row
    return list(first.values())


def _published(config: SearchConfig, space: Mapping[str, Domain], source_clips: int) -> TrialConfig:
    return _last_rung(config, {"synthesis.source": "generated"} | published_values(space, source_clips))


def _candidate(config: SearchConfig, trial: FrozenTrial) -> Contender:
    note = f", {TITLES.get(role, 'the published one')}" if (role := studies.role(trial)) else ""
    values = studies.trial_values(trial)
    return Contender(f"{_TRIAL}{trial.number}", f"trial {trial.number}{note}", _last_rung(config, values))


def _last_rung(config: SearchConfig, values: Mapping[str, Scalar]) -> TrialConfig:
    return with_values(config.trial, {**values, "adapt.rungs": config.trial.adapt.rungs[-1:]})
