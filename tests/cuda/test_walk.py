import numpy as np
import pytest
from numba import types

from minigrad.kernels.axes import merged, positions
from minigrad.kernels.cuda.parts import walk
from minigrad.kernels.cuda.tools import choices, simulator


def in_python(function):
    """A device function on NumPy's scalars."""
    return choices.rebuilt(function, lambda value: simulator.SCALARS[value] if isinstance(value, types.Type) else value)


DIVISORS = [2, 3, 4, 5, 7, 10, 641, 1 << 16, 65537, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1]


@pytest.mark.parametrize("d", DIVISORS)
def test_division_by_a_reciprocal_is_exact(rng, d):
    multiplier, shift = map(np.uint32, walk.reciprocal(d))
    near = [k * d + e for k in (1, 2, (1 << 32) // d) for e in (-1, 0, 1)]
    for i in [0, 1, *near, (1 << 32) - 1, *rng.integers(0, 1 << 32, 50).tolist()]:
        if i < 1 << 32:
            assert in_python(walk.divided)(np.uint32(i), multiplier, shift) == i // d


LAYOUTS = [
    ((1, 1, 1, 1, 1, 1), (0,) * 6, (0,) * 6),
    ((1, 1, 1, 1, 1, 7), (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 2)),
    ((1, 1, 1, 1, 3, 5), (0, 0, 0, 0, 5, 1), (0, 0, 0, 0, 1, 3)),
    ((1, 1, 1, 4, 3, 5), (0, 0, 0, 15, 5, 1), (0, 0, 0, 0, 1, 3)),
    ((2, 3, 2, 4, 3, 5), (360, 120, 60, 15, 5, 1), (1, 2, 6, 12, 48, 144)),
    ((2, 3, 1, 4, 1, 5), (-60, 20, 0, -5, 0, -1), (0, 5, 0, 0, 0, 1)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@np.errstate(over="ignore")
def test_a_walk_meets_the_elements_in_order(layout):
    shape, *strides = layout
    rank, *layouts, steps = walk.walk(merged(shape, *strides) or [[1, 0, 0]])
    unsigned = [tuple(map(np.uint32, each)) for each in (*layouts, *steps)]
    way = walk.Walk(np.uint32(rank), *unsigned[:3], unsigned[3:])
    step = in_python(walk.both_positions)
    found = [step(np.uint32(i), way) for i in range(int(np.prod(shape)))]
    for mine, expected in zip(zip(*found, strict=True), (positions(shape, s) for s in strides), strict=True):
        np.testing.assert_array_equal(np.array(mine, np.uint32).astype(np.int32), expected)
