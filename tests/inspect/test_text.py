import numpy as np
import pytest

from minigrad.inspect.text import columns, described, number_of_bytes


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_400_000_000, "3.4 GB"),
    ],
)
def test_bytes_are_in_a_unit_that_fits(n, text):
    assert number_of_bytes(n) == text


def test_columns_are_as_wide_as_their_widest_cell():
    assert columns(["a", "bb"], [["xyz", "1"], ["", "23"]], right=(1,)) == "a    bb\n───  ──\nxyz   1\n     23"


def test_an_array_is_described_by_norm_and_range():
    assert described(np.array([3.0, -4.0])) == "norm 5, -4 to 3"


def test_an_empty_array_is_described_too():
    assert described(np.zeros((0, 3))) == "empty"
