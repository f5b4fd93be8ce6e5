"""The tags of a search's runs in MLflow, by which they are found."""

from __future__ import annotations

# "study", because searches of before identities were tracked under their study's name, and are found again.
IDENTITY_TAG = "kinemic.study"
TRIAL_TAG, ROLE_TAG = "kinemic.trial", "kinemic.role"
STATE_TAG, FAILURE_TAG, DEVICE_TAG = "kinemic.state", "kinemic.failure", "kinemic.device"
LEADER_TAG, WARNINGS_TAG = "kinemic.variant_of", "kinemic.warnings"
BEST_TAG, CONFIRMED_TAG = "kinemic.best_trial", "kinemic.confirmed"  # of the search's own run


def runs_where(identity: str, tag: str, value: str) -> str:
    """Return MLflow's filter for those runs of a search whose ``tag`` has this value."""
    return f"tags.`{IDENTITY_TAG}` = '{identity}' and tags.`{tag}` = '{value}'"
