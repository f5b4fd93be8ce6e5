"""How a cluster is divided among trials, node by node; and a real Ray of several nodes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.cluster_utils import Cluster

from kinemic.errors import InfrastructureError, KinemicError
from search.config import ResourcesConfig
from search.ledger import _Open
from search.resources import connected, kills_as_ctrl_c, share
from search.runner import run_trials
from search.shares import Resources, Share, asked, divide
from search.trainable import Work
from tests import analytic
from tests.bench import SPACE, Bench, search

LAPTOP, BIG, SMALL = Resources(2, 0), Resources(8, 0), Resources(3, 0)
ONE_GPU, TWO_GPUS = Resources(16, 1), Resources(16, 2)


def shared_out(nodes: list[Resources], **settings: float) -> Share:
    config = ResourcesConfig.model_validate(settings)
    return divide(nodes, asked(nodes, config), config.max_concurrent)


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([LAPTOP], {}, Share(1, 0, 2, Share(2, 0, 1))),
        ([Resources(1, 0)] * 4, {}, Share(1, 0, 4)),  # each is alone on its node already
        ([BIG, SMALL], {"cpus": 2}, Share(2, 0, 5, Share(8, 0, 1))),
        ([SMALL, SMALL], {"cpus": 2}, Share(2, 0, 2)),  # six CPUs, but no third pair on one node
        ([BIG], {"max_concurrent": 3}, Share(1, 0, 3, Share(3, 0, 1))),
        ([BIG], {"cpus": 8}, Share(8, 0, 1)),
        ([ONE_GPU], {}, Share(1, 0.25, 4, Share(1, 0.5, 2))),
        ([ONE_GPU], {"gpus": 1}, Share(1, 1, 1)),
        ([ONE_GPU], {"gpus": 0.1}, Share(1, 0.1, 10, Share(1, 0.2, 5))),
        ([TWO_GPUS], {"gpus": 0.3}, Share(1, 0.3, 6, Share(1, 0.6, 2))),
        ([TWO_GPUS], {"gpus": 0.75}, Share(1, 0.75, 2, Share(1, 1.0, 2))),
        ([ONE_GPU] * 4, {}, Share(1, 0.25, 16, Share(1, 0.5, 3))),
        ([ONE_GPU, BIG], {}, Share(1, 0.25, 4, Share(1, 0.5, 2))),  # the node without a GPU holds no trial
        ([ONE_GPU, BIG], {"gpus": 0}, Share(1, 0, 24, Share(16, 0, 1))),
        ([Resources(2, 4)], {}, Share(1, 0.25, 2, Share(1, 0.5, 1))),
        ([Resources(16, 1.5)], {}, Share(1, 0.25, 6, Share(1, 0.5, 2))),  # half of one is kept for the search itself
        ([Resources(16, 1.3)], {"gpus": 0.5}, Share(1, 0.5, 2, Share(1, 1.0, 1))),
        ([Resources(16, 1.75)], {"gpus": 0.75}, Share(1, 0.75, 2, Share(1, 1.0, 1))),
        ([Resources(16, 0.5)], {"gpus": 0.5}, Share(1, 0.5, 1)),
    ],
)
def test_a_cluster_is_divided_node_by_node(nodes: list[Resources], settings: dict[str, float], expected: Share) -> None:
    assert shared_out(nodes, **settings) == expected


@pytest.mark.parametrize(
    ("nodes", "settings"),
    [([SMALL, SMALL], {"cpus": 4}), ([BIG, ONE_GPU], {"cpus": 32}), ([BIG], {"gpus": 0.5}), ([], {})],
)
def test_a_trial_that_fits_no_single_node_is_refused(nodes: list[Resources], settings: dict[str, float]) -> None:
    with pytest.raises(KinemicError, match=r"a trial takes .* no node of Ray has that much free: there are .*; lower"):
        shared_out(nodes, **settings)


def test_more_than_one_gpu_a_trial_is_refused() -> None:
    with pytest.raises(KinemicError, match="gpus is 2, but a trial uses one GPU; give at most 1"):
        shared_out([Resources(16, 4)], gpus=2)


@pytest.mark.parametrize("nodes", [[ONE_GPU], [ONE_GPU] * 4, [TWO_GPUS, ONE_GPU], [Resources(16, 2.6), ONE_GPU]])
@pytest.mark.parametrize("gpus", [0.1, 0.25, 0.3, 0.5, 0.75])
def test_what_the_ledger_lets_start_finds_room_wherever_the_others_lie(
    nodes: list[Resources], gpus: float, tmp_path: Path
) -> None:
    part = shared_out(nodes, gpus=gpus)
    assert part.larger is not None
    ledger = Bench(search(), tmp_path, share=part).ledger
    size = [free for node in nodes for free in node.each_gpu]
    rng, used, started = random.Random(0), [0.0] * len(size), 0
    placed: list[tuple[int, Share]] = []
    for _ in range(400):
        wanted = part.larger if rng.random() < 0.3 else part
        if not ledger._fits(wanted):
            if placed:  # a trial ends
                gpu, other = placed.pop(rng.randrange(len(placed)))
                used[gpu] -= other.gpus
                ledger._open.pop(next(n for n, each in ledger._open.items() if each.share == other))
            continue
        room = [gpu for gpu, taken in enumerate(used) if taken + wanted.gpus <= size[gpu] + 1e-9]
        assert room, f"{wanted} finds no room in {used}"
        gpu = rng.choice(room)
        used[gpu] += wanted.gpus
        placed.append((gpu, wanted))
        started += 1
        ledger._open[started] = _Open(None, wanted)  # type: ignore[arg-type]
    assert started > 100


@pytest.mark.parametrize(
    ("address", "variable", "line"),
    [
        (
            None,
            "http://127.0.0.1:8265",
            r"no Ray cluster at RAY_ADDRESS=http://127\.0\.0\.1:8265: .*; unset RAY_ADDRESS to",
        ),
        (
            None,
            "127.0.0.1:9",
            r"no Ray cluster at RAY_ADDRESS=127\.0\.0\.1:9: .*Connection refused; unset RAY_ADDRESS to",
        ),
        (
            None,
            "nonsense",
            r"no Ray cluster at RAY_ADDRESS=nonsense: .*; unset RAY_ADDRESS to use this machine alone, or",
        ),
        ("127.0.0.1:9", "", r"no Ray cluster at 127\.0\.0\.1:9: .*; leave it out, or set it to the HOST:PORT of"),
    ],
)
def test_an_address_that_is_no_cluster_is_one_line_that_names_where_it_came_from(
    address: str | None, variable: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(KinemicError, match=line) as caught, connected(address):
        pytest.fail("there is no cluster")
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)


def test_a_ray_that_does_not_start_here_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(InfrastructureError, match="Ray does not start on this machine: ") as caught, connected(None):
        pytest.fail("Ray has started")
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)


def test_a_closed_terminal_is_ctrl_c_unless_that_is_ignored_as_under_nohup() -> None:
    for polite in (signal.SIGTERM, signal.SIGHUP):
        before = signal.signal(polite, lambda *_: None)  # else one that is not taken would end the tests
        try:
            with pytest.raises(KeyboardInterrupt), kills_as_ctrl_c():
                signal.raise_signal(polite)
        finally:
            signal.signal(polite, before)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with kills_as_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def several_nodes() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(analytic)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    try:
        cluster.add_node(num_cpus=2, num_gpus=0)
        cluster.wait_for_nodes()
        with connected(cluster.address):
            yield
    finally:
        cluster.shutdown()
        cloudpickle.unregister_pickle_by_value(analytic)


@pytest.mark.usefixtures("several_nodes")
def test_trials_on_several_nodes_take_what_one_node_has_also_when_out_of_memory(tmp_path: Path) -> None:
    assert share(ResourcesConfig()) == Share(1, 0, 3, Share(2, 0, 1))
    assert share(ResourcesConfig(cpus=2)).max_concurrent == 1
    with pytest.raises(KinemicError, match=r"takes 3 CPUs .* there are .*1 x 2 CPUs and 0 GPUs"):
        share(ResourcesConfig(cpus=3))
    config = search(
        space={**SPACE, "loss.bank_size": {"type": "categorical", "choices": [60, analytic.NEEDS_MORE]}},
        budget={"trials": 4},
        pruner="none",
        sampler={"kind": "random", "seed": 2},
    )
    bench = Bench(config, tmp_path, share=share(config.resources))
    folder = tmp_path / "trials"
    run_trials(
        bench.ledger, Work(analytic.inputs(folder), config.trial, config.seeds, folder, analytic.run_trial), tmp_path
    )
    trials = bench.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    enlarged = [t.number for t in trials if t.params["loss.bank_size"] == analytic.NEEDS_MORE]
    assert enlarged
    for number in enlarged:
        assert analytic.shares(bench.ledger.workdir(number)) == [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 2.0}]
