"""Configurations: what is refused is named by its path, with what was expected and the nearest known key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinemic.config import ExperimentConfig, TrialConfig
from kinemic.errors import ConfigError, DataWarning
from kinemic.reading import field_of, leaf_paths, load_experiment, load_yaml, override, parse, with_values

EXPERIMENT = {
    "data": {"source": {"format": "generated"}, "target": {"format": "generated", "part": "target"}},
    "prior": {"path": "prior.safetensors"},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial": {"mining": {"topk": 3}}}, r"unknown key 'trial.mining.topk'; did you mean 'top_k'\?"),
        ({"trial": {"adapt": {"lora": {"rnk": 3}}}}, r"unknown key 'trial.adapt.lora.rnk'; did you mean 'rank'\?"),
        ({"text": {"encoder": "tfidf", "dims": 3}}, r"unknown key 'text.dims'; did you mean 'dim'\?"),
        ({"trial": {"mining": {"top_k": "many"}}}, r"trial.mining.top_k: .*valid integer.*'many'"),
        ({"trial": {"mining": {"top_k": 0}}}, r"trial.mining.top_k: .*greater than or equal to 1, got 0"),
        ({"trial": {"adapt": {"learning_rate": float("nan")}}}, r"trial.adapt.learning_rate: .*finite"),
        ({"trial": {"adapt": {"rungs": [4, 4]}}}, r"rungs must be rising step counts of at least 1, got \[4, 4\]"),
        ({"prior": {}}, r"exactly one of path .* and pretrain"),
        ({"prior": {"pretrain": {"model": {"width": 30, "heads": 4}}}}, "width 30 must be a multiple of heads 4"),
        ({"data": {"source": {"format": "bvh"}}}, "'corpus', 'humanml3d', 'ntu', 'joints', 'generated'"),
        ({"data": EXPERIMENT["data"] | {"split": {"train_subjects": ["a"], "dev_subjects": ["a"]}}}, "dev subject"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(ExperimentConfig, EXPERIMENT | change, "search.yaml")
    assert str(caught.value).startswith("search.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_missing_group_is_named() -> None:
    with pytest.raises(ConfigError, match="prior is missing"):
        parse(ExperimentConfig, {"data": EXPERIMENT["data"]}, "search.yaml")


def test_a_source_of_before_is_read_under_its_name_of_today_with_one_line() -> None:
    with pytest.warns(DataWarning, match="adapted is called generated now") as told:
        config = parse(TrialConfig, {"synthesis": {"source": "adapted"}}, "search.yaml")
    assert (config.synthesis.source, len(told)) == ("generated", 1)
    assert with_values(config, {"mining.top_k": 3}).synthesis.source == "generated"  # and not told again


@pytest.mark.parametrize(
    ("synthesis", "parts", "adapts", "trains"),
    [
        ({}, {"generated": 6}, True, True),
        ({"clips_per_class": 0}, {}, False, False),
        ({"source": "none"}, {}, False, False),
        ({"source": "edited"}, {"edited": 6}, True, True),
        ({"source": "mined_clips"}, {"mined_clips": 6}, False, False),
        ({"source": "mined_windows"}, {"mined_windows": 6}, False, True),  # what finds them is trained
        ({"source": "prior"}, {"prior": 6}, False, False),
        ({"source": "mixed"}, {"mined_clips": 3, "generated": 3}, True, True),
        ({"source": "mixed", "mined_share": 0.3, "mixed_with": "prior"}, {"mined_clips": 2, "prior": 4}, False, False),
        ({"source": "mixed", "mined_share": 1.0, "mixed_with": "edited"}, {"mined_clips": 6}, False, False),
        ({"source": "mixed", "mined_share": 0.0, "mixed_with": "edited"}, {"edited": 6}, True, True),
    ],
)
def test_what_a_source_draws_says_what_is_trained(
    synthesis: dict[str, object], parts: dict[str, int], adapts: bool, trains: bool
) -> None:
    config = parse(TrialConfig, {"synthesis": {"clips_per_class": 6} | synthesis, "adapt": {"rungs": [2, 4]}}, "toy")
    assert (config.synthesis.parts, config.adapts, config.trains) == (parts, adapts, trains)
    assert config.scored_rungs == ((2, 4) if adapts else (4,))
    blind = with_values(config, {"loss.contrastive": 0.0})
    assert blind.trains is adapts  # windows are cut anywhere then, which costs nothing


def test_overrides_are_yaml_values_at_dotted_paths_and_leave_the_original_alone() -> None:
    data = {"trial": {"mining": {"top_k": 1}}}
    changed = override(data, ["trial.mining.top_k=7", "trial.judge.augment=true", "trial.adapt.rungs=[1, 2]"])
    assert changed == {"trial": {"mining": {"top_k": 7}, "judge": {"augment": True}, "adapt": {"rungs": [1, 2]}}}
    assert data == {"trial": {"mining": {"top_k": 1}}}


@pytest.mark.parametrize("setting", ["top_k", "=3", "a.b.c=1", "a=[1"])
def test_an_override_that_says_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({"a": {"b": 3}}, [setting])


def test_values_over_dotted_paths_are_validated_again() -> None:
    assert with_values(TrialConfig(), {"adapt.lora.rank": 3}).adapt.lora.rank == 3
    with pytest.raises(ConfigError, match=r"adapt.lora.rank"):
        with_values(TrialConfig(), {"adapt.lora.rank": 0})
    with pytest.raises(ConfigError, match=r"no setting 'mining.topk'; did you mean 'mining.top_k'"):
        with_values(TrialConfig(), {"mining.topk": 0})


def test_every_leaf_of_a_trial_has_a_path() -> None:
    paths = leaf_paths(TrialConfig)
    assert {"mining.top_k", "adapt.lora.rank", "loss.window_rec", "synthesis.guidance", "judge.profile"} <= set(paths)
    assert field_of(TrialConfig, "mining.top_k") is int
    assert not any("test" in path for path in paths)  # METHOD section 6: no trial can name a test split


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1", "expected a mapping"), ("a: [", "not valid YAML"), ("", "expected a mapping")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(tmp_path / "a.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml")


def test_an_experiment_leaves_a_searchs_groups_alone_but_not_a_misspelt_one(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {source: {format: generated}, target: {format: generated}}\nprior: {path: p}\nbudget: {}\n")
    assert load_experiment(file, ["trial.mining.top_k=3"]).trial.mining.top_k == 3
    with pytest.raises(ConfigError, match="unknown key 'trail'; did you mean 'trial'"):
        load_experiment(file, ["trail.mining.top_k=3"])
