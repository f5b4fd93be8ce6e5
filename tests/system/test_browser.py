"""What a user sees in a browser: the report without a network, MLflow's pages of a search, and the pictures of both."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from docs.screenshots import comparison, tracked
from search.view import runs_link
from search.wording import percent
from tests.system.conftest import Large, Searched, Served

FIGURES = ("history", "rungs", "importances", "parallel", "slices")


def trial_name(number: int) -> str:
    return f"trial {number:04d}"


def test_the_report_opens_from_a_file_and_draws_every_figure(searched: Searched, page: Page) -> None:
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = searched.found.report.resolve().as_uri()
    page.goto(address)
    for name in FIGURES:
        figure = page.locator(f"#figure-{name}")
        expect(figure.locator("svg.main-svg").first).to_be_visible()
        expect(figure.locator(".trace").first).to_be_attached()
    leaders = page.get_by_role("row").filter(has_text="guidance")
    numbers = [int(row.get_by_role("cell").first.inner_text()) for row in leaders.all()]
    ranked = searched.found.trials.sort_values("dev_accuracy", ascending=False)
    assert numbers == [number for number in ranked["number"] if number != 0]  # trial 0 is called by its role
    best = percent(searched.found.best.accuracy)
    expect(page.get_by_text(f"{best} % dev accuracy of the best trial")).to_be_visible()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [address]


def test_the_page_of_a_search_is_found_and_leads_to_its_trials(searched: Searched, server: Served, page: Page) -> None:
    (address,) = re.findall(r"^kinemic: (\S+)", server.said, re.MULTILINE)
    page.goto(address)
    ranked = [int(number) for number in searched.found.trials.sort_values("dev_accuracy", ascending=False)["number"]]
    follow(page, searched.name, ranked, ranked)


def test_a_search_of_200_trials_is_found_among_them_and_leads_to_the_best(
    large: Large, server: Served, page: Page
) -> None:
    for patient in (page, page.context):
        patient.set_default_timeout(30_000)  # Playwright's own, and no more: nobody waits for minutes
    page.goto(f"{server.uri}/{runs_link(large.experiment)}")
    assert large.everyone[0] == large.finished[0]
    follow(page, large.name, large.finished, large.everyone)


def follow(page: Page, name: str, finished: list[int], everyone: list[int]) -> None:
    """Go from the runs of an experiment to a search's own and on to its trials, and check that the best are first."""
    page.get_by_role("link", name=name).first.click()
    page.get_by_text("Show more").first.click()
    leaders = page.get_by_role("table").filter(has_text="settings").get_by_role("row")
    expect(leaders).to_have_count(11)  # the ten best, below the table's head
    assert [int(row.get_by_role("cell").first.inner_text()) for row in leaders.all()[1:]] == finished[:10]
    with page.expect_popup() as new_tab:
        page.get_by_role("link", name="All trials, the best first").click()
    names = new_tab.value.get_by_role("link", name=re.compile(r"^trial \d{4}$"))  # of the rows in sight
    names.nth(5).wait_for()
    found = names.all_inner_texts()
    assert found == [trial_name(number) for number in everyone][: len(found)]


def test_trials_are_compared_side_by_side(searched: Searched, server: Served, page: Page) -> None:
    _, trials = tracked(server.uri, searched.identity)
    page.goto(comparison(server.uri, trials[:3]))
    plot = page.locator(".js-plotly-plot")
    expect(plot.locator("svg.main-svg").first).to_be_visible()
    for axis in ("adapt.learning_rate", "synthesis.guidance", "dev_accuracy"):
        expect(plot.get_by_text(axis).first).to_be_attached()
    for run in trials[:3]:
        expect(page.get_by_text(run.info.run_name, exact=True).first).to_be_visible()
    expect(page.get_by_text(trials[3].info.run_name)).to_have_count(0)


def test_the_pictures_of_the_readme_are_written(searched: Searched, tmp_path: Path) -> None:
    where = ["--runs", str(searched.runs), "--out", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "docs.screenshots", searched.name, *where], check=True)
    pages = {"compare.png", "list.png", "parent.png", "report.png"}
    assert {path.name for path in tmp_path.iterdir()} == pages | {"corpus.png"}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.size == (1280, 760) or path.name not in pages
            assert len(image.getcolors(1 << 24)) > 16, f"{path.name} shows next to nothing"
