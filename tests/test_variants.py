"""Variants share a finished trial's dear values and nothing else: who gets them, how many, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from kinemic.errors import ConfigError
from search import study as studies
from search.space import dear_paths, space_hash
from search.status import trial_rows
from search.wording import described
from tests import analytic
from tests.bench import SPACE, Bench, search

CHEAP = {"synthesis.guidance", "synthesis.sampling_steps"}
BOTH: dict[str, Any] = {**SPACE, "synthesis.sampling_steps": {"type": "int", "low": 5, "high": 50, "log": True}}


def variants(trials: list[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Return the variants of each trial that has some, by its number."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if (leader := studies.leader(trial)) is not None:
            found.setdefault(leader, []).append(trial)
    return found


def dear(trial: FrozenTrial) -> dict[str, Any]:
    return {path: value for path, value in studies.trial_values(trial).items() if path not in CHEAP}


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_every_finished_trial_leads_variants_of_its_dear_values_alone(tmp_path: Path, kind: str) -> None:
    banks = {"type": "categorical", "choices": [60, analytic.FINDS_NOTHING, analytic.RUNS_OUT]}
    sampler = {"kind": kind, "variants": 3, "startup_trials": 9, "seed": 5}
    # A published value that the space does not hold is fixed in trial 0, and so in its variants.
    space = {**BOTH, "loss.bank_size": banks, "adapt.learning_rate": {**SPACE["adapt.learning_rate"], "low": 1e-3}}
    bench = Bench(search(space=space, sampler=sampler, budget={"trials": 20}, pruner="median"), tmp_path)
    trials = bench.run_all()
    found = variants(trials)
    assert len(trials) == 20
    states = {studies.state_name(trial) for trial in trials}
    assert states >= {"complete", "pruned"}
    assert states & {"fail", "infeasible"}
    assert all(studies.fixed_values(t)["adapt.learning_rate"] == 2e-5 for t in [trials[0], *found[0]])
    for trial in trials[:17]:  # the budget may end the last group early
        leads = trial.state == TrialState.COMPLETE and studies.leader(trial) is None
        assert len(found.get(trial.number, [])) == (2 if leads else 0)
    for leader, group in found.items():
        assert all(dear(variant) == dear(trials[leader]) for variant in group)
        assert not any(studies.is_published(variant) for variant in group)
        proposed = [studies.trial_values(trial)["synthesis.guidance"] for trial in (trials[leader], *group)]
        assert len(set(proposed)) == len(proposed)


def test_a_budget_is_never_exceeded_and_one_variant_is_the_trial_itself(tmp_path: Path) -> None:
    for budget, most in ((2, 5), (4, 1)):
        folder = tmp_path / str(most)
        trials = Bench(search(sampler={"variants": most}, budget={"trials": budget}), folder).run_all()
        assert len(trials) == budget
        assert [studies.leader(trial) for trial in trials] == [None] + [0 if most > 1 else None] * (budget - 1)


def test_two_trials_at_a_time_do_not_double_variants(tmp_path: Path) -> None:
    bench = Bench(search(sampler={"variants": 3}, budget={"trials": 9}, pruner="none"), tmp_path)
    bench.share = type(bench.share)(1.0, 0.0, 2)
    bench.ledger = bench.sitting()
    first, second = bench.ledger.next(), bench.ledger.next()
    assert first is not None
    assert second is not None
    bench.run(first)
    bench.run(second)
    trials = bench.run_all()
    assert [studies.leader(trial) for trial in trials] == [None, None, 0, 0, 1, 1, None, 6, 6]


def test_trials_that_happen_to_share_dear_values_share_their_variants(tmp_path: Path) -> None:
    space = {key: BOTH[key] for key in ("synthesis.guidance", "loss.dynamic_window_weighting")}
    trials = Bench(
        search(space=space, sampler={"variants": 2}, budget={"trials": 12}, pruner="none"), tmp_path
    ).run_all()
    assert len({tuple(dear(trial).items()) for trial in trials}) == 2
    assert sum(studies.leader(trial) is not None for trial in trials) == 2


def test_conditions_hold_in_variants_and_what_dear_paths_depend_on_is_dear(tmp_path: Path) -> None:
    space = {
        "synthesis.sampler": {"type": "categorical", "choices": ["ddpm", "ddim"]},
        "adapt.learning_rate": {**SPACE["adapt.learning_rate"], "when": {"synthesis.sampler": ["ddim"]}},
        "loss.dynamic_window_weighting": SPACE["loss.dynamic_window_weighting"],
        "synthesis.guidance": {**SPACE["synthesis.guidance"], "when": {"loss.dynamic_window_weighting": [True]}},
    }
    config = search(space=space, sampler={"variants": 2, "kind": "random"}, budget={"trials": 16}, pruner="none")
    bench = Bench(config, tmp_path)
    assert dear_paths(bench.space) == space.keys() - {"synthesis.guidance"}
    trials = bench.run_all()
    found = variants(trials)
    for trial in trials:
        values = studies.trial_values(trial)
        assert ("adapt.learning_rate" in values) == (values["synthesis.sampler"] == "ddim")
        assert ("synthesis.guidance" in values) == values["loss.dynamic_window_weighting"]
        if not values["loss.dynamic_window_weighting"]:  # nothing cheap is left to vary
            assert trial.number not in found
    assert {trials[n].params["synthesis.sampler"] for n in found} == {"ddpm", "ddim"}
    assert all(dear(variant) == dear(trials[n]) for n, group in found.items() for variant in group)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {**SPACE, "mining.top_k": {**SPACE["mining.top_k"], "cost": "cheap"}},
            "space.mining.top_k: cost is cheap, but what it changes must be adapted again; leave cost out",
        ),
        (
            {**SPACE, "synthesis.guidance": {**SPACE["synthesis.guidance"], "cost": "dear"}},
            "sampler.variants is 2, but all paths of the space are dear",
        ),
        ({key: BOTH[key] for key in CHEAP}, "sampler.variants is 2, but all paths of the space are cheap"),
    ],
)
def test_costs_and_variants_that_make_no_sense_are_one_line(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        search(space=space, sampler={"variants": 2})
    assert "\n" not in str(caught.value)


def test_a_cost_leaves_the_name_of_a_study_as_it_is() -> None:
    costly = {**SPACE, "synthesis.guidance": {**SPACE["synthesis.guidance"], "cost": "dear"}}
    assert space_hash(search(space=costly).space) == space_hash(search().space)


def test_a_variant_is_shown_by_its_leader_and_what_it_changes(tmp_path: Path) -> None:
    bench = Bench(search(space=BOTH, sampler={"variants": 2}, budget={"trials": 2}), tmp_path)
    _, variant = bench.run_all()
    steps, guidance = variant.params["synthesis.sampling_steps"], variant.params["synthesis.guidance"]
    first, second = trial_rows(bench.study)
    assert (first.leader, second.leader) == (None, 0)
    assert described(first, 4) == "published configuration"
    said = described(second, 4)
    assert said.startswith("variant of 0: ")
    assert set(said.removeprefix("variant of 0: ").split(", ")) == {
        f"guidance {guidance:.3g}",
        f"sampling_steps {steps}",
    }
