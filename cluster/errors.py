"""What can go wrong between a user and a cluster, always one line."""

from __future__ import annotations

from kinemic.errors import KinemicError


class ClusterError(KinemicError):
    """A cluster that can't be reached, refuses us, or can't run what it is given."""
