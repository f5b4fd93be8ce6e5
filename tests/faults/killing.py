"""A search in a process of its own, of which one part or another is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from search.config import SearchConfig
from search.folder import SearchFolder, dump
from tests import analytic

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = {
    "driver": re.compile("driver"),
    "worker": re.compile(r"ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent)"),
    "raylet": re.compile(r".*/raylet$"),
    "gcs": re.compile(r".*/gcs_server$"),
}
PATIENCE = 60.0  # seconds that a driver has to notice that its Ray is dead, before it is killed too

RAY = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # instead of a minute until a driver gives up a dead Ray
TOO_BUSY = "timed out during startup"  # Ray's own words, where a machine takes more than 30 seconds to start it


@dataclass
class Search:
    """A search in a process of its own, which is killed and started again."""

    config: SearchConfig
    runs: Path
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = SearchFolder((self.runs / self.config.name).resolve())
        self.file = self.runs / "search.yaml"
        self.file.write_text(dump(self.config), encoding="utf-8")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.faults.driver", str(self.file), str(self.runs)]
        with (self.runs / "driver.log").open("wb") as out:
            self.driver = subprocess.Popen(command, cwd=ROOT, env=os.environ | RAY, stdout=out, stderr=out)

    def rungs(self, among: Path) -> int:
        """Return how many rungs the runs in a folder have recorded."""
        return sum(len(path.read_text().splitlines()) for path in among.glob(f"*/{analytic.TRACE}"))

    def kill(self, victim: str, among: Path, after: int, pause: float) -> None:
        """Kill a part of the search some seconds after so many rungs; a driver that dies of it is started again."""
        while self.rungs(among) < after and self.runs_on():
            time.sleep(0.02)
        time.sleep(pause)
        while not self.strike(victim):
            assert self.runs_on(), f"the driver ended by itself, killed before: {self.killed}; {self.said()}"
            time.sleep(0.02)
        self.killed.append(f"{victim} after {self.rungs(among)} rungs of {among.name}")
        if victim != "worker":
            self.bury()
            self.start()

    def runs_on(self) -> bool:
        """Say whether the driver runs; it is started again where the machine was too busy to start Ray."""
        if self.driver.poll() and TOO_BUSY in self.said():
            self.start()
        return self.driver.poll() is None

    def strike(self, victim: str) -> bool:
        """Kill a process of the search that is such a victim; returns whether there was one."""
        there = [(self.driver.pid, "driver"), *descendants(self.driver.pid)]
        for pid in [pid for pid, title in there if VICTIMS[victim].match(title) and self.driver.poll() is None]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def bury(self) -> None:
        """Wait until the driver is dead; one that hangs without its Ray is killed too."""
        try:
            self.driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.killed.append("the driver, which hung")
            self.driver.kill()
            self.driver.wait()

    def said(self) -> str:
        return (self.runs / "driver.log").read_text(errors="replace")[-3000:]


def descendants(root: int) -> list[tuple[int, str]]:
    """Return the process ids and titles of all that a process has started, and what that has."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family and pid not in family}:
        family |= more
    return [(pid, titles[pid]) for pid in sorted(family - {root}) if pid in titles]
