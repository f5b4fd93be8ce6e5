"""The search space refuses what can't be searched before anything starts, and knows the published configuration."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import optuna
import pytest

from kinemic.config import TrialConfig
from kinemic.errors import ConfigError
from kinemic.reading import with_values
from kinemic.report import MiningRanges
from search.config import SearchConfig, validate
from search.known_rows import first_rows
from search.space import (
    CategoricalDomain,
    Domain,
    FloatDomain,
    IntDomain,
    Scalar,
    contains,
    default_space,
    getattr_path,
    published_values,
    resolve_space,
    space_hash,
    suggest,
)


def config(space: dict[str, Any], **more: Any) -> SearchConfig:
    data = {"source": {"format": "generated"}, "target": {"format": "generated", "part": "target"}}
    return validate({"name": "s", "data": data, "prior": {"path": "p"}, "space": space, **more}, "s.yaml")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"mining.topk": {"type": "int", "low": 1, "high": 2}},
            "no setting 'mining.topk'; did you mean 'mining.top_k'?",
        ),
        ({"mining.top_k": {"type": "int", "low": 5, "high": 3}}, "low 5 is above high 3"),
        ({"mining.top_k": {"type": "float", "low": 1, "high": 3}}, "a setting of type int, got float; use type int"),
        ({"mining.top_k": {"type": "int", "low": 0, "high": 3}}, "mining.top_k: Input should be greater than or equal"),
        (
            {"mining.threshold": {"type": "float", "low": 0, "high": 1.5}},
            "mining.threshold: Input should be less than 1",
        ),
        ({"mining.top_k": {"type": "int", "low": 0, "high": 3, "log": True}}, "a logarithmic range needs low above 0"),
        ({"mining.top_k": {"type": "int", "low": 1, "hihg": 3}}, "unknown key 'space.mining.top_k.int.hihg'"),
        ({"adapt.batch_size": {"type": "int", "low": 1, "high": "auto"}}, "high: auto is known for"),
        (
            {"judge.profile": {"type": "categorical", "choices": ["stgcn", "temporal"]}},
            "tuning the judge is not tuning the",
        ),
        ({"judge.augment": {"type": "categorical", "choices": [True, False]}}, "tuning the judge is not tuning the"),
        (
            {"synthesis.source": {"type": "categorical", "choices": ["prior", "posterior"]}},
            "space.synthesis.source: synthesis.source: Input should be 'none', 'generated', 'edited'",
        ),
        ({"adapt.rungs": {"type": "categorical", "choices": [1, 2]}}, "every trial of a search has the same budget"),
        ({"seeds.adaptation": {"type": "int", "low": 1, "high": 3}}, "no setting 'seeds.adaptation'"),
        ({"mining": {"type": "int", "low": 1, "high": 3}}, "no setting 'mining'"),
        ({"loss.dynamic_window_weighting": {"type": "int", "low": 0, "high": 1}}, "use type categorical"),
        ({"loss.dynamic_window_weighting": {"type": "categorical", "choices": [True, 3]}}, "must all be bool"),
        (
            {"synthesis.sampler": {"type": "categorical", "choices": ["ddpm", "dpm"]}},
            "Input should be 'ddpm' or 'ddim'",
        ),
        ({"mining.top_k": {"type": "categorical", "choices": []}}, "at least 1 item"),
        ({}, "space is empty"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        config(space)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("s.yaml: ")


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"mining.min_pool": [1]}, "must be a categorical path of this space"),
        ({"synthesis.sampler": ["dpm"]}, "when synthesis.sampler is 'dpm', but its choices are"),
    ],
)
def test_a_condition_that_cannot_be_decided_is_refused(when: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(
            {
                "synthesis.sampler": {"type": "categorical", "choices": ["ddpm", "ddim"]},
                "mining.min_pool": {"type": "int", "low": 1, "high": 9},
                "synthesis.guidance": {"type": "float", "low": 1, "high": 2, "when": when},
            }
        )


def test_conditions_that_wait_for_each_other_are_refused() -> None:
    wave = {"type": "categorical", "choices": [True, False], "when": {"synthesis.sampler": ["ddpm"]}}
    sampler = {"type": "categorical", "choices": ["ddpm", "ddim"], "when": {"loss.dynamic_window_weighting": [True]}}
    with pytest.raises(ConfigError, match="wait for each other"):
        config({"loss.dynamic_window_weighting": wave, "synthesis.sampler": sampler})


def test_a_conditional_setting_is_asked_for_only_where_its_condition_holds() -> None:
    space = config(
        {
            "synthesis.guidance": {"type": "float", "low": 1, "high": 2, "when": {"synthesis.sampler": ["ddim"]}},
            "synthesis.sampler": {"type": "categorical", "choices": ["ddpm", "ddim"]},
        }
    ).space
    with_it = suggest(optuna.trial.FixedTrial({"synthesis.sampler": "ddim", "synthesis.guidance": 1.5}), space, {})
    without = suggest(optuna.trial.FixedTrial({"synthesis.sampler": "ddpm"}), space, {})
    assert with_it == {"synthesis.sampler": "ddim", "synthesis.guidance": 1.5}
    assert without == {"synthesis.sampler": "ddpm"}


@pytest.mark.parametrize(
    ("source", "more", "used"),
    [
        ("none", {}, set()),
        ("mined_clips", {}, {"mining", "clips_per_class"}),
        ("prior", {}, {"mining", "guidance", "clips_per_class"}),
        ("edited", {}, {"mining", "loss", "adapt", "guidance", "clips_per_class", "strength", "edited_from"}),
        (
            "mixed",
            {"synthesis.mixed_with": "prior"},
            {"mining", "guidance", "clips_per_class", "mixed_with", "mined_share"},
        ),
        (
            "mixed",
            {"synthesis.mixed_with": "generated"},
            {"mining", "loss", "adapt", "guidance", "clips_per_class", "mixed_with", "mined_share"},
        ),
    ],
)
def test_what_a_source_does_not_use_is_not_searched(source: str, more: dict[str, str], used: set[str]) -> None:
    space = resolve_space(config(default_space()).space, 600, "temporal")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    study.enqueue_trial({"synthesis.source": source, **more})
    values = suggest(study.ask(), space, {})
    parts = [path.split(".") for path in values]
    assert {leaf[-1] if group == "synthesis" else group for group, *leaf in parts} == used | {"source"}


def test_known_rows_come_first_as_far_as_they_lie_in_the_space() -> None:
    space = resolve_space(config(default_space()).space, 600, "temporal")
    rows = dict(first_rows(space, 600, TrialConfig()))
    assert list(rows) == ["published", "none", "mined_clips", "prior", "edited"]
    assert rows["none"] == {"synthesis.source": "none"}
    for role, values in rows.items():
        fixed = {path: value for path, value in values.items() if not contains(space[path], value)}
        assert set(fixed) == ({"adapt.learning_rate"} if role == "published" else set())
        assert suggest(optuna.trial.FixedTrial(values), space, fixed) == values
    sources = {"type": "categorical", "choices": ["generated", "prior", "edited"]}
    assert list(dict(first_rows(config({"synthesis.source": sources}).space, 600, TrialConfig()))) == [
        "published",
        "prior",
        "edited",
    ]
    guidance = {"type": "float", "low": 1, "high": 2}
    few = config({"synthesis.guidance": guidance}).space
    assert dict(first_rows(few, 600, TrialConfig())) == {"published": {"synthesis.guidance": 2.5}}
    mined = with_values(TrialConfig(), {"synthesis.source": "mined_clips"})
    ((_, values),) = first_rows(few, 600, mined)
    assert suggest(optuna.trial.FixedTrial({}), few, values) == values == {"synthesis.source": "generated"} | values


def test_the_default_space_holds_every_published_value() -> None:
    space = resolve_space(config(default_space()).space, 23_384, "published")
    published = published_values(space, 23_384)
    other = {"synthesis.mixed_with", "synthesis.mined_share", "synthesis.strength", "synthesis.edited_from"}
    assert set(published) == set(space) - other  # of other sources
    outside = [path for path, value in published.items() if not contains(space[path], value)]
    assert outside == ["adapt.learning_rate"]  # too low for few steps
    assert published["mining.top_k"] == 250
    assert all(getattr_path(TrialConfig(), path) == value for path, value in published.items())


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (IntDomain(low=1, high=5), [1, 2.0, 5], [0, 2.5, 4.999]),
        (FloatDomain(low=1, high=5), [1, 2.5, 5.0], [0.999, 6]),
        (CategoricalDomain(choices=(1, 2.5)), [1, 1.0, 2.5], [2, True]),
        (CategoricalDomain(choices=(True, "ddim")), [True, "ddim"], [1, "ddpm"]),
    ],
)
def test_a_domain_contains_what_optuna_could_propose_from_it(
    domain: Domain, inside: list[Scalar], outside: list[Scalar]
) -> None:
    assert [value for value in inside + outside if contains(domain, value)] == inside


def test_pools_go_up_to_a_tenth_of_the_source_and_the_published_pool_is_scaled_to_it() -> None:
    space = resolve_space(config(default_space()).space, 2000, "temporal")
    assert (space["mining.top_k"].low, space["mining.top_k"].high) == (4, 200)  # type: ignore[union-attr]
    assert published_values(space, 2000)["mining.top_k"] == round(250 / 23_384 * 2000) == 21
    assert published_values(space, 60)["mining.top_k"] == 4


def test_auto_follows_the_similarities_of_the_classes_at_hand() -> None:
    mining: dict[str, dict[str, object]] = {
        "mining.top_k": {"type": "int", "low": 4, "high": "auto", "log": True},
        "mining.per_caption": {"type": "int", "low": 1, "high": "auto", "log": True},
        "mining.floor": {"type": "float", "low": "auto", "high": "auto"},
    }
    ranges = MiningRanges(top_k=23, per_caption=9, floor_low=0.42, floor_high=0.87)
    space = resolve_space(config(mining).space, 5467, "temporal", ranges)
    ends = {path: (domain.low, domain.high) for path, domain in space.items() if domain.type != "categorical"}
    assert ends == {"mining.top_k": (4, 23), "mining.per_caption": (1, 9), "mining.floor": (0.42, 0.87)}
    published = published_values(space, 5467)  # lies outside, and is run all the same
    assert published == {"mining.top_k": 58, "mining.per_caption": 0, "mining.floor": 0.0}
    assert not any(contains(space[path], value) for path, value in published.items())
    with pytest.raises(ConfigError, match=r"space.mining.top_k: low 40 is above high 23, as auto and 5467 source "):
        resolve_space(config({"mining.top_k": {"type": "int", "low": 40, "high": "auto"}}).space, 5467, "s", ranges)
    floor = {"mining.floor": {"type": "float", "low": "auto", "high": "auto", "log": True}}
    with pytest.raises(ConfigError, match=r"mining.floor: a logarithmic range needs low above 0, and auto is 0"):
        resolve_space(config(floor).space, 5467, "s", replace(ranges, floor_low=0.0))
    with pytest.raises(ConfigError, match=r"loss.rec: low: auto is known for mining.floor only"):
        config({"loss.rec": {"type": "float", "low": "auto", "high": 2.0}})


def test_a_pool_range_beyond_the_source_is_clamped_and_one_wholly_beyond_is_refused() -> None:
    space = config({"mining.top_k": {"type": "int", "low": 50, "high": 900}}).space
    assert resolve_space(space, 300, "temporal")["mining.top_k"].high == 300  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="low 50 is above high 40"):
        resolve_space(space, 40, "temporal")


def test_generated_clips_stay_within_what_the_judge_takes() -> None:
    space = config(default_space()).space
    highs = [
        resolve_space(space, 900, profile)["synthesis.clips_per_class"].high for profile in ("temporal", "published")
    ]  # type: ignore[union-attr]
    assert highs == [20, 100]


def test_the_hash_names_the_ranges_and_not_their_order() -> None:
    one = {
        "synthesis.guidance": {"type": "float", "low": 1, "high": 2},
        "mining.min_pool": {"type": "int", "low": 1, "high": 2},
    }
    other = dict(reversed(one.items()))
    wider = {**one, "mining.min_pool": {"type": "int", "low": 1, "high": 3}}
    assert space_hash(config(one).space) == space_hash(config(other).space) != space_hash(config(wider).space)
