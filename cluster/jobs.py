"""Jobs of a cluster: submit one, see whether it starts and why not, follow it, stop it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.connection import translated
from cluster.errors import ClusterError
from cluster.preflight import node_resources
from kinemic.quoting import command_line
from kinemic.redaction import without_secrets
from search.resources import RESERVED
from search.shares import Resources, describe

SEARCH_KEY = "kinemic.search"  # metadata by which our jobs are told from others
POLL_S = 0.5
STOP_S = 20.0  # Ray sends SIGTERM, then SIGKILL after 3 s


@dataclass(frozen=True)
class Job:
    """What runs on the cluster: a shell command in an uploaded folder, and what is reserved for it there."""

    search: str
    entrypoint: str
    working_dir: Path | None = None
    reserved: Resources = field(default_factory=Resources)


def search_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """Return the jobs that were submitted here, the newest first."""
    with translated(client.get_address()):
        jobs = client.list_jobs()
    ours = [job for job in jobs if job.submission_id and SEARCH_KEY in (job.metadata or {})]
    return sorted(ours, key=lambda job: job.start_time or 0, reverse=True)


def submit(client: JobSubmissionClient, job: Job) -> str:
    """Submit a job and return its id, ``SEARCH-N`` with the first free N. Raises ClusterError."""
    runtime_env: dict[str, object] = {"working_dir": str(job.working_dir)} if job.working_dir else {}
    if job.reserved != Resources():
        runtime_env["env_vars"] = {RESERVED: f"{job.reserved.cpus:g},{job.reserved.gpus:g}"}
    number = _next_number(client, job.search)
    while True:
        try:
            with translated(client.get_address()):
                return str(
                    client.submit_job(
                        entrypoint=job.entrypoint,
                        submission_id=f"{job.search}-{number}",
                        runtime_env=runtime_env,
                        metadata={SEARCH_KEY: job.search},
                        entrypoint_num_cpus=job.reserved.cpus or None,
                        entrypoint_num_gpus=job.reserved.gpus or None,
                    )
                )
        except ClusterError as error:
            if "already exists" not in str(error):
                raise
            number += 1  # somebody else submitted the same search in this moment


def _next_number(client: JobSubmissionClient, search: str) -> int:
    with translated(client.get_address()):
        ids = [job.submission_id or "" for job in client.list_jobs()]
    numbers = [int(match[1]) for name in ids if (match := re.fullmatch(rf"{re.escape(search)}-(\d+)", name))]
    return max(numbers, default=0) + 1


def details(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """Return one job. Raises ClusterError for an id that the cluster doesn't know, naming the ones that it does."""
    with translated(client.get_address()):
        jobs = client.list_jobs()
    for job in jobs:
        if job.submission_id == job_id:
            return job
    known = ", ".join(job.submission_id for job in search_jobs(client)[:10]) or "none"
    raise ClusterError(f"no job {job_id!r} on {client.get_address()}; its searches: {known}")


def wait_started(client: JobSubmissionClient, job_id: str, asked: Resources, timeout: float, settle: float) -> None:
    """Wait until a job runs, and then ``settle`` seconds more for what fails at once (a missing folder or package).

    Raises ClusterError with the reason where it failed; where it hasn't started after ``timeout`` seconds, with what it
    waits for, after asking the cluster to stop it.
    """
    job = _poll(client, job_id, lambda job: job.status != JobStatus.PENDING, timeout)
    if job.status == JobStatus.PENDING:
        reason = _why_pending(client, asked)
        stop(client, job_id, wait=False)
        raise ClusterError(
            f"job {job_id} had not started after {timeout:g} s: {reason}; it was told to stop and, should it ever be"
            " started, ends at once"
        )
    job = _poll(client, job_id, lambda job: job.status.is_terminal(), settle)
    if job.status == JobStatus.FAILED:
        logs = command_line("kinemic", "cluster", "logs", job_id)
        raise ClusterError(f"job {job_id} failed: {failure(job)}; `{logs}` shows the rest")


def _poll(client: JobSubmissionClient, job_id: str, done: Callable[[JobDetails], bool], timeout: float) -> JobDetails:
    deadline = time.monotonic() + timeout
    while True:
        with translated(client.get_address()):
            job = client.get_job_info(job_id)
        if done(job) or time.monotonic() >= deadline:
            return job
        time.sleep(POLL_S)


def _why_pending(client: JobSubmissionClient, asked: Resources) -> str:
    nodes = node_resources(client, patience=0)
    if not any(asked.fits(node) for node in nodes):
        return f"it asks for {asked} and the cluster has {describe(nodes)}"
    return f"the cluster has {describe(nodes)}, so what it asks for ({asked}) is in use, or its nodes don't answer"


def failure(job: JobDetails) -> str:
    """Return why a job failed in one line: its own last word where it had one, else Ray's."""
    lines = [line.strip() for line in (job.message or "").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return without_secrets((errors or lines or ["no reason given"])[-1])


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], None]) -> JobDetails:
    """Hand a job's output to ``write`` as it comes, until the job ends, and return how it ended."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            write(text)

    with translated(client.get_address()):
        asyncio.run(tail())
    return _poll(client, job_id, lambda job: job.status.is_terminal(), STOP_S)


def stop(client: JobSubmissionClient, job_id: str, wait: bool = True) -> JobDetails:
    """Ask a job to stop, wait until it has, and return it; one that hasn't started stays PENDING until it would."""
    with translated(client.get_address()):
        client.stop_job(job_id)
        job = client.get_job_info(job_id)
    if not wait or job.status == JobStatus.PENDING:
        return job
    return _poll(client, job_id, lambda job: job.status.is_terminal(), STOP_S)
