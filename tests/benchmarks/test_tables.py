"""Medians, ratios and tables over rounds."""

import pytest

from benchmarks.tools import tables


def test_ratio_is_the_median_of_the_ratios_of_rounds():
    assert tables.ratio([2.0, 30.0, 9.0], [1.0, 10.0, 2.0]) == 3.0


def test_rounds_that_one_sat_out_are_left_out():
    assert tables.ratio([2.0, None, 8.0, 5.0], [1.0, 1.0, None, 1.0]) == 3.5
    assert tables.median([None, 1.0, 3.0]) == 2.0
    assert tables.spread([1.0, None, 1.0, 1.0]) == 0.0


def test_rounds_that_do_not_belong_together_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        tables.ratio([1.0, 2.0], [1.0])


def test_rates_ratios_and_errors_stand_in_one_table():
    seconds = {
        "a": {"us": [1e-6] * 3, "them": [2e-6] * 3},
        "b": {"us": [1e-3] * 3, "them": [5e-4] * 3},
        "c": {"them": [1.0]},
    }
    errors = {"a": {"us": 1e-7, "them": 3e-4}, "b": {}, "c": {}}
    text = tables.rate_table("Rates", "case", "us", seconds, dict.fromkeys(seconds, 2e6), errors)
    rows = [line.split() for line in text.splitlines()]
    assert rows[3] == ["a", "1.0", "0%", "2,000.0", "1,000.0", "2.00", "1e-07", "3e-04"]
    assert rows[4] == ["b", "1000.0", "0%", "2.0", "4.0", "0.50"]
    assert rows[5] == ["c", "0.0"]  # where ours failed, the other's rate
    assert rows[6:8] == [["geometric", "mean", "1.00"], ["lowest", "0.50"]]
