"""A table is recorded once, also in pieces; searches replayed in it are told what it holds and pay what it says."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmarks import replay as replays
from benchmarks.replay import Method, Reached, Recorded, TableSampler, at, quartiles, replay, seconds_to
from benchmarks.table import SHARED, Run, Rung, Table, plan, record
from kinemic.errors import ConfigError
from search import study as studies
from search.config import SamplerConfig, validate
from search.space import dear_paths, published_values, resolve_space
from tests import analytic
from tests.bench import RUNGS, SPACE, search
from tests.toy import TOY

CHEAP = {"synthesis.guidance", "synthesis.sampling_steps"}
BOTH: dict[str, Any] = {**SPACE, "synthesis.sampling_steps": {"type": "int", "low": 5, "high": 50, "log": True}}
SECONDS = {"mine": 1.0, "adapt": 5.0, "load": 1.0, "synthesise": 1.0, "classify": 2.0}


def made_up(groups: int, variants: int) -> Table:
    """Return a table without noise: every rung ranks the configurations as the last one does."""
    config = search(space=BOTH)
    space = resolve_space(config.space, analytic.SOURCE_CLIPS, "temporal")
    published = published_values(space, analytic.SOURCE_CLIPS)
    planned = plan(space, published, groups, variants, 0)
    found = config.model_copy(update={"space": space})

    def run(number: int, seed: int) -> Run:
        trial = studies.trial_config(found, planned[number].values)
        rungs = [(steps, (analytic.accuracy(trial, steps, 0),) * 2) for steps in RUNGS]
        return Run(
            configuration=number,
            seed=seed,
            rungs=tuple(Rung(steps=steps, accuracies=found, seconds=SECONDS) for steps, found in rungs),
        )

    runs = tuple(run(number, seed) for number in range(len(planned)) for seed in range(2))
    return Table(search=found.model_dump(mode="json"), configurations=planned, runs=runs)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded(made_up(10, 3))


def test_a_table_is_drawn_in_groups_of_one_generator_and_starts_with_the_published_configuration() -> None:
    table = made_up(4, 3)
    space = validate(table.search, "table").space
    dear = dear_paths(space)
    kept = [{(path, value) for path, value in c.values.items() if path in dear} for c in table.configurations]
    assert table.configurations[0].values == published_values(space, analytic.SOURCE_CLIPS)
    assert [c.group for c in table.configurations] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for n, c in enumerate(table.configurations):
        assert kept[n] == kept[3 * c.group]
    assert len({tuple(sorted(k)) for k in kept}) == 4
    assert len({tuple(c.values[path] for path in sorted(CHEAP)) for c in table.configurations}) == 12


def test_an_interrupted_recording_goes_on_and_shares_what_is_adapted(tmp_path: Path) -> None:
    space = {path: BOTH[path] for path in ("adapt.learning_rate", "synthesis.guidance")}
    trial = TOY["trial"] | {"adapt": TOY["trial"]["adapt"] | {"rungs": [2]}}
    config = validate(TOY | {"name": "toy", "space": space, "trial": trial, "seeds": {"judge": [0]}}, "toy")
    file, cache = tmp_path / "table.json", tmp_path / "cache"
    recording = record(config, file, cache, groups=2, variants=2, seeds=1, workers=1)
    first = next(recording)
    recording.close()  # as by Ctrl-C
    assert Table.model_validate_json(file.read_bytes()) == first
    assert [(run.configuration, run.seed) for run in first.runs] == [(0, 0), (1, 0)]
    (*_, whole) = record(config, file, cache, groups=2, variants=2, seeds=1, workers=1)
    assert whole.runs[:2] == first.runs  # to the digit of their seconds
    assert [(run.configuration, run.seed) for run in whole.runs] == [(n, 0) for n in range(4)]
    for run in whole.runs:
        assert [rung.steps for rung in run.rungs] == [2]
        assert all(len(rung.accuracies) == 1 for rung in run.rungs)
    for leader, variant in (whole.runs[:2], whole.runs[2:]):
        for stage in SHARED:  # the variant found these, and costs what they had cost
            assert [r.seconds.get(stage) for r in leader.rungs] == [r.seconds.get(stage) for r in variant.rungs]
        assert leader.rungs[0].seconds["classify"] != variant.rungs[0].seconds["classify"]
    with pytest.raises(ConfigError, match="holds a table of other configurations; give another --file"):
        next(record(config, file, cache, groups=2, variants=3, seeds=1, workers=1))


def test_every_proposal_becomes_the_nearest_configuration_that_was_not_run(recorded: Recorded) -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(len(recorded.configurations)):
        proposes = studies.make_sampler(SamplerConfig(seed=number), number)
        study.sampler = TableSampler(proposes, recorded)
        trial = study.ask(recorded.distributions)
        study.tell(trial, 0.5)
    run = [recorded.number(trial.params) for trial in study.trials]
    assert sorted(run) == sorted(recorded.configurations)  # all of them, each once
    near = dict(recorded.configurations[7].values) | {"synthesis.guidance": 3.0}
    near["synthesis.guidance"] = recorded.configurations[7].values["synthesis.guidance"] + 0.01  # type: ignore[operator]
    empty = optuna.create_study()
    empty.enqueue_trial({path: near[path] for path in near if path not in CHEAP})
    empty.sampler = TableSampler(studies.make_sampler(SamplerConfig(), 0), recorded)
    fixed = recorded.number(empty.ask(recorded.distributions).params)
    assert recorded.configurations[fixed].group == recorded.configurations[7].group
    assert TableSampler(study.sampler, recorded)._nearest(near, {}, set()).values == recorded.configurations[7].values


def test_halving_reaches_the_best_sooner_than_random_search_where_early_rungs_rank_perfectly(
    recorded: Recorded,
) -> None:
    def seconds(pruner: str) -> list[float]:
        best, full = recorded.best(seen=0), 24 * recorded.trial_seconds
        return [seconds_to(reached, best) for reached in replay(recorded, Method("random", pruner), 4, full)]

    random, halving = seconds("none"), seconds("successive_halving")
    # Random proposals do not depend on what is stopped, and what is best is best at every rung.
    assert all(sooner <= later < math.inf for sooner, later in zip(halving, random, strict=True))
    assert sum(halving) < 0.95 * sum(random)


def test_variants_pay_no_adaptation_twice(recorded: Recorded) -> None:
    full, shared = recorded.trial_seconds, len(RUNGS) * sum(SECONDS[stage] for stage in SHARED)
    (alone,), (sharing,) = (replay(recorded, Method("random", variants=k), 1, 6.5 * full) for k in (1, 3))
    assert [r.seconds for r in alone] == pytest.approx([n * full for n in range(1, 8)])
    steps = [b.seconds - a.seconds for a, b in pairwise(sharing)]
    assert steps[:5] == pytest.approx([full - shared, full - shared, full, full - shared, full - shared])


def test_what_was_reached_is_scored_under_the_seeds_that_were_not_seen() -> None:
    table = made_up(3, 1)
    lucky = Run(
        configuration=2, seed=0, rungs=tuple(r.model_copy(update={"accuracies": (1.0,)}) for r in table.runs[4].rungs)
    )
    recorded = Recorded(table.model_copy(update={"runs": (*table.runs[:4], lucky, table.runs[5])}))
    (reached,) = replay(recorded, Method("random"), 1, math.inf)
    assert reached[-1].accuracy == table.runs[5].accuracy < 1.0
    worst = min(run.accuracy for run in table.runs)
    assert worst <= reached[0].accuracy == table.runs[1].accuracy


def test_a_configuration_that_fails_costs_its_rungs_and_is_worth_nothing() -> None:
    table = made_up(2, 1)
    failed = [run.model_copy(update={"rungs": run.rungs[:1], "failure": "diverged"}) for run in table.runs[2:]]
    recorded = Recorded(table.model_copy(update={"runs": (*table.runs[:2], *failed)}))
    assert recorded.score(1, seen=0) == 0.0
    (reached,) = replay(recorded, Method("random"), 1, math.inf)
    assert len(reached) == 1


def test_reached_is_read_at_budgets_and_goals() -> None:
    reached = [Reached(2.0, 0.5), Reached(5.0, 0.7), Reached(9.0, 0.6)]
    assert [at(reached, s) for s in (2.0, 4.9, 5.0, 20.0)] == [0.5, 0.5, 0.7, 0.6]
    assert math.isnan(at(reached, 1.0))
    assert (seconds_to(reached, 0.6), seconds_to(reached, 0.8)) == (5.0, math.inf)
    assert quartiles([1.0, 2.0, 3.0, 4.0, math.inf]) == (3.0, 2.0, 4.0)


def test_every_way_of_searching_is_printed_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.json"
    file.write_text(made_up(4, 3).model_dump_json())
    replays.main(["--file", str(file), "--searches", "2"])
    lines = capsys.readouterr().out.splitlines()
    names = [method.name for method in replays.methods()]
    assert {"random", "tpe", "tpe, median", "tpe, wilcoxon", "tpe, 3 variants", "random, 3 variants"} <= set(names)
    assert [line[:28].strip() for line in lines[-len(names) :]] == names
