"""Whatever is damaged, a command ends with its result or with one line: nothing else, and nothing written when refused.

A sample of each kind, always the same one; ``make fuzz`` tries thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import examples
from tests.fuzz.kinds import KINDS, NOWHERE, Case
from tests.fuzz.known import CASES
from tests.fuzz.server import Server
from tests.fuzz.trying import attempt

SAMPLE = 12
COMMANDS = [(kind.example, command) for kind in KINDS.values() for command in kind.commands]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    examples.build(folder)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def test_every_command_takes_its_example_while_it_is_whole(place: Path, server: Server) -> None:
    refused = {
        "export": "left no classifier.safetensors",
        "resume": "nowhere",
        "contenders": "nowhere",
        "confirm": "nowhere",
    }
    for example, command in dict.fromkeys(COMMANDS):
        tried = attempt(Case(example, (), command), place, server)
        why = "Not a directory" if NOWHERE[1] in command else refused.get(command[1], "")
        assert (tried.fault, tried.ended.code) == ("", 2 if why else 0), (command, tried)
        assert why in tried.ended.err


@pytest.mark.parametrize("name", CASES)
def test_what_was_an_error_of_ours_is_refused(name: str, place: Path, server: Server) -> None:
    tried = attempt(CASES[name], place, server)
    assert (tried.fault, tried.ended.code) in [("", 2), ("", 1)], tried


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_is_refused_in_one_line_or_used(kind: str, place: Path, server: Server) -> None:
    @settings(
        max_examples=SAMPLE,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind].cases)
    def tries(case: Case) -> None:
        tried = attempt(case, place, server)
        assert not tried.fault, (tried.where, tried.fault)

    tries()
