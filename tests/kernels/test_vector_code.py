"""The language that micro-kernels are written in: loops, branches, choices and comparisons, as they come out compiled."""

import functools

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba.core import types

from minigrad.kernels.cpu.vector import code
from minigrad.kernels.cpu.vector.code import INDEX, micro_kernel, vector_lanes
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.values import Value, where


@micro_kernel()
def write_sum_of_numbers(code, count, target):
    for row in code.loop(count, total=code.index(0)):
        row.total += row.number
    code.builder.store(row.total.registers[0], code.pointer(target, INDEX))


@micro_kernel()
def write_what_is_larger(code, a, b, target):
    with code.only_if(a < b, larger=a) as then:
        then.larger = b
    code.builder.store(then.larger.registers[0], code.pointer(target, INDEX))


def first_that_holds(code, call, number):
    for case in code.first_case({2: number < 2, 5: number < 5, 9: True}):
        call(case=case)


@micro_kernel(first_that_holds)
def write_case(code, target, *, case):
    code.builder.store(code.index(case).registers[0], code.pointer(target, INDEX))


@micro_kernel()
def write_tuple_and_none(code, pair, nothing, target):
    assert nothing is None
    first, second = pair
    code.builder.store((first * 10 + second).registers[0], code.pointer(target, INDEX))


@micro_kernel()
def cut_off_below_zero(code, x, count):
    mask = code.first_lanes(count)
    value = code.load(x, mask)
    code.store(where(value <= 0, 0, value), x, mask)


@micro_kernel()
def write_first_lanes(code, x, y, count):
    code.store(code.load(x), y, code.first_lanes(count))


@micro_kernel()
def write_lanes_of_the_upper_half(code, x, y, count):
    code.store(code.load(x), y, code.first_lanes(count, code.lanes // 2))


@micro_kernel()
def write_first_lanes_as_bytes(code, x, y, count):
    code.store(code.load(x, stored=types.uint8), y, code.first_lanes(count), stored=types.uint8)


def compiled(micro_kernel):
    """A function of integers that gives what the micro-kernel writes."""

    @numba.njit
    def run(*arguments):
        target, like = np.full(1, -1, np.int64), np.empty(0, np.float32)
        micro_kernel(like.dtype, *arguments, target.ctypes.data)
        return target[0]

    return run


def test_loop_may_be_empty_and_keeps_what_it_carries():
    run = compiled(write_sum_of_numbers)
    assert [run(count) for count in (0, 1, 2, 5)] == [0, 0, 1, 10]


def test_branch_changes_what_it_carries_only_if_it_is_taken():
    run = compiled(write_what_is_larger)
    assert [run(*pair) for pair in ((1, 2), (2, 1), (3, 3), (-1, -2))] == [2, 2, 3, -1]


def test_first_case_that_holds_is_run():
    run = compiled(write_case)
    assert [run(number) for number in (1, 2, 4, 5, 100)] == [2, 5, 5, 9, 9]


def test_tuples_and_none_are_arguments():
    assert compiled(write_tuple_and_none)((4, 2), None) == 42


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masked_lanes_are_left_alone_and_nan_is_not_less(dtype):
    @numba.njit
    def run(x, count):
        cut_off_below_zero(x.dtype, x.ctypes.data, count)
        return vector_lanes(x.dtype)

    lanes = run(np.zeros(64, dtype), 0)
    x = np.full(lanes, -1, dtype)
    x[0] = np.nan
    run(x, lanes - 1)
    np.testing.assert_array_equal(x, [np.nan, *[0] * (lanes - 2), -1])


@pytest.mark.parametrize("has_masks", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stores_of_some_lanes_write_no_others(dtype, has_masks, monkeypatch):
    monkeypatch.setattr(code, "HAS_MASKS", has_masks)

    def writer(micro_kernel):
        @numba.njit
        def run(like, x, y, count):
            micro_kernel(like.dtype, x.ctypes.data, y.ctypes.data, count)
            return y

        return functools.partial(run, np.empty(0, dtype))

    lanes = REGISTER_BITS // 8 // np.dtype(dtype).itemsize
    numbers = np.arange(lanes)
    x = numbers + 1
    for kernel, kind, first, most in (
        (write_first_lanes, dtype, 0, lanes),
        (write_first_lanes_as_bytes, np.uint8, 0, lanes),
        (write_lanes_of_the_upper_half, dtype, lanes // 2, lanes // 2),
    ):
        write = writer(kernel)
        for count in range(most + 1):
            y = write(x.astype(kind), np.zeros(lanes, kind), count)
            np.testing.assert_array_equal(y, x * (first <= numbers) * (numbers < first + count))


def test_truth_of_a_value_is_an_error():
    value = Value(ir.IRBuilder(), ir.Constant(INDEX, 1))
    with pytest.raises(TypeError, match="not known before the code runs"):
        bool(value)
