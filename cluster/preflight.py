"""What can be told before a job is submitted: whether any node could run it, and whether its paths make sense there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes

from cluster.connection import translated
from cluster.errors import ClusterError
from search.config import SearchConfig
from search.shares import Resources, describe

REGISTER_S = 15.0  # a head that was just started answers before it counts itself among the nodes
MANY = 10_000  # nodes asked for; the state API's own default is 100


def node_resources(client: JobSubmissionClient, patience: float = REGISTER_S) -> list[Resources]:
    """Return what each live node of the cluster has in all, busy or not, the largest first.

    Where there is none yet, looks again for ``patience`` seconds.
    """
    url, deadline = client.get_address(), time.monotonic() + patience
    while True:
        with translated(url):
            nodes = list_nodes(address=url, limit=MANY)
        if any(node.state == "ALIVE" for node in nodes) or time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    totals: list[Mapping[str, float]] = [node.resources_total or {} for node in nodes if node.state == "ALIVE"]
    found = [Resources(total.get("CPU", 0), total.get("GPU", 0)) for total in totals]
    return sorted(found, key=lambda node: (node.gpus, node.cpus), reverse=True)


def check_resources(nodes: list[Resources], trial: Resources, driver: Resources) -> None:
    """Raise ClusterError where no node has, even when idle, what is asked for: Ray would let it wait for ever.

    A trial must fit beside the driver, wherever Ray may put that.
    """
    _check(nodes, "the search itself", driver, "lower --driver-cpus and --driver-gpus")
    places = [[*nodes[:i], node.less(driver), *nodes[i + 1 :]] for i, node in enumerate(nodes) if driver.fits(node)]
    good = [left for left in places if any(trial.times_in(node) for node in left)]
    beside = f" beside {driver} for the search itself" if driver != Resources() else ""
    mend = "lower resources.cpus and resources.gpus of the file" + (", or what --driver-... keeps" if beside else "")
    _check((good or places)[0], f"a trial{beside}", trial, mend)


def _check(nodes: list[Resources], who: str, asked: Resources, mend: str) -> None:
    if not any(asked.fits(node) for node in nodes):
        raise ClusterError(
            f"{who} asks for {asked} and no node has that much: the cluster has {describe(nodes)}; {mend}"
            " (--no-check for a cluster that adds nodes by itself)"
        )


def check_paths(config: SearchConfig, uploaded: set[Path]) -> None:
    """Raise ClusterError for a path that can't exist on the cluster: relative, and not uploaded."""
    groups = {"data": config.data, "prior": config.prior, "confirm": config.confirm}
    found = {pair for name, group in groups.items() if group is not None for pair in _paths(group, name)}
    for key in ("pretrained", "model"):
        weights = getattr(config.text, key, "")
        if "/" in weights:  # a file or folder; a tag, and the name of the extra, have none
            found.add((f"text.{key}", Path(weights).expanduser()))
    for key, path in sorted(found):
        inside = any(path == target or path in target.parents for target in uploaded)
        if not path.is_absolute() and not inside:
            raise ClusterError(
                f"{key}: {path} is relative to this machine and data are not uploaded; give the absolute path that it"
                " has on the cluster"
            )


def _paths(model: BaseModel, prefix: str) -> set[tuple[str, Path]]:
    return set(_walk(model, prefix))


def _walk(model: BaseModel, prefix: str) -> Iterator[tuple[str, Path]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            yield f"{prefix}.{name}", value
        elif isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}.{name}")
