"""The report of a search: one file that asks nothing of the outside, and whose numbers are those of the study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kinemic.cli import run as command
from kinemic.files import write_text
from search import confirmation, contenders
from search import study as studies
from search.confirmation import Confirmation, ConfirmedRow, FurtherRows
from search.contenders import ContenderRow, ContenderTable
from search.failures import Failure
from search.folder import SearchFolder, State, settings_of
from search.report import _contender_folders, class_gains, compute_by_stage, render
from search.status import trial_rows
from search.wording import percent, ranked
from tests import analytic
from tests.bench import Bench, search

CONFIRMED = Confirmation(
    search="mine",
    judge="temporal",
    steps=16,
    repetitions=3,
    judge_seeds=2,
    winner="trial_3",
    runs={},
    rows=(
        ConfirmedRow(
            key="none", title="real + augmentation", baseline=True, dev_accuracies=(), dev_mean=0.56, dev_se=0.03,
            test_accuracy=0.56, test_interval=(0.5, 0.62),
            difference=0.08, difference_interval=(-0.01, 0.17), smallest_detectable_difference=0.12, noise=True,
        ),
        ConfirmedRow(key="trial_5", title="trial 5", baseline=False, dev_accuracies=(), dev_mean=0.7, dev_se=0.01),
        ConfirmedRow(
            key="trial_3", title="trial 3", baseline=False, dev_accuracies=(), dev_mean=0.71, dev_se=0.02,
            test_accuracy=0.64, test_interval=(0.6, 0.68),
        ),
    ),
    looks=1,
    test_clips=40,
    further=(
        FurtherRows(judge="stgcn", runs={}, rows=(
            ConfirmedRow(
                key="trial_3", title="trial 3", baseline=False, dev_accuracies=(), dev_mean=0.333, dev_se=0.02,
                test_accuracy=0.444, test_interval=(0.4, 0.5),
            ),
        )),
    ),
)  # fmt: skip
HOSTILE = "<script src='http://evil.example/x.js'></script>"


class Page(HTMLParser):
    """A page's text, and the addresses that a browser would fetch by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self._tag = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        if tag != "a":
            self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        if self._tag == "style":
            assert "url(" not in data
            assert "@import" not in data
        if self._tag not in ("script", "style"):
            self.text += f" {data}"


@dataclass(frozen=True)
class Made:
    """A search whose trials were run in this process, in a folder of all searches."""

    runs: Path
    folder: SearchFolder
    bench: Bench

    def page(self) -> Page:
        return Page(render(self.folder, self.bench.study))

    def file(self, name: str, data: Any) -> None:
        write_text(self.folder.path / name, json.dumps(data))


def make(runs: Path, trials: int, **more: Any) -> Made:
    config = search(name="mine", storage=None, budget={"trials": trials}, **more)
    folder = SearchFolder(runs / "mine")
    folder.create(config)
    bench = Bench(config, folder.path)
    folder.write_state(
        State(bench.study.study_name, analytic.SOURCE_CLIPS, analytic.inputs(runs), "mine-1", settings_of(bench.config))
    )
    return Made(runs, folder, bench)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A search of 14 trials, some pruned, one failed, with pictures of its best."""
    done = make(tmp_path_factory.mktemp("runs"), 14, pruner={"kind": "median", "startup_trials": 10}, sampler="random")
    done.bench.run_all()
    trial = done.bench.study.ask()
    studies.keep_failure(trial, Failure("diverged", HOSTILE))
    done.bench.study.tell(trial, state=studies.TrialState.FAIL)
    best = studies.best_trial(done.bench.study).number
    (done.folder.trials / f"{best:04d}" / "artifacts" / "clips.gif").write_bytes(b"GIF89a")
    return done


def test_nothing_is_fetched_and_nothing_hostile_is_run(made: Made) -> None:
    html = render(made.folder, made.bench.study)
    page = Page(html)
    assert page.fetched
    assert all(address.startswith("data:image/") for address in page.fetched)
    assert HOSTILE not in html
    assert HOSTILE in page.text


def test_the_numbers_are_those_of_the_study(made: Made) -> None:
    rows, page = trial_rows(made.bench.study), made.page()
    best = ranked(rows)[0]
    states = [row.state for row in rows]
    assert f"{percent(best.accuracy)} % dev accuracy of the best trial, number {best.number}" in page.text
    assert f"15 of 14: {states.count('complete')} complete, {states.count('pruned')} pruned, 1 fail" in page.text
    assert "diverged 1" in page.text
    assert "how many times as far as real clips they move" in page.text
    assert "dev accuracy % steps motion seconds settings" in page.text  # no column of what no trial knows
    spent = compute_by_stage(made.bench.study)
    assert sum(spent.values()) == pytest.approx(sum(row.seconds for row in rows))
    assert [f"{stage} {seconds:.1f}" in page.text for stage, seconds in spent.items()] == [True, True]


def test_every_figure_is_drawn(made: Made) -> None:
    html = render(made.folder, made.bench.study)
    for name in ("history", "rungs", "importances", "parallel", "slices"):
        assert f'id="figure-{name}"' in html
    assert html.count("plotly.js v") == 1  # once on the page, not once a figure


def test_gains_by_class_are_over_the_runs_of_the_contenders(made: Made) -> None:
    assert class_gains(made.folder, made.bench.study) == []
    accuracies = {"none": {"wave": (0.2, 0.4, 0.6, 0.3, 0.5), "kick": (0.5,)}, "best": {"wave": (0.5,), "kick": (0.9,)}}
    for key, folders in _contender_folders(made.folder, made.bench.study).items():
        for k, folder in enumerate(folders):
            rows = [
                {"class": name, "dev_accuracy": values[k % len(values)]}
                for name, values in accuracies.get(key, {}).items()
            ]
            write_text(folder / "artifacts" / "per_class.json", json.dumps(rows))
    stale = made.folder.contenders / "best-0-00000000" / "artifacts" / "per_class.json"  # an earlier best trial's
    write_text(stale, json.dumps([{"class": "wave", "dev_accuracy": 0.0}]))
    found = class_gains(made.folder, made.bench.study)
    assert [(row["name"], row["gain"]) for row in found] == [("kick", pytest.approx(0.4)), ("wave", pytest.approx(0.1))]
    assert "kick 50.0 90.0 +40.0" in made.page().text


def test_contenders_and_a_confirmation_are_shown_where_they_are(made: Made) -> None:
    text = made.page().text
    assert "Contenders" not in text
    assert "Confirmation" not in text
    table = ContenderTable(
        (ContenderRow("real", "real only", (0.25, 0.75)), ContenderRow("b", "B", (), ("bug: x",))), 2, 1, 16
    )
    contenders.store(table, made.folder.contenders_file)
    confirmation.store(CONFIRMED, made.folder.confirmation_file)
    text = made.page().text
    assert "real only 50.0 25.0" in text
    assert "B (1 failed) failed bug: x" in text
    assert "Accuracy on 40 test clips" in text
    assert "Looks at the test split: 1." in text
    # The winner comes first, then other trials, which were not tested.
    assert (
        "detectable trial 3, the winner 71.0 2.0 64.0 60.0 to 68.0 trial 5 70.0 1.0 real + augmentation 56.0 3.0 56.0"
        in text
    )
    assert "56.0 50.0 to 62.0 8.0, noise -1.0 to 17.0 12.0" in text
    assert "The winner was chosen under the judge temporal." in text
    assert "12.0 under the judge stgcn trial 3, the winner 33.3 2.0 44.4 40.0 to 50.0" in text


def test_a_confirmation_whose_test_split_is_closed_says_so(made: Made) -> None:
    confirmation.store(CONFIRMED.model_copy(update={"test_clips": None, "looks": 0}), made.folder.confirmation_file)
    assert "The test split has not been opened yet. Looks at the test split: 0." in made.page().text


def test_a_search_that_goes_on_is_reported_with_what_it_has(tmp_path: Path) -> None:
    made = make(tmp_path, 3)
    first = made.bench.ledger.next()
    assert first is not None
    made.bench.run(first)
    made.bench.ledger.next()
    html = render(made.folder, made.bench.study)
    assert "2 of 3: 1 complete, 1 running (the search goes on)" in Page(html).text
    assert 'id="figure-slices"' in html
    assert 'id="figure-importances"' not in html


def test_a_search_without_a_finished_trial_is_one_line_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path, 3)
    made.bench.ledger.next()
    assert command(["search", "report", "mine", "--runs", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert "no trial of mine-" in line
    assert len(line.splitlines()) == 1
    assert not made.folder.report_file.exists()
