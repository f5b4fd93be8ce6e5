"""Who may import whom (ARCHITECTURE), and that no library code prints; each check is tested to bite."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kinemic", "search", "cluster")
SCHEDULERS = frozenset({"ray", "optuna", "mlflow"})
FORBIDDEN = {
    "kinemic": SCHEDULERS | {"search", "cluster"},
    "search": frozenset({"cluster"}),
    "cluster": frozenset({"torch", "optuna", "mlflow"}),
}
# Read by the command line and on clusters' clients: they must be instant.
LIGHT = ("kinemic.config", "kinemic.config_data", "kinemic.report", "kinemic.errors", "kinemic.progress")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_packages(source: str) -> set[str]:
    """Return the top-level packages that a source imports anywhere, also inside functions and by a constant name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.add(name.value.partition(".")[0])
    return found


def prints(source: str) -> Iterator[int]:
    """Yield the lines of a source that print or write to the terminal's streams."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}:
                yield node.lineno


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def is_command_line(path: Path) -> bool:
    return path.stem == "cli" or path.parent.name == "commands"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_in_one_direction(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        wrong = imported_packages(path.read_text(encoding="utf-8")) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which {package}/ must not"


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_command_line_prints(package: str) -> None:
    for path in sources(package):
        lines = [] if is_command_line(path) else list(prints(path.read_text(encoding="utf-8")))
        assert not lines, f"{path.relative_to(ROOT)} prints in lines {lines}; library code calls a callback instead"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint({"torch", "scipy", "sklearn", "open_clip", *SCHEDULERS})


def test_the_method_runs_without_the_search() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources("kinemic")
        if path.stem != "__main__"
    ]
    loaded = loaded_by("; ".join(f"import {module}" for module in modules))
    assert loaded.isdisjoint(FORBIDDEN["kinemic"])


def test_importing_the_search_is_light() -> None:
    assert loaded_by("import search").isdisjoint({"torch", "pandas", "plotly", *SCHEDULERS})


def test_reading_a_cluster_command_loads_no_torch() -> None:
    assert "torch" not in loaded_by("import cluster.cli")


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after ``code``."""
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "source",
    [
        "import ray",
        "import ray.tune as t",
        "from ray import tune",
        "from ray.tune import Tuner",
        "def f():\n    if True:\n        import ray",
        "from importlib import import_module\nimport_module('ray.tune')",
    ],
)
def test_the_check_sees_every_way_to_import(source: str) -> None:
    assert "ray" in imported_packages(source)


def test_the_check_ignores_relative_imports_and_mere_names() -> None:
    assert imported_packages("from .ray import x\nray = 1\nname = 'import ray'") == set()


def test_the_check_sees_prints() -> None:
    assert list(prints("def f():\n    print(1)\n    x = 'print'\n    sys.stderr.write('a')")) == [2, 4]


def test_the_check_sees_what_an_import_loads() -> None:
    assert "json" in loaded_by("import json")
