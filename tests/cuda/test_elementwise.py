import numpy as np
import pytest

from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.cuda import elementwise

STEP = elementwise.STEP
SIZES = (0, 1, 3, 4, 5, 257, STEP - 1, STEP, STEP + 7)


@pytest.mark.parametrize("n", SIZES)
def test_sizes_around_vectors_and_blocks(check_kernel, rng, dtype, n):
    x, dy = rng.standard_normal((2, n)).astype(dtype)
    check_kernel("elementwise", "relu_forward", x, np.empty_like(x), ulps=0)
    check_kernel("elementwise", "relu_backward", dy, x, np.empty_like(x), ulps=0)


@pytest.mark.parametrize("n", [elementwise.SPAN, elementwise.SPAN + STEP + 3])
def test_large_arrays_take_several_vectors_to_a_thread(check_kernel, monkeypatch, rng, dtype, n):
    monkeypatch.setattr(elementwise, "LARGE", 0)
    x, dy = rng.standard_normal((2, n)).astype(dtype)
    layout = broadcast_layout((n,), (n,))[1:]
    check_kernel("elementwise", "relu_forward", x, np.empty_like(x), ulps=0)
    check_kernel("elementwise", "relu_backward", dy, x, np.empty_like(x), ulps=0)
    check_kernel("elementwise", "sub_forward", dy, x, np.empty_like(x), *layout, ulps=0)


@pytest.mark.parametrize("start", [1, 2, 4])
def test_arrays_that_do_not_begin_at_16_bytes(memory, rng, dtype, start):
    x = rng.standard_normal(29).astype(dtype)
    given, y = memory.put(x).part(start, 29), memory.put(np.full(29, 7, dtype))
    elementwise.relu_forward(given, y.part(0, 29 - start))
    np.testing.assert_array_equal(memory.get(y)[: 29 - start], np.maximum(x[start:], 0))
    assert (memory.get(y)[29 - start :] == 7).all()


def test_result_may_take_the_place_of_an_operand(memory, rng, dtype):
    a, b = rng.standard_normal((40, 8)).astype(dtype), rng.standard_normal(8).astype(dtype)
    given = memory.put(a)
    _, *layout = broadcast_layout((40, 8), (8,))
    elementwise.add_forward(given.reshape(-1), memory.put(b), given.reshape(-1), *layout)
    np.testing.assert_array_equal(memory.get(given), a + b)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(((64, 100), (100,)), 4), (((64, 100), (64, 1)), 4), (((64, 100), ()), 4), (((64, 99), (99,)), 1)],
)
def test_rows_that_are_multiples_of_four_are_read_in_vectors(shape, expected):
    _, *layout = broadcast_layout(*shape)
    unit, _ = elementwise.broadcast_plan(*layout, True)
    assert unit == expected
