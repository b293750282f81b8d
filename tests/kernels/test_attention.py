import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu.attention import KEYS, ROWS, work
from minigrad.kernels.cpu.parts.panels import PARALLEL_WORK

# (number of masks, whether each query has a row of it, number of matrices in a row that have the same)
MASKS = {"none": None, "allowed": (1, True, 1), "keys": (2, False, 1), "added": (1, True, 2)}
# (b, n, s, e, d), mask, causal: one row and key, odd ones, one past a block of queries, of keys; of several parts
CASES = [
    *[((1, 1, 1, 1, 1), "none", False), ((2, 3, 5, 4, 3), "keys", True), ((2, 5, 3, 3, 2), "added", False)],
    *on_cpu(
        *[((3, ROWS + 1, 17, 16, 33), mask, causal) for mask in MASKS for causal in (False, True)],
        *[((9, 5, KEYS + 1, 3, 2), mask, False) for mask in MASKS],
    ),
    pytest.param(((2, 100, 500, 24, 33), "allowed", False), marks=[pytest.mark.cpu, pytest.mark.slow]),  # compiled anew
    *on_cuda(((1, 33, 34, 2, 3), "allowed", False), ((1, 9, 8, 34, 66), "none", True)),
]  # fmt: skip
LARGE = [((2, 100, 500, 24, 33), "none", True), *[((1, 200, 40, 64, 64), mask, True) for mask in ("none", "added")]]
NOTHING = 0.0, np.empty(0, np.uint64)  # is dropped: rate and key
DROPPED = 0.3, np.array([7, 1 << 33], np.uint64)
each_rate = pytest.mark.parametrize("dropped", [NOTHING, DROPPED], ids=["all", "dropped"])


def arrays(rng, shape, dtype):
    """q, k, v and dy."""
    b, n, s, e, d = shape
    return [rng.standard_normal(size).astype(dtype) for size in ((b, n, e), (b, s, e), (b, s, d), (b, n, d))]


def mask_of(rng, name, shape, dtype):
    """(mask, each)."""
    if MASKS[name] is None:
        return np.empty((0, 0, 0), dtype), 1
    masks, by_query, each = MASKS[name]
    _, n, s, *_ = shape
    size = masks, n if by_query else 1, s
    return (rng.standard_normal(size).astype(dtype) if name == "added" else rng.random(size) < 0.6), each


def results(q, v):
    """y and lse."""
    return np.empty((*q.shape[:2], v.shape[2]), q.dtype), np.empty(q.shape[:2], q.dtype)


@pytest.mark.parametrize(
    "case", [*CASES, *[pytest.param(case, marks=[pytest.mark.cpu, pytest.mark.slow]) for case in LARGE]], ids=str
)
@each_rate
def test_forward_matches_reference(check_kernel, rng, dtype, case, dropped):
    shape, mask, causal = case
    q, k, v, _ = arrays(rng, shape, dtype)
    large = work(q, k, v) >= PARALLEL_WORK
    check_kernel(
        "attention", "attention_forward", q, k, v, *mask_of(rng, mask, shape, dtype), 0.3, causal,
        *dropped, *results(q, v), parallel=large, ulps=16,
    )  # fmt: skip


@pytest.mark.parametrize(
    "case", [*CASES, *[pytest.param(case, marks=[pytest.mark.cpu, pytest.mark.slow]) for case in LARGE]], ids=str
)
@each_rate
def test_backward_matches_reference(check_kernel, rng, dtype, case, dropped):
    shape, mask, causal = case
    q, k, v, dy = arrays(rng, shape, dtype)
    about = *mask_of(rng, mask, shape, dtype), 0.3, causal, *dropped
    y, lse = results(q, v)
    reference_forward(q, k, v, *about, y, lse)
    large = work(q, k, v) >= PARALLEL_WORK
    out = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    check_kernel(
        "attention", "attention_backward", dy, q, k, v, *about, y, lse, *out, parallel=large, ulps=32, scale=4.0
    )  # fmt: skip


def reference_forward(*arguments):
    from minigrad.kernels.reference.attention import attention_forward

    attention_forward(*arguments)


def test_a_query_without_a_key_gives_zero_and_no_gradient(check_kernel, rng, dtype):
    q, k, v, dy = arrays(rng, (1, 3, 4, 2, 2), dtype)
    mask = np.ones((1, 3, 4), bool)
    mask[0, 1] = False
    *_, y, lse = check_kernel(
        "attention", "attention_forward", q, k, v, mask, 1, 0.5, False, *NOTHING, *results(q, v), ulps=16
    )
    np.testing.assert_array_equal(y[0, 1], 0)
    np.testing.assert_array_equal(np.isinf(lse[0]), [False, True, False])
    out = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    *_, dq, _, _ = check_kernel(
        "attention", "attention_backward", dy, q, k, v, mask, 1, 0.5, False, *NOTHING, y, lse, *out, ulps=64
    )
    np.testing.assert_array_equal(dq[0, 1], 0)


def test_large_scores_do_not_overflow(check_kernel, dtype):
    q = np.array([[[1.0], [-1.0]]], dtype)
    k = np.array([[[1e4], [-1e4], [9e3]]], dtype)
    v = np.array([[[1.0], [2.0], [3.0]]], dtype)
    *_, y, _ = check_kernel(
        "attention", "attention_forward", q, k, v, np.empty((0, 0, 0), dtype), 1, 1.0, False, *NOTHING, *results(q, v)
    )
    np.testing.assert_array_equal(y[0, :, 0], [1, 2])


def test_nan_in_a_key_reaches_the_queries_that_see_it(check_kernel, dtype):
    q, k, v = np.ones((1, 4, 2), dtype), np.ones((1, 4, 2), dtype), np.ones((1, 4, 3), dtype)
    k[0, 2, 0] = np.nan
    none = np.empty((0, 0, 0), dtype)
    *_, y, _ = check_kernel("attention", "attention_forward", q, k, v, none, 1, 0.5, True, *NOTHING, *results(q, v))
    np.testing.assert_array_equal(np.isnan(y[0]).all(axis=1), [False, False, True, True])
    q[0, 1, 1] = np.nan
    *_, y, _ = check_kernel(
        "attention", "attention_forward", q, k[:, :2], v[:, :2], none, 1, 0.5, False, *NOTHING, *results(q, v)
    )
    np.testing.assert_array_equal(np.isnan(y[0]).any(axis=1), [False, True, False, False])
