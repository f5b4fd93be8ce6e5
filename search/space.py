"""The search space: domains over dotted paths of the trial configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from kinemic.config import Frozen, TrialConfig
from kinemic.errors import ConfigError
from kinemic.report import MiningRanges

Scalar = bool | int | float | str
Conditions = dict[str, tuple[Scalar, ...]]  # values of other paths, all of which must be so
When = Conditions | tuple[Conditions, ...]  # several: any of them
Cost = Literal["cheap", "dear"]  # of changing a value alone: cheap ones leave the adapted generator as it is

AUTO = {  # the ends that may be left to the corpus, see ``resolve_space``
    "low": ("mining.floor",),
    "high": ("mining.top_k", "mining.per_caption", "mining.floor", "synthesis.clips_per_class"),
}
PUBLISHED_SOURCE_CLIPS = 23_384  # HumanML3D training clips, the source that the published top_k of 250 was chosen on
SMALLEST_POOL = 4
SOURCES = ("none", "generated", "edited", "mined_clips", "mined_windows", "prior", "mixed")
SYNTHESIS = "synthesis."  # paths that leave an adapted generator as it is


class IntDomain(Frozen):
    """Whole numbers from low to high, both included; ``high: auto`` is resolved when the corpus is known."""

    type: Literal["int"] = "int"
    low: int
    high: int | Literal["auto"]
    log: bool = False
    cost: Cost | None = None
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> IntDomain:
        _check_range(self.low, self.low if self.high == "auto" else self.high, self.log)
        return self


class FloatDomain(Frozen):
    """Real numbers from low to high, both included; ``auto`` ends are resolved when the corpus is known."""

    type: Literal["float"] = "float"
    low: float | Literal["auto"]
    high: float | Literal["auto"]
    log: bool = False
    cost: Cost | None = None
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> FloatDomain:
        if self.low != "auto":
            _check_range(self.low, self.low if self.high == "auto" else self.high, self.log)
        return self


class CategoricalDomain(Frozen):
    """One of a list of values."""

    type: Literal["categorical"] = "categorical"
    choices: tuple[Scalar, ...] = Field(min_length=1)
    cost: Cost | None = None
    when: When = Field(default_factory=dict)


Domain = Annotated[IntDomain | FloatDomain | CategoricalDomain, Field(discriminator="type")]
Space = dict[str, Domain]


class Suggests(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return a whole number."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a real number."""
        ...

    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Any:
        """Return one of the choices."""
        ...


def default_space() -> dict[str, dict[str, Any]]:
    """Return the default space as it would stand in a YAML file.

    What a source does not use is not searched with it. Left out is what has little effect in few trials, and stays what
    ``trial`` says: sampling steps (10, 25 and 50 give the same accuracy), rank, temperature, weighting of windows.
    """
    source, rest = "synthesis.source", "synthesis.mixed_with"
    adapted = [{source: ["generated", "edited"]}, {source: ["mixed"], rest: ["generated", "edited"]}]
    sampled = [{source: ["generated", "edited", "prior", "mixed"]}]
    edited = [{source: ["edited"]}, {source: ["mixed"], rest: ["edited"]}]
    mined = [{source: ["generated", "edited", "mined_clips", "mined_windows", "mixed"]}]
    mixed, any_clips = [{source: ["mixed"]}], [{source: [*SOURCES[1:]]}]

    def number(
        kind: str, low: float | str, high: float | str, when: list[dict[str, list[str]]], **more: Any
    ) -> dict[str, Any]:
        return {"type": kind, "low": low, "high": high, **more, "when": when}

    def one_of(choices: list[Any], when: list[dict[str, list[str]]]) -> dict[str, Any]:
        return {"type": "categorical", "choices": choices, "when": when}

    return {
        source: {"type": "categorical", "choices": [*SOURCES]},
        "mining.top_k": number("int", SMALLEST_POOL, "auto", mined, log=True),
        # A pool's range is about a hundredth of the source: a lower quantile than these seldom removes a clip from it.
        "mining.threshold": one_of([0.0, 0.99, 0.995, 0.998], mined),
        "mining.per_caption": one_of([0, 1, 3], mined),
        "mining.floor": number("float", "auto", "auto", any_clips),
        # Weights matter against each other, and 0 skips the work of a term, which a real number never is; all at 0 have
        # nothing to learn.
        "loss.rec": one_of([0.3, 1.0], adapted),
        "loss.window_rec": one_of([0.0, 0.3, 1.0], adapted),
        "loss.window_distill": one_of([0.0, 0.3, 1.0], adapted),
        "loss.contrastive": one_of([0.0, 0.3, 1.0], adapted),
        "adapt.diffusion_steps": number("int", 10, 100, adapted, log=True),
        "adapt.learning_rate": number("float", 1e-4, 3e-3, adapted, log=True),
        "adapt.action_start": one_of(["normal", "zero", "text"], adapted),
        "adapt.average": one_of([0.0, 0.99], adapted),
        rest: one_of(["generated", "edited", "prior"], mixed),
        "synthesis.mined_share": number("float", 0.1, 0.9, mixed),
        "synthesis.strength": number("float", 0.1, 0.9, edited),
        "synthesis.edited_from": one_of(["mined_clips", "mined_windows", "few_shots"], edited),
        "synthesis.guidance": number("float", 1.0, 5.0, sampled),
        "synthesis.clips_per_class": number("int", 4, "auto", any_clips, log=True),
    }


def resolve_space(
    space: Mapping[str, Domain], source_clips: int, profile: str, ranges: MiningRanges | None = None
) -> dict[str, Domain]:
    """Return the space with ``auto`` replaced and pools clamped to the source corpus.

    The settings of mining go as far as ``ranges`` says; without it, in a search of before there were any, ``top_k``
    goes up to a tenth of the source. Generated clips a class go up to what the judge's profile takes.
    """
    top_k = max(source_clips // 10, SMALLEST_POOL)
    ranges = ranges or MiningRanges(top_k, top_k, floor_low=0.0, floor_high=0.9)
    lows = {"mining.floor": ranges.floor_low}
    highs: dict[str, float] = {
        "mining.top_k": ranges.top_k,
        "mining.per_caption": ranges.per_caption,
        "mining.floor": ranges.floor_high,
        "synthesis.clips_per_class": 100 if profile == "published" else 20,
    }
    resolved: dict[str, Domain] = {}
    for path, domain in space.items():
        if not isinstance(domain, CategoricalDomain):
            low = lows[path] if domain.low == "auto" else domain.low
            high = highs[path] if domain.high == "auto" else domain.high
            if path == "mining.top_k":
                high = min(high, source_clips)
            if high < low:
                raise ConfigError(
                    f"space.{path}: low {low} is above high {high}, as auto and {source_clips} source clips make them; "
                    "give both ends numbers that fit"
                )
            if domain.log and low <= 0:
                raise ConfigError(
                    f"space.{path}: a logarithmic range needs low above 0, and auto is {low}; leave log out"
                )
            domain = domain.model_copy(update={"low": low, "high": high})
        resolved[path] = domain
    return resolved


def space_hash(space: Mapping[str, Domain]) -> str:
    """Return eight hexadecimal digits that name a resolved space; the order of its paths does not matter."""
    data = {path: domain.model_dump(mode="json", exclude={"cost"}) for path, domain in sorted(space.items())}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


def published_values(space: Mapping[str, Domain], source_clips: int) -> dict[str, Scalar]:
    """Return the published value of every searched path (METHOD section 7), as far as its conditions hold.

    ``mining.top_k`` is scaled to the source, round(250 / 23384 * N) and at least 4; at the published size it is 250.
    """
    published = TrialConfig()
    values: dict[str, Scalar] = {}
    for path, domain in ordered(space):
        if not active(domain, values):
            continue
        value = getattr_path(published, path)
        if path == "mining.top_k":
            value = scaled_top_k(source_clips)
        values[path] = value
    return values


def scaled_top_k(source_clips: int) -> int:
    """Return the published pool size at a source's own size: the same share of its clips, and at least 4."""
    share = TrialConfig().mining.top_k / PUBLISHED_SOURCE_CLIPS
    return max(round(share * source_clips), SMALLEST_POOL)


def contains(domain: Domain, value: Scalar) -> bool:
    """Return whether a value lies in a resolved domain; in an integer one only whole numbers do."""
    if isinstance(domain, CategoricalDomain):
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in domain.choices)
    assert not isinstance(domain.low, str)
    assert not isinstance(domain.high, str)
    assert not isinstance(value, str)
    whole = isinstance(domain, FloatDomain) or value == int(value)
    return whole and domain.low <= value <= domain.high


def suggest(trial: Suggests, space: Mapping[str, Domain], fixed: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Ask an Optuna trial for the value of every active path of a resolved space; ``fixed`` ones are taken as given."""
    values: dict[str, Scalar] = {path: value for path, value in fixed.items() if path not in space}
    for path, domain in ordered(space):
        if path in fixed:
            values[path] = fixed[path]
        elif not active(domain, values):
            continue
        elif isinstance(domain, CategoricalDomain):
            values[path] = trial.suggest_categorical(path, domain.choices)
        elif isinstance(domain, FloatDomain):
            assert domain.low != "auto"
            assert domain.high != "auto"
            values[path] = trial.suggest_float(path, domain.low, domain.high, log=domain.log)
        else:
            assert domain.high != "auto"
            values[path] = trial.suggest_int(path, domain.low, domain.high, log=domain.log)
    return values


def active(domain: Domain, values: Mapping[str, Scalar]) -> bool:
    """Return whether the conditions of a domain hold, any set of them; children of an inactive parent are inactive."""
    return any(
        all(parent in values and values[parent] in allowed for parent, allowed in conditions.items())
        for conditions in alternatives(domain)
    )


def alternatives(domain: Domain) -> tuple[Conditions, ...]:
    """Return the sets of conditions of which one must hold."""
    return (domain.when,) if isinstance(domain.when, dict) else domain.when


def parents(domain: Domain) -> set[str]:
    """Return the paths that the conditions of a domain name."""
    return {parent for conditions in alternatives(domain) for parent in conditions}


def ordered(space: Mapping[str, Domain]) -> Iterator[tuple[str, Domain]]:
    """Yield the paths so that every one comes after those that its conditions name."""
    done: set[str] = set()
    while len(done) < len(space):
        ready = [path for path, domain in space.items() if path not in done and parents(domain) <= done]
        if not ready:
            raise ConfigError(f"space: the conditions of {sorted(set(space) - done)} wait for each other")
        for path in ready:
            yield path, space[path]
        done |= set(ready)


def cost_of(path: str, domain: Domain) -> Cost:
    """Return what changing a path alone costs: as its domain says, else cheap where it is about synthesis alone."""
    return domain.cost or ("cheap" if path.startswith(SYNTHESIS) else "dear")


def dear_paths(space: Mapping[str, Domain]) -> set[str]:
    """Return the paths that trials of one adapted generator have in common: dear ones and what these depend on."""
    dear = [path for path, domain in space.items() if cost_of(path, domain) == "dear"]
    for path in dear:
        dear.extend(parent for parent in parents(space[path]) if parent not in dear)
    return set(dear)


def getattr_path(config: Frozen, path: str) -> Any:
    """Return the value at a dotted path of a configuration."""
    node: Any = config
    for part in path.split("."):
        node = getattr(node, part)
    return node


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range needs low above 0, got {low}")
