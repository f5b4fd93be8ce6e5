"""``make fuzz``: thousands of damaged inputs, how the commands that read them ended, and a small one of each fault."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import examples
from tests.fuzz.kinds import KINDS, Case
from tests.fuzz.server import Server
from tests.fuzz.trying import Tried, attempt

SHRINKING_S = 15.0  # that the search for a smaller input of one fault may take


class FaultError(Exception):
    """A fault that was not seen before."""


class EnoughError(BaseException):
    """Inputs were tried, or a smaller one looked for, long enough; Hypothesis lets what is no Exception pass."""


@dataclass
class Survey:
    """The inputs of one kind: how they ended, and for each fault its smallest input."""

    kind: str
    folder: Path
    server: Server
    ends: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[Case, Tried]] = field(default_factory=dict)
    seconds: float = 0.0
    _tried: dict[Case, Tried] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _until: float = math.inf  # while an input is made smaller

    def run(self, inputs: int, first_seed: int) -> None:
        """Try so many inputs; each fault that is found is made smaller, and then left aside."""
        start = time.monotonic()
        for each in count(first_seed):
            if self.ends.total() >= inputs:
                break
            self._until = math.inf
            try:
                self._some(inputs, each)
            except (FaultError, EnoughError):
                self._known = set(self.faults)
        self.seconds = time.monotonic() - start

    def _some(self, inputs: int, its_seed: int) -> None:
        @seed(its_seed)
        @settings(
            max_examples=inputs,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(KINDS[self.kind].cases)
        def tries(case: Case) -> None:
            if time.monotonic() > self._until or self.ends.total() >= inputs:
                raise EnoughError
            tried = self._tried.get(case) or self._try(case)
            if tried.fault and tried.where not in self._known:
                self._until = min(self._until, time.monotonic() + SHRINKING_S)
                raise FaultError(tried.where)

        tries()

    def _try(self, case: Case) -> Tried:
        tried = self._tried[case] = attempt(case, self.folder, self.server)
        self.ends["hang" if tried.ended.hang else "unexpected" if tried.fault else f"exit {tried.ended.code}"] += 1
        if tried.fault:
            smallest = self.faults.setdefault(tried.where, (case, tried))
            self.faults[tried.where] = min(smallest, (case, tried), key=lambda found: len(repr(found[0])))
        return tried


def main() -> int:
    """Try the inputs and print the figures. Returns 1 where one ended otherwise than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    given = parser.parse_args()
    surveys = []
    with tempfile.TemporaryDirectory() as place, Server() as server:
        folder = Path(place)
        examples.build(folder)
        for kind in given.kinds:
            surveys.append(Survey(kind, folder, server))
            surveys[-1].run(-(-given.inputs // len(given.kinds)), given.seed)
            print(_row(surveys[-1]), *_faults(surveys[-1]), sep="\n", flush=True)
    total = Counter[str]()
    for survey in surveys:
        total += survey.ends
    print(_row(Survey("all", folder, server, total, seconds=sum(survey.seconds for survey in surveys))))
    return 1 if total["unexpected"] + total["hang"] else 0


def _row(survey: Survey) -> str:
    names = ("exit 0", "exit 1", "exit 2", "unexpected", "hang")
    ends = "  ".join(f"{name} {survey.ends[name]:5d}" for name in names)
    return f"{survey.kind:14s} inputs {survey.ends.total():5d}  {ends}  {survey.seconds:6.0f} s"


def _faults(survey: Survey) -> Iterator[str]:
    for name, (case, tried) in survey.faults.items():
        told = (name, tried.fault, " ".join(case.command) + " (signed)" * case.signed, repr(case.damage))
        yield "  " + "\n    ".join(map(_short, told))


def _short(text: str) -> str:
    text = ascii(text)[1:-1]
    return text if len(text) < 500 else f"{text[:300]} ... {text[-150:]}"


if __name__ == "__main__":
    sys.exit(main())
