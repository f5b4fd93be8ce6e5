"""A search over sources: what it tries first, and that pruners know which trials can be compared at a rung."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search import study as studies
from search.config import BudgetConfig
from search.known_rows import first_rows
from search.space import resolve_space
from search.status import trial_rows
from search.wording import described
from tests.analytic import SOURCE_CLIPS
from tests.bench import RUNGS, SPACE, Bench, search

SOURCES = {"type": "categorical", "choices": ["none", "generated", "edited", "mined_clips", "prior"]}
GUIDANCE = {"type": "float", "low": 1.0, "high": 5.0}
ADAPTED = {"when": {"synthesis.source": ["generated", "edited"]}}
OVER_SOURCES = {"synthesis.source": SOURCES} | {path: {**domain, **ADAPTED} for path, domain in SPACE.items()}  # type: ignore[dict-item]


def bench(folder: Path, trials: int, **more: Any) -> Bench:
    settings: dict[str, Any] = {"space": OVER_SOURCES, "sampler": "random", **more}
    return Bench(search(budget={"trials": trials}, **settings), folder)


def test_known_rows_are_tried_first_those_that_a_budget_left_out_when_it_is_raised(tmp_path: Path) -> None:
    made = bench(tmp_path, 6, pruner="none")
    trials = made.run_all()
    rows = trial_rows(made.study)
    assert [row.role for row in rows] == ["published", "none", "mined_clips", "prior", "edited", ""]
    assert described(rows[1], 4) == "real + augmentation"
    assert [trial.params["synthesis.source"] for trial in trials[1:5]] == ["none", "mined_clips", "prior", "edited"]
    assert trials[1].params.keys() == {"synthesis.source"}
    steps = {"none": [RUNGS[-1]], "edited": list(RUNGS)}
    for trial in (trials[1], trials[4]):
        assert list(trial.intermediate_values) == steps[trial.params["synthesis.source"]]
    few = bench(tmp_path / "few", 2, pruner="none")
    assert [row.role for row in trial_rows(few.study)] == []
    few.run_all()
    assert [row.role for row in trial_rows(few.study)] == ["published", "none"]
    assert few.ledger.finished
    few.config = few.config.model_copy(update={"budget": BudgetConfig(trials=4)})
    few.ledger = few.sitting()
    few.run_all()
    assert [row.role for row in trial_rows(few.study)] == ["published", "none", "mined_clips", "prior"]


def test_a_start_that_was_interrupted_is_made_whole_when_it_is_repeated_with_another_objective(tmp_path: Path) -> None:
    config = search(space=OVER_SOURCES, storage=None)
    space = resolve_space(config.space, SOURCE_CLIPS, "temporal")
    url = studies.storage_url(config, tmp_path)
    killed = optuna.create_study(storage=url, study_name=studies.study_name(config, space), direction="maximize")
    for name, values in islice(first_rows(space, SOURCE_CLIPS, config.trial), 2):
        studies.enqueue(killed, space, values, name)
    again = config.model_copy(update={"objective": "brier"})
    for _ in range(2):
        study = studies.create_study(again, tmp_path, space, SOURCE_CLIPS)
        assert [studies.role(t) for t in study.trials] == ["published", "none", "mined_clips", "prior", "edited"]
        assert studies.objective(study) == "brier"


def test_a_variant_of_the_published_trial_has_its_source_though_none_is_searched(tmp_path: Path) -> None:
    space = {"adapt.learning_rate": SPACE["adapt.learning_rate"], "synthesis.guidance": GUIDANCE}
    trial = {"adapt": {"rungs": RUNGS}, "synthesis": {"source": "mined_clips"}}
    made = bench(tmp_path, 2, space=space, trial=trial, sampler={"variants": 2})
    first, variant = made.run_all()
    assert studies.leader(variant) == first.number
    assert studies.trial_values(variant)["synthesis.source"] == "generated"


@pytest.mark.parametrize("pruner", [{"kind": "median", "startup_trials": 5}, {"kind": "wilcoxon", "p_threshold": 0.3}])
def test_sources_without_rungs_neither_stop_a_trial_nor_count_before_one_is_stopped(
    tmp_path: Path, pruner: dict[str, Any]
) -> None:
    made = bench(tmp_path, 30, pruner=pruner, seeds={"judge": [0, 1]})
    trials = made.run_all()
    bare = [t for t in trials if t.params["synthesis.source"] in ("none", "mined_clips", "prior")]
    assert bare
    assert all(trial.state == TrialState.COMPLETE for trial in bare)
    stopped = [trial.number for trial in trials if trial.state == TrialState.PRUNED]
    assert stopped  # of the others
    whole = [t for t in trials[: stopped[0]] if t.state == TrialState.COMPLETE and RUNGS[0] in t.intermediate_values]
    assert len(whole) >= pruner.get("startup_trials", 1)
