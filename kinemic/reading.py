"""Reading a YAML file into a configuration, with errors of one line that name the key and the nearest known one."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kinemic.config import ExperimentConfig, Reader, TextConfig, TrialConfig
from kinemic.documents import LARGEST, parse_yaml
from kinemic.errors import ConfigError
from kinemic.quoting import has_control, texts

Model = TypeVar("Model", bound=BaseModel)

_DEEPEST = 10  # groups in a path


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, as ``documents.parse_yaml`` does.

    Raises ConfigError where the file is missing, too large, no YAML without surprises, or not a mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: larger than {LARGEST:,} bytes; give the YAML file of an experiment")
        data = parse_yaml(content.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top, got {type(data).__name__}")
    return data


def parse(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """Validate ``data`` as ``model``; ``where`` (a file name) starts the message.

    Raises ConfigError with one line: the key's path in the file, what came, what was expected, the nearest known key.
    """
    for path, text in texts(data):
        if has_control(text):
            raise ConfigError(f"{where}: {path}: {text!r} holds a line break or another control character")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(model, error)}") from error


def load_experiment(path: Path, settings: Sequence[str] = ()) -> ExperimentConfig:
    """Read the groups of a YAML file that describe an experiment; a search's own top-level groups are left alone.

    Raises ConfigError as ``parse`` does, also for a top-level key that looks like a misspelt group.
    """
    data = override(load_yaml(path), settings)
    known = set(ExperimentConfig.model_fields)
    for key in data.keys() - known:
        if difflib.get_close_matches(str(key), known, n=1, cutoff=0.8):
            raise ConfigError(f"{path}: unknown key {key!r}{_nearest(str(key), sorted(known))}")
    return parse(ExperimentConfig, {key: value for key, value in data.items() if key in known}, str(path))


def override(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return a copy of ``data`` with ``path=value`` settings applied; values are YAML. Raises ConfigError."""
    result = _deep_copy(data)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting}: expected path=value, for example budget.trials=4")
        *parents, leaf = path.split(".")
        if len(parents) > _DEEPEST:
            raise ConfigError(f"--set {path[:40]}...: no setting is {len(parents)} levels deep")
        node = result
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {setting}: {part} is a value, not a group; it has no key {leaf}")
            node = child
        try:
            node[leaf] = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set {setting}: {error}") from error
    return result


def with_values(config: TrialConfig, values: Mapping[str, Any], where: str = "trial") -> TrialConfig:
    """Return ``config`` with dotted paths replaced, validated again. Raises ConfigError for an unknown path."""
    data = config.model_dump()
    for path, value in values.items():
        field_of(TrialConfig, path)
        *parents, leaf = path.split(".")
        node = data
        for part in parents:
            node = node[part]
        node[leaf] = value
    return parse(TrialConfig, data, where)


def field_of(model: type[BaseModel], path: str) -> Any:
    """Return the annotation of a dotted path's leaf. Raises ConfigError naming the nearest known path."""
    known = leaf_paths(model)
    if path not in known:
        raise ConfigError(f"no setting {path!r}{_nearest(path, list(known))}")
    return known[path]


def leaf_paths(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return every dotted path of a configuration that holds a value, with its annotation."""
    paths: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            paths |= leaf_paths(kind, f"{prefix}{name}.")
        else:
            paths[prefix + name] = kind
    return paths


def _deep_copy(node: dict[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, dict) else value for key, value in node.items()}


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = problem["loc"]
    keys = [str(part) for i, part in enumerate(location) if i == 0 or (location[i - 1], part) not in _TAGS]
    path = ".".join(keys) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}{_nearest(keys[-1], _known_keys(model, problem['loc'][:-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{path} is missing; it has no default"
    if problem["type"] in ("string_type", "path_type") and not isinstance(problem["input"], dict | list):
        return (
            f"{path}: expected text, got {json.dumps(problem['input'], default=repr)}; to mean text, put it in quotes"
        )
    shown = repr(problem["input"])
    return f"{path}: {message}" + (f", got {shown}" if len(shown) < 80 and problem["type"] != "value_error" else "")


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys known at a location; union tags (the discriminator's value) name the member to go into."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        fields = [c.model_fields[part].annotation for c in candidates if part in c.model_fields]
        found = [m for annotation in fields for m in _models_in(annotation)]
        tagged = [c for c in candidates if any(part == f.default for f in c.model_fields.values())]
        candidates = found or tagged or candidates
    return sorted({key for c in candidates for key in c.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in typing.get_args(annotation) for m in _models_in(argument)]


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


# The members of these unions are told apart by a tag, which pydantic puts into locations after the union's own key; the
# file has no such key, but a key of that name may be in it elsewhere.
_TAGS = {
    (name, member.model_fields[key].default)
    for name, key, union in (
        ("source", "format", Reader),
        ("target", "format", Reader),
        ("text", "encoder", TextConfig),
    )
    for member in _models_in(union)
}
