"""Medians and ratios over rounds."""

import pytest

from benchmarks.comparison import tables


def test_ratio_is_the_median_of_the_ratios_of_rounds():
    assert tables.ratio([2.0, 30.0, 9.0], [1.0, 10.0, 2.0]) == 3.0


def test_rounds_that_one_sat_out_are_left_out():
    assert tables.ratio([2.0, None, 8.0, 5.0], [1.0, 1.0, None, 1.0]) == 3.5
    assert tables.median([None, 1.0, 3.0]) == 2.0
    assert tables.spread([1.0, None, 1.0, 1.0]) == 0.0


def test_rounds_that_do_not_belong_together_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        tables.ratio([1.0, 2.0], [1.0])
