"""Exported models in MLflow's model registry: a new version each time, the alias on the newest."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from kinemic.errors import KinemicError
from search.messages import first_line
from search.outbox import DELIVERY_ERRORS
from search.server import check_reachable
from search.tags import TRIAL_TAG, runs_where
from search.urls import resolve

with warnings.catch_warnings(action="ignore"):  # MLflow warns of the type hints of a class of its own
    import mlflow.pyfunc

ALIAS: Final = "champion"
LOADER: Final = "search.pyfunc"
# What loading needs beside kinemic, which is on no index: a name that anyone could take there must not be installed.
NEEDED: Final = ("numpy", "pandas", "pydantic", "pyyaml", "safetensors", "scipy", "torch")


@dataclass(frozen=True)
class Registry:
    """Where a model is registered: the store, the experiment that holds the trial's run, and the model's name."""

    uri: str
    experiment: str
    name: str


@dataclass(frozen=True)
class Facts:
    """What a registered model says of itself; accuracies are 0..1.

    ``classifier`` is its profile, ``encoder_id`` and ``guidance`` (the default) are its generator's; None: it has none.
    """

    search: str
    trial: int
    dev_accuracy: float
    dev_accuracy_se: float | None
    classes: tuple[str, ...]
    classifier: str | None
    encoder_id: str | None
    guidance: float | None

    def metadata(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return asdict(self) | {"classes": list(self.classes)}

    def tags(self) -> dict[str, str]:
        """Return what tells versions apart, as tags of a version."""
        known = {key: value for key, value in asdict(self).items() if key != "classes" and value is not None}
        return {f"kinemic.{key}": str(value) for key, value in known.items()}


def find_run(registry: Registry, identity: str, number: int) -> Run:
    """Return a trial's run, to which its model will belong. Raises KinemicError where the store is away or has none."""
    check_reachable(registry.uri)
    with _one_line_errors(registry):
        client = _client(registry)
        experiment = client.get_experiment_by_name(registry.experiment)
        where = runs_where(identity, TRIAL_TAG, str(number))
        found = client.search_runs([experiment.experiment_id], where, max_results=1) if experiment else []
    if not found:
        raise KinemicError(
            f"MLflow at {registry.uri} has no run of trial {number} of {identity}; "
            "`kinemic search resume` sends it, --no-register exports without it"
        )
    return found[0]


def register(bundle: Path, registry: Registry, run: Run, facts: Facts) -> str:
    """Log an exported folder as a pyfunc of its trial's run and register it; returns the new version.

    Raises KinemicError, one line, for a store that is away or refuses, a name that can't be one for example.
    """
    # By the client and not by log_model: that sets the process's own tracking store, and prints.
    name, run_id = registry.name, run.info.run_id
    with _one_line_errors(registry), tempfile.TemporaryDirectory() as room:
        client = _client(registry)
        _create(client, name)
        logged = client.create_logged_model(run.info.experiment_id, "model", run_id, facts.tags())
        model = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
        _save(Path(room) / "model", model, bundle, facts)
        client.log_model_artifacts(logged.model_id, str(Path(room) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        source, tags = logged.artifact_location, facts.tags()
        created = client.create_model_version(name, source, run_id, tags, model_id=logged.model_id)
        client.set_registered_model_alias(name, ALIAS, created.version)
    return str(created.version)


def _client(registry: Registry) -> MlflowClient:
    uri = resolve(registry.uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _one_line_errors(registry: Registry) -> Iterator[None]:
    try:
        yield
    except DELIVERY_ERRORS as error:
        raise KinemicError(
            f"the model can't be registered in MLflow at {registry.uri}: {first_line(error)}; "
            "--no-register exports it all the same"
        ) from error


def _save(folder: Path, model: Model, bundle: Path, facts: Facts) -> None:
    """Write what MLflow loads: the exported folder and the name of the module that reads it; no Python object."""
    with warnings.catch_warnings(action="ignore"):  # MLflow advises an input example beside the signature
        mlflow.pyfunc.save_model(
            folder,
            loader_module=LOADER,
            data_path=str(bundle),
            mlflow_model=model,
            signature=signature(facts),
            metadata=facts.metadata(),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDED],
        )


def signature(facts: Facts) -> ModelSignature:
    """Return what a model takes and gives, as ``search.pyfunc`` says: clips to label, or classes to generate."""
    # Clips to label as double, which takes float32 too; what comes as JSON is double.
    given_TJ3, made_TJ3 = (Array(Array(Array(kind))) for kind in (DataType.double, DataType.float))
    given: list[ColSpec] = []
    made: list[ColSpec] = []
    params = []
    if facts.classifier is not None:
        given += [ColSpec(given_TJ3, "joints", required=False)]
        made += [ColSpec("string", "label", required=False), ColSpec("double", "probability", required=False)]
        made += [ColSpec(Array(DataType.double), "probabilities", required=False)]
    if facts.guidance is not None:
        given += [ColSpec("string", "action", required=False), ColSpec("long", "count", required=False)]
        made += [ColSpec(kind, name, required=False) for kind, name in (("string", "action"), ("string", "caption"))]
        made += [ColSpec("long", "frames", required=False), ColSpec(made_TJ3, "joints", required=False)]
        params = [ParamSpec("seed", "long", 0), ParamSpec("guidance", "double", facts.guidance)]
    return ModelSignature(inputs=Schema(given), outputs=Schema(made), params=ParamSchema(params) if params else None)


def _create(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
