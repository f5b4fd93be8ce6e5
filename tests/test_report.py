"""Means, standard errors and reports as values."""

from __future__ import annotations

import pytest

from kinemic.report import RungReport, mean, shown, standard_error


def report(*accuracies: float) -> RungReport:
    return RungReport(0, 5, 10, accuracies, {"rec": 0.5}, {"adapt": 1.0}, (3, 4), 0, "cpu", 0.0)


def test_the_standard_error_is_the_sample_deviation_over_the_root_of_n() -> None:
    assert mean((0.5, 0.7, 0.9)) == pytest.approx(0.7)
    assert standard_error((0.5, 0.7, 0.9)) == pytest.approx(0.2 / 3**0.5)


def test_the_error_of_one_value_is_unknown_not_zero() -> None:
    assert standard_error((0.5,)) is None
    assert report(0.5).dev_accuracy_se is None
    assert shown(report(0.5).dev_accuracy_se, 3) == "?"
    assert shown(report(0.5, 0.7).dev_accuracy_se, 3) == "0.100"


def test_a_report_is_read_as_it_was_written() -> None:
    assert RungReport.from_json(report(0.25, 0.75).to_json()) == report(0.25, 0.75)
