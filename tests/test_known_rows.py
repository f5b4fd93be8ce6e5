"""A search over sources: what it tries first, and that pruners know which trials can be compared at a rung."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.status import trial_rows
from search.wording import described
from tests.bench import RUNGS, SPACE, Bench, search

SOURCES = {"type": "categorical", "choices": ["none", "generated", "edited", "mined_clips", "prior"]}
ADAPTED = {"when": {"synthesis.source": ["generated", "edited"]}}
OVER_SOURCES = {"synthesis.source": SOURCES} | {path: {**domain, **ADAPTED} for path, domain in SPACE.items()}  # type: ignore[dict-item]


def bench(folder: Path, trials: int, **more: Any) -> Bench:
    return Bench(search(space=OVER_SOURCES, budget={"trials": trials}, sampler="random", **more), folder)


def test_known_rows_are_tried_first_as_far_as_the_budget_goes(tmp_path: Path) -> None:
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
    assert len(few.run_all()) == 2
    assert [row.role for row in trial_rows(few.study)] == ["published", "none"]


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
