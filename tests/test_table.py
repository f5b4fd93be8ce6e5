"""A table is recorded once, also in pieces; searches replayed in it are told what it holds and pay what it says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks import goals
from benchmarks import replay as replays
from benchmarks.goals import compared, correlation, regret
from benchmarks.replay import Method, Reached, Recorded, TableSampler, at, quartiles, replay
from benchmarks.table import SHARED, Run, Rung, Table, plan, record
from kinemic.errors import ConfigError
from search import study as studies
from search.config import SamplerConfig, validate
from search.space import dear_paths, published_values, resolve_space, suggest
from tests import analytic
from tests.bench import RUNGS, SPACE, search
from tests.toy import TOY

CHEAP = {"synthesis.guidance", "synthesis.sampling_steps"}
BOTH: dict[str, Any] = {
    **SPACE,
    "synthesis.sampling_steps": {"type": "int", "low": 5, "high": 50, "log": True},
    "loss.temperature": {"type": "float", "low": 0.02, "high": 0.5, "when": {"loss.dynamic_window_weighting": [True]}},
}
SECONDS = {"mine": 1.0, "adapt": 5.0, "load": 1.0, "synthesise": 1.0, "classify": 2.0}


def made_up(groups: int, variants: int) -> Table:
    """Return a table without noise: every rung ranks the configurations as the last one does."""
    config = search(space=BOTH)
    space = resolve_space(config.space, analytic.SOURCE_CLIPS, "temporal")
    known = [published_values(space, analytic.SOURCE_CLIPS)]
    planned = plan(space, known, groups * variants, variants, 0)
    found = config.model_copy(update={"space": space})

    def run(number: int, seed: int) -> Run:
        trial = studies.trial_config(found, planned[number].values)
        rungs = [(steps, (analytic.accuracy(trial, steps, 0),) * 2) for steps in RUNGS]
        return Run(
            configuration=number,
            seed=seed,
            rungs=tuple(
                Rung(
                    steps=steps,
                    accuracies=found,
                    log_likelihoods=tuple(map(analytic.log_likelihood, found)),
                    briers=tuple(map(analytic.brier, found)),
                    log_likelihood_ensemble=-1.0,
                    brier_ensemble=0.5,
                    cooled=-1.0,
                    seconds=SECONDS,
                )
                for steps, found in rungs
            ),
        )

    runs = tuple(run(number, seed) for number in range(len(planned)) for seed in range(2))
    return Table(search=found.model_dump(mode="json"), configurations=planned, runs=runs, enqueued=1)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded(made_up(10, 3))


def test_a_table_begins_with_the_known_rows_and_goes_on_in_groups_of_one_generator() -> None:
    table = made_up(4, 3)
    space = validate(table.search, "table").space
    dear = dear_paths(space)
    kept = [frozenset((path, c.values.get(path)) for path in dear) for c in table.configurations]
    assert table.configurations[0].values == published_values(space, analytic.SOURCE_CLIPS)
    assert [c.group for c in table.configurations] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert len(set(zip(kept, (c.group for c in table.configurations), strict=True))) == len(set(kept)) == 5
    assert len({tuple(c.values[path] for path in sorted(CHEAP)) for c in table.configurations}) == 12
    assert len({"loss.temperature" in c.values for c in table.configurations}) == 2  # where its condition holds


def test_what_leaves_nothing_cheap_to_draw_is_in_a_table_once() -> None:
    space = validate(made_up(1, 1).search | {"space": SPACE}, "table").space
    only_dear = {path: domain for path, domain in space.items() if path not in CHEAP}
    planned = plan(resolve_space(only_dear, analytic.SOURCE_CLIPS, "stgcn"), [], 6, 3, 0)
    assert [c.group for c in planned] == list(range(6))


def test_an_interrupted_recording_goes_on_and_shares_what_is_adapted(tmp_path: Path) -> None:
    space = {path: BOTH[path] for path in ("adapt.learning_rate", "synthesis.guidance")}
    trial = TOY["trial"] | {"adapt": TOY["trial"]["adapt"] | {"rungs": [2]}}
    config = validate(TOY | {"name": "toy", "space": space, "trial": trial, "seeds": {"judge": [0]}}, "toy")
    file, cache = tmp_path / "table.json", tmp_path / "cache"
    recording = record(config, file, cache, count=3, variants=2, seeds=1, workers=1)
    first = next(recording)
    recording.close()  # as by Ctrl-C
    assert Table.model_validate_json(file.read_bytes()) == first
    assert [(run.configuration, run.seed) for run in first.runs] == [(0, 0)]
    (*_, whole) = record(config, file, cache, count=3, variants=2, seeds=1, workers=1)
    assert whole.runs[:1] == first.runs  # to the digit of their seconds
    assert [(run.configuration, run.seed) for run in whole.runs] == [(n, 0) for n in range(3)]
    for run in whole.runs:
        assert [rung.steps for rung in run.rungs] == [2]
        assert all(len(rung.accuracies) == len(rung.briers) == 1 for rung in run.rungs)
        assert all(rung.cooled != rung.log_likelihoods[0] for rung in run.rungs)
    for leader, variant in (whole.runs[1:],):
        for stage in SHARED:  # the variant found these, and costs what they had cost
            assert [r.seconds.get(stage) for r in leader.rungs] == [r.seconds.get(stage) for r in variant.rungs]
        assert leader.rungs[0].seconds["classify"] != variant.rungs[0].seconds["classify"]
    with pytest.raises(ConfigError, match="holds a table of other configurations; give another --file"):
        next(record(config, file, cache, count=4, variants=2, seeds=1, workers=1))


def test_every_proposal_becomes_the_nearest_configuration_that_was_not_run(recorded: Recorded) -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(len(recorded.configurations)):
        proposes = studies.make_sampler(SamplerConfig(seed=number), number)
        study.sampler = TableSampler(proposes, recorded)
        trial = study.ask()
        suggest(trial, recorded.space, {})
        study.tell(trial, 0.5)
    run = [recorded.number(trial.params) for trial in study.trials]
    assert sorted(run) == sorted(recorded.configurations)  # all of them, each once
    near = dict(recorded.configurations[7].values) | {"synthesis.guidance": 3.0}
    near["synthesis.guidance"] = recorded.configurations[7].values["synthesis.guidance"] + 0.01  # type: ignore[operator]
    empty = optuna.create_study()
    empty.enqueue_trial({path: near[path] for path in near if path not in CHEAP})
    empty.sampler = TableSampler(studies.make_sampler(SamplerConfig(), 0), recorded)
    fixed = recorded.number(suggest(empty.ask(), recorded.space, {}))
    assert recorded.configurations[fixed].group == recorded.configurations[7].group
    assert TableSampler(study.sampler, recorded)._nearest(near, {}, set()).values == recorded.configurations[7].values


def test_halving_loses_nothing_and_saves_seconds_where_early_rungs_rank_perfectly(recorded: Recorded) -> None:
    random, halving = (replay(recorded, Method("random", pruner), 4, 30) for pruner in ("none", "successive_halving"))
    # Random proposals do not depend on what is stopped, and what is best is best at every rung.
    for all_of_them, some in zip(random, halving, strict=True):
        assert all_of_them[-1].regret == some[-1].regret == 0.0
        assert some[-1].seconds < 0.9 * all_of_them[-1].seconds


def test_a_search_may_go_by_another_goal_and_is_scored_by_accuracy(recorded: Recorded) -> None:
    table = made_up(10, 3)
    (by_accuracy,), (reversed_,) = (
        replay(Recorded(table, objective), Method("random"), 1, 30) for objective in ("accuracy", "brier")
    )
    assert by_accuracy[-1].regret == 0.0
    worst = min(recorded.score(n, 0) for n in recorded.configurations)  # the analytic trial's Brier score rises with it
    assert reversed_[-1].accuracy == worst
    assert reversed_[-1].regret == recorded.best(0) - worst


def test_every_search_begins_with_the_enqueued_rows() -> None:
    table = made_up(4, 3).model_copy(update={"enqueued": 3})
    recorded = Recorded(table)
    for method in replays.methods():
        (reached,) = replay(recorded, method, 1, 3)
        assert reached[-1].accuracy <= max(recorded.score(n, 0) for n in range(3)), method
    (found,) = replay(recorded, Method("tpe"), 1, 3)
    assert [r.accuracy for r in found] == [max(recorded.score(n, 0) for n in range(k + 1)) for k in range(3)]


def test_variants_pay_no_adaptation_twice(recorded: Recorded) -> None:
    full = len(RUNGS) * sum(SECONDS.values())
    shared = len(RUNGS) * sum(SECONDS[stage] for stage in SHARED)
    (alone,), (sharing,) = (replay(recorded, Method("random", variants=k), 1, 7) for k in (1, 3))
    assert [r.seconds for r in alone] == pytest.approx([n * full for n in range(1, 8)])
    spent = [b.seconds - a.seconds for a, b in pairwise(sharing)]
    assert set(np.round(spent, 6)) == {full, full - shared}


def test_what_was_reached_is_scored_under_the_seeds_that_were_not_seen() -> None:
    table = made_up(3, 1)
    lucky = Run(
        configuration=2, seed=0, rungs=tuple(r.model_copy(update={"accuracies": (1.0,)}) for r in table.runs[4].rungs)
    )
    recorded = Recorded(table.model_copy(update={"runs": (*table.runs[:4], lucky, table.runs[5])}))
    (reached,) = replay(recorded, Method("random"), 1, 3)
    assert reached[-1].accuracy == table.runs[5].accuracy < 1.0
    worst = min(run.accuracy for run in table.runs)
    assert worst <= reached[0].accuracy == table.runs[1].accuracy


def test_a_configuration_that_fails_costs_its_rungs_and_is_worth_nothing() -> None:
    table = made_up(2, 1)
    failed = [run.model_copy(update={"rungs": run.rungs[:1], "failure": "diverged"}) for run in table.runs[2:]]
    recorded = Recorded(table.model_copy(update={"runs": (*table.runs[:2], *failed)}))
    assert recorded.score(1, seen=0) == 0.0
    (reached,) = replay(recorded, Method("random"), 1, 2)
    assert len(reached) == 1


def test_what_a_search_had_reached_is_read_at_trials() -> None:
    reached = [Reached(n, 0.0, a, 0.9 - a) for n, a in ((1, 0.5), (3, 0.7), (9, 0.6))]
    assert [found and found.accuracy for found in (at(reached, n) for n in (0, 1, 2, 3, 99))] == [
        None, 0.5, 0.5, 0.7, 0.6
    ]  # fmt: skip
    assert quartiles([0.01, 0.02, 0.03]) == "2.0 [1.5, 2.5]"


def test_a_goal_that_ranks_as_unseen_seeds_do_has_no_regret_and_one_that_ranks_by_luck_has() -> None:
    rng = np.random.default_rng(0)
    worth = np.tile(rng.permutation(48) / 48, (3, 1))
    perfect, luck, backwards = 2 * worth - 5, rng.random((3, 48)), -worth
    assert (correlation(perfect, worth), regret(perfect, worth)) == (pytest.approx(1.0), 0.0)
    assert (correlation(backwards, worth), regret(backwards, worth)) == (pytest.approx(-1.0), pytest.approx(47 / 48))
    assert abs(correlation(luck, worth)) < 0.4
    assert regret(luck, worth) > 0.1
    assert regret(np.zeros((3, 48)), worth) == pytest.approx(worth.max() - worth.mean())  # all equal: any of them
    lines = compared({"accuracy": (luck, worth), "brier": (perfect, worth)}, rng)
    assert lines[2].startswith("brier")
    low, high = map(float, lines[2].rpartition("[")[2].strip(" ]").split(","))
    assert low < high < 0  # its regret is lower than that of accuracy


def test_every_way_of_searching_and_every_goal_is_printed_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table.json"
    file.write_text(made_up(4, 3).model_dump_json())
    replays.main(["--file", str(file), "--searches", "2"])
    lines = capsys.readouterr().out.splitlines()
    names = [method.name for method in replays.methods()]
    assert {"random", "tpe", "tpe, median", "tpe, wilcoxon", "tpe, 3 variants", "random, 3 variants"} <= set(names)
    assert [line[:28].strip() for line in lines[-len(names) :]] == names
    monkeypatch.setattr(goals, "DRAWS", 10)
    goals.main(["--file", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:26].strip() for line in lines[-len(goals.GOALS) :]] == list(goals.GOALS)
