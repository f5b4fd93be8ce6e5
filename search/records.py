"""What MLflow is given of a rung, of a parameter and of a file of rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kinemic.report import RungReport, mean


def rung_metrics(report: RungReport, seconds: float) -> dict[str, float]:
    """Return a rung as metrics; ``seconds`` are those of the trial until here."""
    sizes = report.pool_sizes
    metrics = {
        "dev_accuracy": report.dev_accuracy,
        "dev_accuracy_se": math.nan if report.dev_accuracy_se is None else report.dev_accuracy_se,
        "steps": float(report.steps),
        "seconds": seconds,
        "seconds_reused": sum(report.reused.values()),
        "peak_memory_mb": report.peak_memory_mb,
        "pool_fallbacks": float(report.pool_fallbacks),
    }
    metrics |= {key: value for key, value in _of_probabilities(report).items() if value is not None}
    if sizes:
        metrics |= {"pool_size_min": float(min(sizes)), "pool_size_mean": sum(sizes) / len(sizes)}
        metrics |= {"pool_size_max": float(max(sizes)), "pools_empty": float(sizes.count(0))}
    metrics |= report.diagnostics
    metrics |= {f"accuracy_seed_{i}": value for i, value in enumerate(report.accuracies)}
    metrics |= {f"loss_{key}": value for key, value in report.losses.items()}
    metrics |= {f"seconds_{key}": value for key, value in report.seconds.items()}
    return metrics


def _of_probabilities(report: RungReport) -> dict[str, float | None]:
    return {
        "dev_log_likelihood": mean(report.log_likelihoods) if report.log_likelihoods else None,
        "dev_log_likelihood_ensemble": report.log_likelihood_ensemble,
        "dev_brier": mean(report.briers) if report.briers else None,
        "dev_brier_ensemble": report.brier_ensemble,
    }


def as_table(path: Path) -> dict[str, list[Any]] | None:
    """Return a JSON file of rows in the form that MLflow's page shows as a table; None for anything else."""
    if path.suffix != ".json":
        return None
    try:
        rows = json.loads(path.read_text())
    except ValueError:
        return None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "data": [[_cell(row.get(key)) for key in columns] for row in rows]}


def _cell(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " | ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def readable(value: Any) -> str:
    """Return a parameter as it is read, floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
