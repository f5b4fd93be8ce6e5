"""The hyper-parameter search: Ray Tune runs Optuna trials of the method and MLflow keeps what they found.

From Python: ``search.run(config)`` and ``search.result(name)``, both a ``SearchResult``; see ``docs/python.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.api import SearchResult, result, run

__all__ = ["SearchResult", "result", "run"]


def __getattr__(name: str) -> Any:
    """Import the API on use: Ray, Optuna and MLflow take seconds, and the command line reads configurations alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from search import api

    return getattr(api, name)
