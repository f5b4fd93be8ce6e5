"""The pictures of the README, of corpus, MLflow page and report: ``python -m docs.screenshots NAME --runs DIR``.

Needs ``pip install -e .[system]`` and an installed Chromium. Serves the store of the finished search NAME, opens
the pages as a user would, and writes small PNGs. ``tests/system`` looks at the same pages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from kinemic.data.procedural import generate_target
from kinemic.errors import KinemicError
from kinemic.render import strip_png
from search.api import result
from search.folder import find
from search.server import check_reachable
from search.tags import ROLE_TAG, runs_where
from search.view import trials_link

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOWN = ("wave", "punch", "side_kick", "squat", "pick_up")
COMPARED = 3
COLOURS = 128
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
# The page's own advertisement opens over the runs on a first visit.
QUIET = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def main() -> None:
    """Write ``corpus.png``, ``list.png``, ``parent.png``, ``compare.png`` and ``report.png``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a finished search")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    shown = {clip.action: clip.joints_TJ3 for clip in generate_target(1, seed=0) if clip.action in SHOWN}
    strip_png(options.out / "corpus.png", list(shown.values()), list(shown), frames=9)
    found = result(options.name, options.runs)
    identity = find(options.runs, options.name).state().identity
    with served(options.runs) as uri, browser() as page:
        parent, trials = tracked(uri, identity)
        experiment = parent.info.experiment_id
        page.goto(f"{uri}/{trials_link(experiment, identity)}")
        page.wait_for_selector(f"text={trials[0].info.run_name}")
        snap(page, options.out / "list.png")
        page.goto(f"{uri}/#/experiments/{experiment}/runs/{parent.info.run_id}?workflowType=machine_learning")
        page.get_by_text("Show more").first.click()
        page.get_by_text("Description", exact=True).first.scroll_into_view_if_needed()
        snap(page, options.out / "parent.png")
        page.goto(comparison(uri, trials[:COMPARED]))
        page.wait_for_selector("text=Parallel Coordinates Plot")
        snap(page, options.out / "compare.png")
        page.goto(found.report.resolve().as_uri())
        page.wait_for_selector("#figure-history .main-svg")
        snap(page, options.out / "report.png")


def tracked(uri: str, identity: str) -> tuple[Run, list[Run]]:
    """Return a search's own run and its finished trials, the best first."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, runs_where(identity, ROLE_TAG, "search"))
    finished = f"{runs_where(identity, ROLE_TAG, 'trial')} and attributes.status = 'FINISHED'"
    return parent, list(client.search_runs(experiments, finished, order_by=["metrics.`dev_accuracy` DESC"]))


def comparison(uri: str, runs: Sequence[Run]) -> str:
    """Return the address of the page that compares these runs."""
    ids = ",".join(f'"{run.info.run_id}"' for run in runs)
    return f'{uri}/#/compare-runs?runs=[{ids}]&experiments=["{runs[0].info.experiment_id}"]'


@contextmanager
def served(runs: Path, said: int | IO[bytes] = subprocess.DEVNULL) -> Iterator[str]:
    """Serve the default store in ``runs`` by ``kinemic search ui`` while the block lasts; ``said`` gets its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "kinemic.cli", "search", "ui", "--runs", str(runs), "--port", str(port)],
        stdout=said,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            with suppress(KinemicError):
                check_reachable(uri)
                break
            time.sleep(0.5)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@contextmanager
def browser() -> Iterator[Page]:
    """Yield a page of a fresh headless Chromium that finds nothing outside this machine.

    Raises KinemicError where no Chromium is installed.
    """
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise KinemicError(f"expected a browser on PATH ({', '.join(BROWSERS)}), found none; apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", OFFLINE])
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
