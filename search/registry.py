"""Exported models in MLflow's model registry: a new version each time, the alias on the newest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from kinemic import __version__
from kinemic.errors import KinemicError
from search.outbox import DELIVERY_ERRORS
from search.tracking import STUDY_TAG, TRIAL_TAG, check_reachable

ALIAS: Final = "champion"
LOADER: Final = "search.pyfunc"


@dataclass(frozen=True)
class Registry:
    """Where a model is registered: the store, the experiment that holds the trial's run, and the model's name."""

    uri: str
    experiment: str
    name: str


def register(bundle: Path, registry: Registry, study: str, facts: Mapping[str, Any], guidance: float) -> str:
    """Log an exported folder as a pyfunc of its trial's run and register it; returns the new version.

    ``facts`` are the model's metadata, and must hold its ``trial``; ``guidance`` is what it generates with by default.
    Raises KinemicError, one line, for a store that is away, refuses, or holds no run of the trial.
    """
    check_reachable(registry.uri)
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    try:
        run = _trial_run(client, registry, study, int(facts["trial"]))
        return _register(client, bundle, registry.name, run, facts, guidance)
    except DELIVERY_ERRORS as error:
        first = str(error).strip().splitlines()[0]
        raise KinemicError(
            f"the model can't be registered in MLflow at {registry.uri}: {first}; --no-register exports it all the same"
        ) from error


def signature(guidance: float) -> ModelSignature:
    """Return what the model takes and gives; see ``search.pyfunc``."""
    joints_TJ3 = Array(Array(Array(DataType.float)))
    return ModelSignature(
        inputs=Schema([ColSpec("string", "action"), ColSpec("long", "count")]),
        outputs=Schema(
            [
                ColSpec("string", "action"),
                ColSpec("string", "caption"),
                ColSpec("long", "frames"),
                ColSpec(joints_TJ3, "joints"),
            ]
        ),
        params=ParamSchema([ParamSpec("seed", "long", 0), ParamSpec("guidance", "double", guidance)]),
    )


def _trial_run(client: MlflowClient, registry: Registry, study: str, number: int) -> Run:
    experiment = client.get_experiment_by_name(registry.experiment)
    where = f"tags.`{STUDY_TAG}` = '{study}' and tags.`{TRIAL_TAG}` = '{number}'"
    found = client.search_runs([experiment.experiment_id], where, max_results=1) if experiment else []
    if not found:
        raise KinemicError(
            f"MLflow at {registry.uri} has no run of trial {number} of {study}; `kinemic search resume` sends it, "
            "--no-register exports without it"
        )
    return found[0]


def _register(
    client: MlflowClient, bundle: Path, name: str, run: Run, facts: Mapping[str, Any], guidance: float
) -> str:
    # By the client and not by log_model: that sets the process's own tracking store, and prints.
    run_id = run.info.run_id
    tags = {f"kinemic.{key}": str(value) for key, value in facts.items()}
    logged = client.create_logged_model(run.info.experiment_id, "generator", run_id, tags)
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "model"
        pyfunc.save_model(
            folder,
            loader_module=LOADER,
            data_path=str(bundle),
            mlflow_model=Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id),
            signature=signature(guidance),
            metadata=dict(facts),
            pip_requirements=[f"kinemic=={__version__}"],  # inferring them would load the model in yet another process
        )
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _create(client, name)
    version = client.create_model_version(
        name, logged.artifact_location, run_id, tags, model_id=logged.model_id
    ).version
    client.set_registered_model_alias(name, ALIAS, version)
    return str(version)


def _create(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
