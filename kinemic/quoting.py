"""Text for shells and terminals: commands that can be pasted as they are, control characters made visible."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

# Of ASCII and Latin-1, line and paragraph separators, and half of a surrogate pair: a byte of a path that is no text.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def command_line(*words: object) -> str:
    """Return a command as one line that a shell splits into exactly these words."""
    return shlex.join(map(str, words))


def has_control(text: str) -> bool:
    """Return whether a text holds a line break or another control character."""
    return _CONTROL.search(text) is not None


def texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in plain values, mappings and lists, with the dotted path of its key."""
    if isinstance(node, str | Path):
        yield path, str(node)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from texts(value, path)


def without_control(text: str) -> str:
    """Return a text without its control characters, but for line breaks."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else "", text)


def printable(text: str, keep: str = "") -> str:
    """Return a text whose control characters, but for those in ``keep``, are escaped: they would steer a terminal."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)
