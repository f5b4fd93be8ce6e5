"""Random kill -9 during a confirmation, and at its look: it ends like an undisturbed one, and the look is one."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kinemic.inputs import prepare_inputs
from search import confirmation, runner
from search import study as studies
from search.config import SearchConfig, validate
from search.confirm import LOOKS
from search.confirmation import Confirmation
from tests import analytic
from tests.faults.driver import COMPUTED
from tests.faults.killing import VICTIMS, Search
from tests.faults.settings import THOROUGH
from tests.judged import train_judge
from tests.toy import TOY, toy_experiment

SEARCH = {
    "name": "confirmed",
    "space": {"synthesis.guidance": {"type": "float", "low": 2.8, "high": 3.2}},
    "budget": {"trials": 3},
    "pruner": "none",
    "contenders": {"seeds": 2},
    "resources": {"max_concurrent": 1},
    "confirm": {"test_subjects": ["s06", "s07"], "best": 2, "seeds": 2, "judge_seeds": 1},
}
RUNS = 16  # of the 20 on dev: some are left to kill
KILLS = 2


def ended(search: Search) -> Confirmation:
    """Wait for the end of a search, and return its confirmation."""
    while search.runs_on():
        time.sleep(0.1)
    assert search.driver.returncode == 0, search.said()
    found = confirmation.load(search.folder.confirmation_file)
    assert found is not None
    return found


@pytest.mark.skipif(not THOROUGH, reason="minutes; make faults")
@pytest.mark.timeout(2400)  # every kill may cost a start of Python and of Ray
@pytest.mark.parametrize("seed", range(2))
def test_a_confirmation_that_is_killed_again_and_again_looks_once(
    seed: int, searches: Callable[[SearchConfig, Path], Search], tmp_path: Path
) -> None:
    rng = random.Random(seed)
    config = validate(TOY | SEARCH, "toy.yaml")
    inputs = prepare_inputs(toy_experiment(), tmp_path / "cache")
    train_judge(inputs)
    folder = runner.start(config, tmp_path, prepared=(inputs, analytic.SOURCE_CLIPS)).folder
    killed = searches(config, tmp_path)
    for victim, after in zip(
        rng.choices(list(VICTIMS), k=KILLS), sorted(rng.sample(range(1, RUNS), KILLS)), strict=True
    ):
        killed.kill(victim, folder.confirmation, after, rng.uniform(0, 0.3))
    while not folder.confirmation_file.exists() and killed.runs_on():
        time.sleep(0.01)  # it is written just before the look
    killed.kill("driver", folder.confirmation, 0, rng.uniform(0, 0.3))
    found = ended(killed)

    assert found.tested
    study = studies.open_study(config, folder.path, folder.state().study)
    assert len(study.user_attrs[LOOKS]) == found.looks == 1, killed.killed
    computed = Counter((tmp_path / COMPUTED).read_text().splitlines())
    assert set(computed.values()) == {1}, (computed.most_common(3), killed.killed)
    assert len([line for line in computed if line.startswith("confirmation/")]) >= RUNS

    shutil.rmtree(folder.confirmation)
    folder.confirmation_file.unlink()
    study.set_user_attr(LOOKS, [])
    assert ended(searches(config, tmp_path)).rows == found.rows, killed.killed
