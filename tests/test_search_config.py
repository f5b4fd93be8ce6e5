"""One YAML file is one search, and every mistake in it is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kinemic.errors import ConfigError
from search.config import HyperbandPruner, MedianPruner, WilcoxonPruner, load
from search.space import default_space

ROOT = Path(__file__).resolve().parent.parent
MINIMAL = """
name: tiny
data:
  source: {format: generated}
  target: {format: generated, part: target}
prior: {path: prior.safetensors}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def test_a_minimal_file_searches_the_default_space(file: Path) -> None:
    config = load(file)
    assert set(config.space) == set(default_space())
    assert isinstance(config.pruner, MedianPruner)
    assert load(file, ["space=default"]) == config


def test_settings_override_the_file_also_inside_the_space(file: Path) -> None:
    config = load(
        file,
        [
            "budget.trials=3",
            "trial.adapt.rungs=[5, 9]",
            "space.synthesis.guidance.high=3.5",
            "space.mining.threshold.choices=[0.0, 0.5]",
            "pruner=hyperband",
            "name=other",
        ],
    )
    assert (config.budget.trials, config.name, config.steps) == (3, "other", 9)
    assert config.space["synthesis.guidance"].high == 3.5  # type: ignore[union-attr]
    assert config.space["mining.threshold"].choices == (0.0, 0.5)  # type: ignore[union-attr]
    assert isinstance(config.pruner, HyperbandPruner)


def test_wilcoxon_is_taken_where_it_has_enough_pairs_to_stop_anything(file: Path) -> None:
    config = load(file, ["pruner=wilcoxon", "trial.adapt.rungs=[5, 9, 20]"])
    assert isinstance(config.pruner, WilcoxonPruner)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["budgt.trials=3"], "unknown key 'budgt'; did you mean 'budget'?"),
        (["budget.trails=3"], "unknown key 'budget.trails'; did you mean 'trials'?"),
        (["budget.trials=many"], "budget.trials: Input should be a valid integer"),
        (["budget.trials=0"], "budget.trials: Input should be greater than or equal to 1"),
        (["pruner.kind=medain"], "pruner: "),
        (["pruner.kind=median", "pruner.reduction_factor=3"], "unknown key 'pruner.median.reduction_factor'"),
        (["trial.adapt.lora.rnak=3"], "unknown key 'trial.adapt.lora.rnak'; did you mean 'rank'?"),
        (["trial.confirm=x"], "unknown key 'trial.confirm'"),
        (["confirm.best=2"], "give exactly one of test (a list of ids) and test_subjects"),
        (["confirm={test_subjects: [a], test: {file: b}}"], "give exactly one of test (a list of ids) and test_sub"),
        (["confirm={test_subjects: [a], seeds: 1}"], "confirm.seeds: Input should be greater than or equal to 2"),
        (["name=a/b"], "a search's name becomes a folder"),
        (["contenders.seeds=1"], "contenders.seeds: Input should be greater than or equal to 2"),
        (["budget"], "expected path=value"),
        (["space.mining.topk.low=3"], "expected space.PATH.FIELD=value with a PATH of this space: synthesis.source"),
        (["space.mining.top_k.lwo=3"], "unknown key 'space.mining.top_k.int.lwo'; did you mean 'low'?"),
        (
            ["pruner=wilcoxon", "trial.adapt.rungs=[5, 9]"],
            "1 rungs before the last and 3 judge seeds make 3 pairs, whose p is at least 0.125, and p_threshold is 0.1",
        ),
        (["space.synthesis.guidance.low=9"], "low 9.0 is above high 5.0"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(file: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(file, settings)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "none.yaml"))):
        load(tmp_path / "none.yaml")


def test_a_configuration_survives_being_written_and_read(file: Path, tmp_path: Path) -> None:
    config = load(file, ["confirm.test_subjects=[s9]", "space.mining.threshold.when={}"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    assert load(copy) == config


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_valid_search(example: Path) -> None:
    assert load(example).name
