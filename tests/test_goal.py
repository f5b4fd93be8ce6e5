"""What a search maximises decides what is pruned, raced, best and shown first, and accuracy is still what is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from kinemic.config import TrialConfig
from kinemic.errors import ConfigError, KinemicError
from kinemic.report import RungReport, mean
from search import study as studies
from search.again import Result
from search.baselines import Contender
from search.board import description, goal_curves, leaders_so_far
from search.choice import choose
from search.confirmation import choose_winner, dev_row
from search.folder import SearchFolder
from search.goal import Objective, goal, goals
from search.live import trial_table
from search.noise_report import Design, Measured, report_of
from search.status import trial_rows
from search.view import view_tag
from search.wording import ranked
from tests.bench import RUNGS, Bench, search

OTHERS: list[Objective] = ["log_likelihood", "brier"]
# Of the analytic trial, both rank configurations the other way round than accuracy does.
EXPECTED: dict[str, Callable[[RungReport], float]] = {
    "accuracy": lambda report: report.dev_accuracy,
    "log_likelihood": lambda report: -1.0 - report.dev_accuracy,
    "brier": lambda report: -report.dev_accuracy,
}


def bench(folder: Path, objective: Objective, **more: Any) -> Bench:
    study = optuna.create_study(direction="maximize")  # in memory: a database takes seconds
    studies.keep_objective(study, objective)
    made = Bench(search(objective=objective, budget={"trials": 12}, sampler="random", **more), folder, study)
    made.run_all()
    return made


def complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


@pytest.mark.parametrize("objective", EXPECTED)
def test_the_study_holds_the_goal_and_the_best_trial_is_the_best_by_it(tmp_path: Path, objective: Objective) -> None:
    made = bench(tmp_path, objective, pruner="none")
    for trial in made.study.get_trials():
        expected = [EXPECTED[objective](report) for report in studies.reports(trial)]
        assert list(trial.intermediate_values.values()) == pytest.approx(expected)
        assert trial.value == pytest.approx(expected[-1])
    accuracies = {t.number: studies.reports(t)[-1].dev_accuracy for t in complete(made.study)}
    extreme = max if objective == "accuracy" else min
    assert studies.best_trial(made.study).number == extreme(accuracies, key=lambda number: accuracies[number])


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize(
    "more",
    [
        {"pruner": {"kind": "median", "startup_trials": 2}},
        {"pruner": {"kind": "wilcoxon", "p_threshold": 0.1}},
        {"pruner": "none", "seeds": [{"adaptation": 10 * k, "judge": [0, 1]} for k in range(3)]},  # racing
    ],
    ids=["median", "wilcoxon", "racing"],
)
def test_what_is_stopped_is_worse_by_the_goal_and_better_by_accuracy(
    tmp_path: Path, objective: Objective, more: dict[str, Any]
) -> None:
    made = bench(tmp_path, objective, **more)
    stopped = made.study.get_trials(states=(TrialState.PRUNED,))
    assert 0 < len(stopped) < 11
    for trial in stopped:
        earlier = [t for t in complete(made.study) if t.number < trial.number]
        last = max(trial.intermediate_values)
        step = last if last in earlier[0].intermediate_values else RUNGS[-1]
        best = max(t.intermediate_values[step] for t in earlier)
        assert trial.intermediate_values[last] < best


def test_a_search_keeps_its_objective_in_its_study(tmp_path: Path) -> None:
    assert studies.objective(Bench(search(objective="brier"), tmp_path).study) == "brier"


def test_a_study_of_before_there_was_a_choice_maximises_accuracy(tmp_path: Path) -> None:
    earlier = optuna.create_study(direction="maximize")
    made = Bench(search(objective="brier", budget={"trials": 4}, sampler="random", pruner="none"), tmp_path, earlier)
    made.run_all()
    assert all(trial.value == studies.reports(trial)[-1].dev_accuracy for trial in earlier.get_trials())
    assert trial_rows(earlier)[0].objective == "accuracy"


def test_a_report_of_before_there_were_probabilities_has_an_accuracy_alone() -> None:
    earlier = RungReport(0, 4, 4, (0.5, 0.7), {}, {}, (), 0, "cpu", 0.0)
    assert goal(earlier, "accuracy") == pytest.approx(0.6)
    with pytest.raises(KinemicError, match="the report at 4 steps has no dev log-likelihood: an earlier version made"):
        goals(earlier, "log_likelihood")


@pytest.mark.parametrize("objective", OTHERS)
def test_tables_rank_by_the_goal_and_show_it_beside_accuracy(tmp_path: Path, objective: Objective) -> None:
    made = bench(tmp_path, objective, pruner="none")
    rows, best = trial_rows(made.study), studies.best_trial(made.study)
    assert [row.accuracy for row in ranked(rows)] == sorted(row.accuracy for row in rows)  # type: ignore[type-var]
    name, worth = {"log_likelihood": "dev log-likelihood", "brier": "minus dev Brier score"}[objective], best.value
    console = Console(width=200)
    with console.capture() as said:
        console.print(trial_table(rows, SearchFolder(tmp_path)))
    head, *lines = said.get().splitlines()
    assert name in head
    assert f"{best.number}* complete" in " ".join(lines[best.number].split())
    assert f" {worth:.3f} " in lines[best.number]
    note = description(rows, 12, {"adapt.learning_rate": 1.0}, "mine")
    assert f"(standard error over its seeds; chosen on these clips by {name})" in note
    assert f"| trial | dev % | {name} | steps |" in note
    assert f"What {name} depends on: " in note
    assert choose(SearchFolder(tmp_path), made.study).line.endswith(f"chosen on these clips by {name}")


@pytest.mark.parametrize("objective", EXPECTED)
def test_the_curves_are_the_best_trials_accuracy_and_its_goal(tmp_path: Path, objective: Objective) -> None:
    made = bench(tmp_path, objective, pruner="none")
    curves = goal_curves(leaders_so_far(made.study), objective)
    assert curves.keys() == {"best_dev_accuracy", f"best_dev_{objective}"}
    last = studies.reports(studies.best_trial(made.study))[-1]
    assert curves["best_dev_accuracy"][-1][:2] == (12, last.dev_accuracy)
    if objective == "brier":  # the score itself, an error
        values = [value for _, value, _ in curves["best_dev_brier"]]
        assert values == sorted(values, reverse=True)
        assert values[-1] == mean(last.briers)


@pytest.mark.parametrize("objective", EXPECTED)
def test_the_list_of_trials_is_ordered_by_the_goal(objective: Objective) -> None:
    view = view_tag("mine", ["mining.top_k"], objective)[1]
    assert f'"orderByKey": "metrics.`dev_{objective}`", "orderByAsc": {str(objective == "brier").lower()}' in view
    assert '"metrics.`dev_accuracy`"' in view


def test_the_winner_of_a_confirmation_is_chosen_by_the_goal() -> None:
    def row(number: int, accuracy: float, likelihood: float) -> tuple[Contender, list[Result]]:
        report = RungReport(0, 4, 4, (accuracy,), {}, {}, (), 0, "cpu", 0.0, log_likelihoods=(likelihood,))
        return Contender(f"trial_{number}", f"trial {number}", TrialConfig()), [report, report]

    results = [row(1, 0.9, -0.8), row(2, 0.8, -0.5)]
    for objective, winner in {"accuracy": "trial_1", "log_likelihood": "trial_2"}.items():
        rows = [dev_row(*each, False, objective) for each in results]  # type: ignore[arg-type]
        assert choose_winner(rows) == winner
        assert [each.dev_mean for each in rows] == [0.9, 0.8]


def test_noise_ranks_rungs_by_the_goal() -> None:
    config = search(objective="log_likelihood", trial={"adapt": {"rungs": [4, 8]}}, pruner="none", seeds={"judge": [0]})
    design = Design(configurations=6, adaptations=2, generations=2, judges=2)

    def runs(c: int) -> tuple[tuple[RungReport, ...], ...]:
        last = RungReport(1, 8, 8, (c / 6,) * 2, {}, {}, (), 0, "cpu", 0.0, log_likelihoods=(c / 6,) * 2)
        # By accuracy the first rung ranks as the last one does, by the goal the other way round.
        return ((replace(last, rung=0, steps=4, log_likelihoods=(-c / 6,) * 2), last),) * 4

    found = [Measured(str(c), str(c), {}, runs(c)) for c in range(6)]
    noise = report_of(config, design, found, (), 80, None)
    assert noise.objective == "log_likelihood"
    assert noise.rungs[0].same_seeds.value == pytest.approx(-1.0)
    assert noise.rungs[0].mean_accuracy == pytest.approx(2.5 / 6)


def test_an_unknown_objective_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"objective.*'accuracy', 'log_likelihood' or 'brier'"):
        search(objective="f1")
