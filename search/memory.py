"""Workers that Ray kills because their node runs out of memory: Tune does not know that error and would end with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError


class KilledForMemoryError(RayActorError):  # type: ignore[misc]
    """The death of an actor that Ray's memory monitor has killed."""


@contextmanager
def kills_as_actor_deaths() -> Iterator[None]:
    """Let Tune meet such a kill as the actor's death that it is, which fails one trial and not the search.

    Ray raises an error of its own for it, and Tune's actor manager takes no other than those of actors and tasks.
    """
    names = ("_actor_start_failed", "_actor_task_failed")
    own = {name: getattr(RayActorManager, name) for name in names}
    for name in names:
        setattr(RayActorManager, name, _translated(own[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(RayActorManager, name, own[name])


def _translated(handle: Any) -> Any:
    def failed(manager: Any, *, exception: Exception, **tracked: Any) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = KilledForMemoryError(error_msg=str(exception))
        handle(manager, exception=exception, **tracked)

    return failed
