"""A search space is checked against the trial configuration that it varies, before anything starts."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from kinemic.config import TrialConfig
from kinemic.errors import ConfigError
from kinemic.reading import field_of, with_values
from search.space import AUTO, SYNTHESIS, CategoricalDomain, Domain, Scalar, alternatives, getattr_path, ordered

# Never searched: tuning the judge is not tuning the generator, and trials of different budgets can't be compared.
_REFUSED = {
    "judge": "tuning the judge is not tuning the generator",
    "adapt.rungs": "every trial of a search has the same budget; set trial.adapt.rungs instead",
}


def check_space(space: Mapping[str, Domain], base: TrialConfig, where: str) -> None:
    """Check a space against the trial configuration it varies.

    Raises ConfigError for a path that doesn't exist or is not to be searched, a domain of the wrong type, an end or a
    choice that gives no valid configuration, and a condition that can't be decided.
    """
    for path, domain in space.items():
        here = f"{where}: space.{path}"
        for root, reason in _REFUSED.items():
            if path == root or path.startswith(f"{root}."):
                raise ConfigError(f"{here} cannot be searched: {reason}")
        _check_type(path, domain, here)
        for value in _corners(domain):
            if getattr_path(with_values(base, {path: value}, here), path) != value:
                raise ConfigError(f"{here}: {value!r} is not a value of this setting")
        _check_auto(path, domain, here)
        _check_cost(path, domain, here)
        _check_conditions(path, space, here)


def _check_type(path: str, domain: Domain, here: str) -> None:
    try:
        annotation = field_of(TrialConfig, path)
    except ConfigError as error:
        raise ConfigError(f"{here}: {error}") from error
    if isinstance(domain, CategoricalDomain):
        if annotation in (bool, int, float) and any(not _fits(annotation, choice) for choice in domain.choices):
            raise ConfigError(f"{here}: choices {list(domain.choices)} must all be {annotation.__name__}")
        return
    allowed = {int: ("int",), float: ("int", "float")}.get(annotation, ())
    if domain.type not in allowed:
        name = getattr(annotation, "__name__", None) or " or ".join(map(str, typing.get_args(annotation)))
        use = f"use type {allowed[0]}" if allowed else "use type categorical"
        raise ConfigError(f"{here}: expected a domain for a setting of type {name}, got {domain.type}; {use}")


def _fits(annotation: type, choice: Scalar) -> bool:
    if annotation is float:
        return isinstance(choice, int | float) and not isinstance(choice, bool)
    return type(choice) is annotation


def _corners(domain: Domain) -> list[Scalar]:
    if isinstance(domain, CategoricalDomain):
        return list(domain.choices)
    return [end for end in (domain.low, domain.high) if not isinstance(end, str)]


def _check_auto(path: str, domain: Domain, here: str) -> None:
    for end, known in AUTO.items():
        if getattr(domain, end, None) == "auto" and path not in known:
            raise ConfigError(f"{here}: {end}: auto is known for {', '.join(known)} only; give a number")


def _check_cost(path: str, domain: Domain, here: str) -> None:
    if domain.cost == "cheap" and not path.startswith(SYNTHESIS):
        raise ConfigError(f"{here}: cost is cheap, but what it changes must be adapted again; leave cost out")


def _check_conditions(path: str, space: Mapping[str, Domain], here: str) -> None:
    named = [pair for conditions in alternatives(space[path]) for pair in conditions.items()]
    for parent, allowed in named:
        domain = space.get(parent)
        if not isinstance(domain, CategoricalDomain):
            raise ConfigError(f"{here}: when names {parent!r}, which must be a categorical path of this space")
        strange = [value for value in allowed if value not in domain.choices]
        if strange:
            raise ConfigError(f"{here}: when {parent} is {strange[0]!r}, but its choices are {list(domain.choices)}")
    list(ordered(space))
