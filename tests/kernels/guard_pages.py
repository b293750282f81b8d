"""Runs kernels on arrays between two pages of memory that may not be touched; a kernel that does ends the process.

python guard_pages.py                  prints "inside"
python guard_pages.py --read-outside   dies of a segmentation fault, which shows that the pages work
"""

import ctypes
import itertools
import mmap
import sys

import numpy as np

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.cpu import elementwise, gemm, loss, movement, norm, reduce

PAGE = mmap.PAGESIZE
LENGTHS = (1, 2, 3, 5, 8, 11, 15, 16, 17, 23, 31, 33, 49, 65, 97, 130)
LARGE = [(60, 100, 784), (203, 65, 500), (1, 700, 300), (300, 10, 600), (257, 130, 193), (500, 129, 200)]
PARTED = [(1, 1, 4096), (7, 5, 4099), (33, 17, 5003), (3, 40, 6200)]  # of A^T B: summed up in parts
FEW_ROWS = [(5, 47, 1024), (128, 17, 513), (1, 201, 1055), (60, 100, 784)]  # of A B: likewise
UNARY = ("exp", "log", "sqrt", "tanh", "sigmoid", "relu")
BROADCAST = ((7,), (3, 1), (1, 7), (3, 7), (5, 1, 1), (5, 3, 7), ())
ROWS_AND_COLUMNS = ((2, 1), (3, 17), (60, 100), (257, 33), (513, 5), (600, 70))
WIDER = ((0, 0), (3, 0), (0, 5))  # columns of y and dy before those that are meant, and after them

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class Guarded:
    """Pages of memory with a forbidden one before and after."""

    def __init__(self, pages):
        self.size = pages * PAGE
        self.bytes = np.frombuffer(mmap.mmap(-1, self.size + 2 * PAGE), np.uint8)
        for edge in (0, self.size + PAGE):
            if libc.mprotect(self.bytes.ctypes.data + edge, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def place(self, array, at_end):
        """A copy of the array that begins, or ends, where the forbidden page does."""
        assert array.nbytes <= self.size
        start = PAGE + (self.size - array.nbytes if at_end else 0)
        placed = self.bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        placed[...] = array
        return placed


PLACES = [Guarded(500) for _ in range(10)]


def check(kernel, *arguments):
    """Run a kernel with all its arrays at the beginning, then at the end, of what may be touched."""
    results = []
    for at_end in (False, True):
        places = iter(PLACES)
        given = [next(places).place(a, at_end) if isinstance(a, np.ndarray) and a.size else a for a in arguments]
        kernel(*given)
        results.append([a.copy() for a in given if isinstance(a, np.ndarray)])
    for first, second in zip(*results, strict=True):
        assert np.array_equal(first, second, equal_nan=True)


def in_two_branches(x, gamma, beta, activation, y, column, mean, var, running_mean, running_var):
    """Normalize x twice into the same columns, as two branches; to the same running statistics, as they are."""
    twice = [[a, a] for a in (x, gamma, beta, 1e-5, activation)]
    results = [[a, a] for a in (column, mean, var, 1.0, running_mean, running_var)]
    norm.batch_norms_forward(*twice, y, *results)


def check_all(rng, dtype):
    def sample(*shape):
        return np.abs(rng.standard_normal(shape)).astype(dtype)

    sizes = [tuple(rng.choice(LENGTHS, 3)) for _ in range(250)] + LARGE
    for (m, n, k), trans_a, trans_b in itertools.product(sizes, (False, True), (False, True)):
        a, b = sample(k, m) if trans_a else sample(m, k), sample(n, k) if trans_b else sample(k, n)
        check(gemm.gemm, a, b, sample(n if m % 2 else 0), np.zeros((m, n), dtype), trans_a, trans_b)
        check(gemm.gemm_add, a, b, sample(m, n), trans_a, trans_b)
    for m, n, k in PARTED:
        a, b = sample(k, m), sample(k, n)
        check(gemm.gemm, a, b, sample(0), sample(m, n), True, False)
        check(gemm.gemm_add, a, b, sample(m, n), True, False)
    for m, n, k in FEW_ROWS:
        check(gemm.gemm, sample(m, k), sample(k, n), sample(n if m % 2 else 0), sample(m, n), False, False)
    for n in (*range(1, 70), 4095, 4096, 4097, 32768, 33000):
        x = sample(n)
        check(movement.copy, x, np.empty_like(x))
        for name in UNARY:
            check(getattr(elementwise, f"{name}_forward"), x, np.empty_like(x))
            check(getattr(elementwise, f"{name}_backward"), x, x, np.empty_like(x))
    for left, right in [*itertools.product(BROADCAST, repeat=2), ((33000,), (33000,)), ((33000,), ())]:
        shape, *layout = broadcast_layout(left, right)
        y = np.empty(int(np.prod(shape)), dtype)
        check(elementwise.mul_forward, sample(*left).reshape(-1), sample(*right).reshape(-1), y, *layout)
    for m, c in ROWS_AND_COLUMNS:
        x, v, y, one = sample(m, c), sample(c), np.empty((m, c), dtype), np.empty(1, dtype)
        for (before, after), activation in itertools.product(WIDER, (IDENTITY, RELU, SIGMOID)):
            wide, mean, var = sample(m, before + c + after), sample(c).astype(np.float64), sample(c).astype(np.float64)
            running = sample(c), sample(c)
            check(norm.batch_norm_forward, x, v, v, 1e-5, activation, wide, before, mean, var, 0.9, *running)
            check(in_two_branches, x, v, v, activation, wide, before, mean, var, *running)
            check(norm.batch_norm_inference, x, v, v, v, v, 1e-5, activation, wide, before)
            statistics = {norm.batch_norm_backward: (mean, var), norm.batch_norm_inference_backward: (v, v)}
            for backward, given in statistics.items():
                check(backward, wide, x, wide, before, v, v, *given, 1e-5, activation, y, v, v)
            check(elementwise.activate, x, activation, wide, before)
            check(elementwise.activate_backward, wide, wide, before, activation, y)
        check(reduce.sum_forward, x[np.newaxis], np.empty((1, c), dtype))
        check(loss.softmax_forward, x, y)
        check(loss.cross_entropy_forward, x, np.zeros(m, np.int64), y, one)


if "--read-outside" in sys.argv:
    last = PLACES[0].place(np.ones(4), at_end=True)
    ctypes.string_at(last.ctypes.data, last.nbytes + 1)
for dtype in (np.float32, np.float64):
    check_all(np.random.default_rng(0), dtype)
print("inside")
