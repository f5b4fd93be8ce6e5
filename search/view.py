"""The list of a search's trials on the MLflow page, best first and with the columns that matter: a view that is saved.

MLflow keeps a shared view as a tag of the experiment, and a link that names it opens it. Where a later MLflow knows it
no longer, the link opens the plain list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

from search.goal import Objective
from search.tags import FAILURE_TAG, ROLE_TAG, STATE_TAG, runs_where

_TAG = "mlflow.sharedViewState."
_METRICS = ("dev_accuracy", "dev_accuracy_se", "steps", "seconds")


def runs_link(experiment_id: str) -> str:
    """Return the address of an experiment's runs, relative to the server's root."""
    # The workflow is named, because MLflow's page otherwise opens on its other half.
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def trials_link(experiment_id: str, identity: str) -> str:
    """Return the address of the list, relative to the server's root."""
    return f"{runs_link(experiment_id)}&viewStateShareKey={quote(identity)}"


def view_tag(identity: str, parameters: Iterable[str], objective: Objective) -> tuple[str, str]:
    """Return the experiment's tag, key and value, that holds the view of a search's trials, the best first."""
    metric = f"dev_{objective}"
    columns = [f"metrics.`{key}`" for key in dict.fromkeys((metric, *_METRICS))] + [
        f"params.`{path}`" for path in parameters
    ]
    view = {
        "searchFilter": runs_where(identity, ROLE_TAG, "trial"),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": objective == "brier",  # an error
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*columns, f"tags.`{STATE_TAG}`", f"tags.`{FAILURE_TAG}`"],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
    }
    return f"{_TAG}{identity}", json.dumps(view)
