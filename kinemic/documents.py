"""YAML and JSON as people write and damage them: read strictly, within bounds, every problem one line.

YAML is read so that YAML 1.1, YAML 1.2 and a reader who knows neither agree: what they would read differently is an
error that says how to write it. There are no anchors, aliases, merge keys and tags, so a file is never larger in memory
than on disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from kinemic.errors import DataError

Result = TypeVar("Result")

LARGEST: Final = 1_000_000  # bytes of a YAML file; one that describes a search has a few thousand
_DEEPEST: Final = 32  # levels; a search's configuration has six
_LARGEST_INTEGER: Final = 2**63 - 1
_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS: Final = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}
_SWITCH = re.compile(r"(?i:yes|no|on|off)")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"(?i:[-+]?\.inf|\.nan)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_BASE = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|b[01_]+|o[0-7_]+)")
_GROUPED = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def parse_yaml(text: str) -> Any:
    """Return the one document of a YAML text as dicts, lists and scalars; keys are text as they are written.

    Raises ValueError with one line that names the place, what came, and how to write it.
    """
    try:
        return _Reader(yaml.parse(text, Loader=_PARSER)).document()
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid YAML: {_NOT_TEXT}") from error


def dump_yaml(value: Any) -> str:
    """Return plain values as YAML that ``parse_yaml`` reads back as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds.

    Raises ValueError, in one line, also for a key that comes twice in an object, NaN and infinities, deep nesting and
    characters that no text can hold.
    """
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(plain, object_pairs_hook=_object, parse_constant=_no_constant)
        if "\\u" in plain:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("not valid JSON: it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid JSON: {_NOT_TEXT}") from error
    return value


def load_result(path: Path, model: type[Result], remedy: str) -> Result | None:
    """Read a JSON file of results as ``model`` (a dataclass or a pydantic model), None where there is no such file.

    Raises DataError, one line that names the file, the first problem and the ``remedy``, for a damaged one.
    """
    try:
        return read_result(path.read_bytes(), model)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())[:200]}); {remedy}") from error


def read_result(text: str | bytes, model: type[Result]) -> Result:
    """Return a JSON text as ``model``. Raises ValueError, in one line."""
    return validate_result(parse_json(text), model)


def validate_result(value: Any, model: type[Result]) -> Result:
    """Return plain values as ``model``. Raises ValueError, in one line that names the first problem's place."""
    try:
        found: Result = _adapter(cast(Any, model)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the top"
        raise ValueError(f"{place}: {problem['msg']}") from error
    return found


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as a number, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never point at what was written before."""
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """Represent text."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, "'" if _NUMBER.fullmatch(data) else None)


_Dumper.add_representer(str, _Dumper.text)


class _Reader:
    """Turns a parser's events into values."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = (event for event in events if not isinstance(event, yaml.StreamStartEvent))

    def document(self) -> Any:
        """Return the only document; None where there is none."""
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 1)
        next(self.events)
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise ValueError(f"{_line(after)}: a second document begins; keep one")
        return value

    def value(self, event: Any, depth: int) -> Any:
        """Return the value that begins with ``event``."""
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ValueError(f"{_line(event)}: anchors (&) and aliases (*) are not read; write the value out")
        if event.tag is not None:
            raise ValueError(f"{_line(event)}: tags ({event.tag}) are not read; text goes in quotes")
        if depth > _DEEPEST:
            raise ValueError(f"{_line(event)}: more than {_DEEPEST} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        return self.mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self.sequence(depth)

    def sequence(self, depth: int) -> list[Any]:
        """Return a list up to its end."""
        found = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            found.append(self.value(event, depth + 1))
        return found

    def mapping(self, depth: int) -> dict[str, Any]:
        """Return a mapping up to its end."""
        found: dict[str, Any] = {}
        lines: dict[str, str] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event)
            if key in found:
                raise ValueError(f"{_line(event)}: the key {key!r} was there before, in {lines[key]}; keep one")
            lines[key] = _line(event)
            found[key] = self.value(next(self.events), depth + 1)
        return found

    def key(self, event: Any) -> str:
        """Return a key as it is written, whatever it would be as a value."""
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
            raise ValueError(f"{_line(event)}: expected a name as key")
        if event.value == "<<" and not event.style:
            raise ValueError(f"{_line(event)}: merge keys (<<) are not read; write the values out")
        return _text(event)


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = _text(event)
    if event.style:  # quoted, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _SWITCH.fullmatch(text):
        switch = "true" if text.lower() in ("yes", "on") else "false"
        raise ValueError(f'{_line(event)}: {text} is text to some and {switch} to others; write "{text}", or {switch}')
    if _LEADING_ZERO.fullmatch(text):
        plain = int(text.replace("_", ""))
        raise ValueError(f'{_line(event)}: {text} is octal to some; write {plain}, or "{text}" for text')
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or abs(int(text)) > _LARGEST_INTEGER:
            raise ValueError(f"{_line(event)}: {text[:20]}... is too large a number")
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    if _NO_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    if _BASE.fullmatch(text) or _GROUPED.fullmatch(text) or _SEXAGESIMAL.fullmatch(text):
        raise ValueError(f'{_line(event)}: {text} is a number to some; write it in digits, or "{text}" for text')
    return text


def _text(event: yaml.ScalarEvent) -> str:
    text = str(event.value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{_line(event)}: {_NOT_TEXT}")
    return text


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice; keep one")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_NOT_TEXT: Final = "holds characters that no text has (surrogates or NUL)"
