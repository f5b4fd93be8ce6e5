"""Tune's view of the study: it asks for the next trial and hands out interrupted ones first."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from search.ledger import Ledger


class StudySearcher(Searcher):  # type: ignore[misc]
    """A Tune searcher over a ledger. Results reach the study through the scheduler, so this one only suggests."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that is never done here; the study's connection can't travel.
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's configuration, None while none may start, or FINISHED when the search is over.

        Raises SearchStoppedError, which ends Tune too.
        """
        if self._ledger.finished:
            return Searcher.FINISHED
        assignment = self._ledger.next()
        if assignment is None:
            return None
        share = {"cpus": assignment.share.cpus, "gpus": assignment.share.gpus}
        return {"number": assignment.number, "values": assignment.values, "share": share}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: the study already knows."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is durable, and a resumed search starts a new Tuner over it."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see ``save``."""
