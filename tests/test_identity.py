"""A search's runs in MLflow are its own, whatever else of its name and space is in the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from search import runner
from search.folder import SearchFolder
from search.sitting import Opened, Sitting, sit
from tests import analytic
from tests.bench import Bench, search


def started(runs: Path, uri: str) -> Opened:
    config = search(name="same", storage=None, budget={"trials": 2}, pruner="none", tracking={"uri": uri})
    return runner.start(config, runs, prepared=(analytic.inputs(runs), analytic.SOURCE_CLIPS))


def go_on(opened: Opened, runs: Path) -> str:
    """Run what is left of a search in this process, its runs tracked; returns the id of the search's own run."""

    def body(sitting: Sitting) -> str:
        bench = Bench(opened.config, opened.folder.path, opened.study)
        bench.tracker = sitting.tracker  # type: ignore[assignment]
        bench.ledger = bench.sitting()
        bench.run_all()
        return sitting.tracker.parent_id

    return sit(opened, runs, body, lambda: "", "").made


def tracked(uri: str) -> tuple[set[str], dict[str, list[Run]]]:
    """Return the ids of all searches' own runs, and of each the runs of its trials."""
    client, children = MlflowClient(tracking_uri=uri), dict[str, list[Run]]()
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    for run in found:
        if "mlflow.parentRunId" in run.data.tags:
            children.setdefault(run.data.tags["mlflow.parentRunId"], []).append(run)
    return {run.info.run_id for run in found if run.data.tags["kinemic.role"] == "search"}, children


def test_searches_of_one_name_and_space_in_one_store_have_runs_of_their_own(empty_store: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    first = go_on(started(mine, uri), mine)
    second = go_on(started(yours, uri), yours)
    resumed = runner.reopen("same", mine, check_inputs=False)
    longer = resumed.config.model_copy(update={"budget": resumed.config.budget.model_copy(update={"trials": 3})})
    assert go_on(Opened(longer, resumed.folder, resumed.study, resumed.space, resumed.state), mine) == first
    shutil.rmtree(mine / "same")
    third = go_on(started(mine, uri), mine)

    parents, children = tracked(uri)
    assert parents == {first, second, third}
    assert len(parents) == 3
    assert [len(children[parent]) for parent in (first, second, third)] == [3, 2, 2]
    for run in (run for runs in children.values() for run in runs):
        history = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "dev_accuracy")
        assert len(history) == len({metric.step for metric in history}), "a rung is logged twice"


def test_a_search_of_before_identities_is_tracked_under_its_studys_name(tmp_path: Path) -> None:
    folder = started(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}").folder
    file = folder.path / "state.json"
    data = json.loads(file.read_text())
    assert data.pop("identity").startswith(data["study"])
    file.write_text(json.dumps(data))
    assert SearchFolder(folder.path).state().identity == data["study"]
