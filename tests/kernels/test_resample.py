"""The kernels that sample images anew, of every target, against the reference."""

import numpy as np
import pytest
from targets import on_cpu, on_cuda

# images, first rows, their numbers of weights, the same of columns
CASES = {
    "one pixel": ((1, 1, 1, 1), [0], [1], [0], [1]),
    "larger": ((2, 3, 4, 4), [0, 0, 1, 1, 2], [1, 2, 1, 2, 1], [0, 1, 1, 2, 3, 3], [2, 1, 2, 1, 1, 1]),
    "smaller, with gaps": ((2, 6, 7, 3), [0, 4], [3, 2], [1, 0, 5], [2, 0, 1]),
}
CUDA = {
    "fours, several tiles": ((1, 3, 9, 8), [0, 1], [2, 2], [*range(9), *range(9), 0], [1] * 19),
    "several tiles of channels": ((1, 2, 2, 36), [0, 0], [2, 1], [0, 1], [2, 0]),
}
CPU = {
    "33 channels": ((1, 5, 6, 33), [0, 2], [3, 3], [0, 4], [5, 2]),
    "large": ((9, 12, 12, 40), [0, 6], [6, 6], [0, 6], [6, 6]),
}
ALL = {**CASES, **CUDA, **CPU}


def arguments(name, rng, dtype):
    (n, h, w, c), rows, row_counts, columns, column_counts = ALL[name]
    tables = []
    for firsts, counts in ((rows, row_counts), (columns, column_counts)):
        places = np.cumsum([0, *counts])[:-1]
        tables.append(np.array([*zip(firsts, counts, places, strict=True)], np.int64))
        tables.append(rng.standard_normal(max(1, sum(counts))).astype(dtype))
    x, y = rng.standard_normal((n, h, w, c)).astype(dtype), np.full((n, len(rows), len(columns), c), np.nan, dtype)
    return x, *tables, y


@pytest.mark.parametrize("name", [*CASES, *on_cpu(*CPU), *on_cuda(*CUDA)])
def test_matches_reference(check_kernel, rng, dtype, name):
    check_kernel("resample", "resample", *arguments(name, rng, dtype), parallel=name == "large", ulps=12)


def test_nan_reaches_what_is_made_of_it_alone(check_kernel, rng, dtype):
    x, *tables, y = arguments("larger", rng, dtype)
    x[0, 0, 0, 1] = np.nan
    *_, y = check_kernel("resample", "resample", x, *tables, y, ulps=12)
    lost = np.zeros(y.shape, bool)
    lost[0, :2, :1, 1] = True
    np.testing.assert_array_equal(np.isnan(y), lost)
