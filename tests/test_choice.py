"""Which trial is shown and exported: the best on dev, after a confirmation its winner, or the one that is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from kinemic.cli import run as command
from kinemic.errors import KinemicError
from search import confirmation
from search import study as studies
from search.choice import choose
from search.confirmation import Confirmation, ConfirmedRow
from search.export import settings
from search.folder import SearchFolder, State, settings_of
from tests import analytic
from tests.bench import Bench, search


@dataclass(frozen=True)
class Searched:
    """A finished search of four trials; ``ranked`` are their numbers, best first."""

    folder: SearchFolder
    bench: Bench
    ranked: list[int]

    def confirmed(self, winner: str, title: str) -> None:
        rows = (
            ConfirmedRow(
                key=winner,
                title=title,
                baseline=not winner.startswith("trial"),
                dev_accuracies=(0.5, 0.7),
                dev_mean=0.6,
                dev_se=0.1,
                test_accuracy=0.55,
                test_interval=(0.45, 0.65),
            ),
        )
        found = Confirmation(
            search="mine",
            judge="temporal",
            steps=16,
            repetitions=2,
            judge_seeds=1,
            winner=winner,
            runs={},
            rows=rows,
            test_clips=20,
        )
        confirmation.store(found, self.folder.confirmation_file)

    def run(self, *words: str) -> int:
        return command(["search", *words, "--runs", str(self.folder.path.parent)])


@pytest.fixture
def searched(tmp_path: Path) -> Searched:
    config = search(name="mine", storage=None, budget={"trials": 4}, pruner="none")
    folder = SearchFolder(tmp_path / "mine")
    folder.create(config)
    bench = Bench(config, folder.path)
    bench.run_all()
    folder.write_state(
        State(
            bench.study.study_name,
            analytic.SOURCE_CLIPS,
            analytic.inputs(tmp_path),
            "mine-1",
            settings_of(bench.config),
        )
    )
    return Searched(folder, bench, [trial.number for trial in studies.best_trials(bench.study, 4)])


def test_before_a_confirmation_it_is_the_best_on_dev_and_afterwards_the_winner(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    best, *_, last = searched.ranked
    assert searched.run("best", "mine") == 0
    assert capsys.readouterr().out.startswith(f"trial {best}: dev accuracy ")
    searched.confirmed(f"trial_{last}", f"trial {last}")
    assert searched.run("best", "mine") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    said = "dev accuracy 0.6000 +- 0.1000 on 2 fresh seeds, test accuracy 0.5500 [0.4500, 0.6500]"
    assert first == f"trial {last}, the confirmed winner: {said}"
    values = studies.trial_values(searched.bench.study.get_trials()[last])
    assert lines == [f"--set {setting}" for setting in settings(values)]


def test_a_baseline_that_won_is_named_and_a_trial_asked_for(
    searched: Searched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched.confirmed("mined_windows", "mined windows as they are")
    for words in (["best", "mine"], ["export", "mine", str(tmp_path / "model")]):
        assert searched.run(*words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "is a baseline, mined windows as they are, and no trial" in line
        assert "kinemic search export mine DIR --trial N" in line
    assert not (tmp_path / "model").exists()


def test_a_named_trial_goes_before_the_winner_if_it_finished(searched: Searched) -> None:
    searched.confirmed("mined_windows", "mined windows as they are")
    study = searched.bench.study
    assert choose(searched.folder, study, searched.ranked[1]).trial.number == searched.ranked[1]
    with pytest.raises(KinemicError, match="trial 9 is none that finished; take one of these: 0, 1, 2, 3"):
        choose(searched.folder, study, 9)
