"""The pictures of the MLflow page and of the report in the README: ``python -m docs.screenshots NAME --runs DIR``.

Needs ``pip install -e .[screenshots]`` and an installed Chromium. Serves the store of the finished search NAME, opens
the pages as a user would, and writes small PNGs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from kinemic.errors import KinemicError
from search.api import result
from search.folder import find
from search.server import check_reachable, server_command
from search.tracking import ROLE_TAG, STUDY_TAG
from search.view import trials_link

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COMPARED = 3
COLOURS = 128
# The page's own advertisement opens over the runs on a first visit.
QUIET = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def main() -> None:
    """Write ``list.png``, ``parent.png``, ``compare.png`` and ``report.png``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a finished search")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    found = result(options.name, options.runs)
    study = find(options.runs, options.name).state().study
    with served(options.runs) as uri, browser() as page:
        parent, trials = tracked(uri, study)
        experiment = parent.info.experiment_id
        page.goto(f"{uri}/{trials_link(experiment, study)}")
        page.wait_for_selector(f"text={trials[0].info.run_name}")
        snap(page, options.out / "list.png")
        page.goto(f"{uri}/#/experiments/{experiment}/runs/{parent.info.run_id}?workflowType=machine_learning")
        page.get_by_text("Show more").first.click()
        page.get_by_text("Description", exact=True).first.scroll_into_view_if_needed()
        snap(page, options.out / "parent.png")
        runs = ",".join(f'"{run.info.run_id}"' for run in trials[:COMPARED])
        page.goto(f'{uri}/#/compare-runs?runs=[{runs}]&experiments=["{experiment}"]')
        page.wait_for_selector("text=Parallel Coordinates Plot")
        snap(page, options.out / "compare.png")
        page.goto(found.report.resolve().as_uri())
        page.wait_for_selector("#figure-history .main-svg")
        snap(page, options.out / "report.png")


def tracked(uri: str, study: str) -> tuple[Run, list[Run]]:
    """Return a search's own run and its finished trials, the best first."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    mine = f"tags.`{STUDY_TAG}` = '{study}' and tags.`{ROLE_TAG}`"
    (parent,) = client.search_runs(experiments, f"{mine} = 'search'")
    finished = f"{mine} = 'trial' and attributes.status = 'FINISHED'"
    return parent, list(client.search_runs(experiments, finished, order_by=["metrics.`dev_accuracy` DESC"]))


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """Serve the default store in ``runs`` by MLflow's own server while the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = server_command(f"sqlite:///{(runs / 'mlflow.db').resolve()}", runs / "mlflow-artifacts", port)
    server = subprocess.Popen(
        ["/bin/sh", "-c", f"exec env {command}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            try:
                check_reachable(uri)
                break
            except KinemicError:
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@contextmanager
def browser() -> Iterator[Page]:
    """Yield a page of a fresh headless Chromium."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        context = chromium.new_context(viewport={"width": 1280, "height": 760})
        context.add_init_script(QUIET)
        context.set_default_timeout(300_000)
        yield context.new_page()
        chromium.close()


def snap(page: Page, path: Path) -> None:
    """Write what the page shows once it rests, in few colours."""
    page.wait_for_timeout(3000)  # for charts and pictures; the page itself is never idle
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "page.png"
        page.screenshot(path=raw)
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(raw) as image:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
