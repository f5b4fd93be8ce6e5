"""A search's file becomes a job: checked here, packed, and started on the cluster."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.errors import ClusterError
from cluster.jobs import SEARCH_KEY, Job, search_jobs, submit
from cluster.package import Upload, files_to_upload, stage
from cluster.preflight import check_paths, check_resources, node_resources
from search.config import SearchConfig, load
from search.shares import Resources, asked
from search.urls import refuse_secrets


@dataclass(frozen=True)
class Submission:
    """A search that was checked on this machine and can be submitted: what it is, what runs it, what is uploaded."""

    config: SearchConfig
    entrypoint: str
    uploads: list[Upload]
    left_out: list[Path]  # of the user's own folder: links, keys and tokens
    driver: Resources


def prepare(file: Path, settings: tuple[str, ...], own: Path | None, runs: str, driver: Resources) -> Submission:
    """Read and check a search's file and everything to be uploaded with it, without asking the cluster.

    Raises ConfigError for the file, ClusterError for paths that mean nothing on the cluster and for over 50 MB. What
    references stand for is not asked here: the job reads it where Ray was started.
    """
    config = load(file, settings)
    _refuse_passwords_in(file)
    uploads, left_out = files_to_upload(file, own)
    check_paths(config, {upload.target for upload in uploads})
    return Submission(config, search_command(file.name, settings, runs), uploads, left_out, driver)


def _refuse_passwords_in(file: Path) -> None:
    """The file travels as it is: also with what a setting overrides, and with its comments."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        refuse_secrets(line, f"{file}, line {number}")


def search_command(file: str, settings: tuple[str, ...], runs: str) -> str:
    """Return the shell command that runs a search inside a job, or goes on with it where it was stopped.

    ``~`` at the start of ``runs`` is the cluster's home.
    """
    home, rest = ("~/", runs[2:]) if runs.startswith("~/") else ("", runs)
    # "auto": Ray sets the cluster's address in a job's environment, and only this way uses its token there.
    overrides = [word for setting in (*settings, "resources.address=auto") for word in ("--set", setting)]
    words = shlex.join(["kinemic.cli", "search", "run", file, "--resume", *overrides])
    return f"exec python -m {words} --runs {home}{shlex.quote(rest)}"


def check_fits(client: JobSubmissionClient, submission: Submission) -> None:
    """Raise ClusterError where no node of the cluster could run a trial, or the search's driver."""
    nodes = node_resources(client)
    check_resources(nodes, asked(nodes, submission.config.resources), submission.driver)


def check_idle(client: JobSubmissionClient, submission: Submission) -> None:
    """Raise ClusterError where the same search runs there already: two of them would drive one study."""
    search = submission.config.name
    for job in search_jobs(client):
        if (job.metadata or {}).get(SEARCH_KEY) == search and job.status == JobStatus.RUNNING:
            raise ClusterError(
                f"search {search!r} runs there already as {job.submission_id}; stop that one first, or take another"
                " name: --set name=NEW"
            )


def start(client: JobSubmissionClient, submission: Submission) -> str:
    """Upload and submit; return the job's id, ``SEARCH-N``. Raises ClusterError."""
    with tempfile.TemporaryDirectory(prefix="kinemic-job-") as folder:
        stage(submission.uploads, Path(folder))
        return submit(client, Job(submission.config.name, submission.entrypoint, Path(folder), submission.driver))
