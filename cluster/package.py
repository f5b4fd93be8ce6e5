"""What is uploaded with a job: the three packages and the search's file, never data, keys or tokens."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cluster.errors import ClusterError
from kinemic.cli import ENTRY_POINTS, find_groups

PACKAGES = ("kinemic", "search", "cluster")
MAX_BYTES = 50_000_000  # Ray refuses 100 MiB with a bare HTTP 413; code and configs are far below this
NAMED = 5  # largest files that a refusal names
LEFT_OUT = {"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "runs"}
# Names, in small letters, of what holds passwords, keys or tokens. Code may speak of them: a .py file stays.
SECRET_FOLDERS = (".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kube", ".ssh", "secrets")
SECRET_FILES = (
    *(".env*", "*.env", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.keystore", "*.gpg", "*.kdbx", "id_rsa*", "id_dsa*"),
    *("id_ecdsa*", "id_ed25519*", "*credential*", "*token*", "*secret*", "*password*", "*passwd*", "*kubeconfig*"),
    *("*service?account*.json", "*.tfstate*", "*api?key*", "*apikey*", "*private?key*", "*.ovpn", ".dockercfg"),
    *(".s3cfg", ".boto", ".databrickscfg", ".mylogin.cnf", ".authinfo*"),
)
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Upload:
    """One file to be uploaded: where it lies, and its path below the job's working directory."""

    source: Path
    target: Path


def files_to_upload(search_file: Path, own: Path | None) -> tuple[list[Upload], list[Path]]:
    """Return everything that a job needs: our packages, the user's own folder, and the search's file at the top.

    A folder's caches, ``.venv`` and ``runs`` are left out, and so is what the second list names, relative to ``own``:
    links, whose targets may lie anywhere, and what by its name holds keys or tokens. Raises ClusterError where the rest
    is over 50 MB.
    """
    uploads = {path.relative_to(ROOT): path for package in PACKAGES for path in _files(ROOT / package, [])}
    left_out: list[Path] = []
    if own is not None:
        if not own.is_dir():
            raise ClusterError(f"--working-dir {own}: expected a folder of code and configs")
        uploads = {path.relative_to(own): path for path in _files(own, left_out)} | uploads
    uploads[Path(search_file.name)] = search_file
    files = [Upload(source, target) for target, source in sorted(uploads.items())]
    _check_size(files)
    return files, sorted(path.relative_to(own) for path in left_out if own)


def stage(files: list[Upload], folder: Path) -> None:
    """Copy the files into an empty folder, beside a ``pyproject.toml`` by which the command finds its groups there."""
    for upload in files:
        target = folder / upload.target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(upload.source, target)
    # Nothing is installed from a working directory, so entry points don't exist there.
    declared = (f"{json.dumps(name)} = {json.dumps(point.value)}" for name, point in find_groups().items())
    project = ["[project]", 'name = "kinemic"', f'[project.entry-points."{ENTRY_POINTS}"]', *declared]
    (folder / "pyproject.toml").write_text("\n".join(project) + "\n", encoding="utf-8")


def _files(folder: Path, left_out: list[Path]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        refused = {name for name in (*folders, *names) if _refused(Path(parent) / name, name in folders)}
        left_out += [Path(parent) / name for name in refused]
        folders[:] = [name for name in folders if name not in refused]
        yield from (Path(parent) / name for name in names if name not in refused)


def _refused(path: Path, is_folder: bool) -> bool:
    name = path.name.lower()
    if path.is_symlink() or not (is_folder or path.is_file()):  # a pipe or socket is no file to copy
        return True
    patterns = SECRET_FOLDERS if is_folder else SECRET_FILES
    return not name.endswith((".py", ".pyi")) and any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_size(files: list[Upload]) -> None:
    sizes = sorted(((upload.source.stat().st_size, upload) for upload in files), key=lambda pair: -pair[0])
    total = sum(size for size, _ in sizes)
    if total > MAX_BYTES:
        largest = ", ".join(f"{upload.target} ({size / 1e6:.1f} MB)" for size, upload in sizes[:NAMED])
        raise ClusterError(
            f"{total / 1e6:.1f} MB to upload, at most {MAX_BYTES / 1e6:.0f} MB: code and configs only, data must be on"
            f" the cluster already; the largest files: {largest}"
        )
