import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing import check_forward, check_grads

PRODUCTS = [
    ((3,), (3,)),
    ((3,), (3, 5)),
    ((4, 3), (3,)),
    ((1, 1), (1, 1)),
    ((4, 3), (3, 5)),
    ((17, 33), (33, 15)),
    ((2, 4, 3), (3, 5)),
    ((2, 4, 3), (3,)),
    ((3,), (2, 3, 5)),
    ((4, 3), (2, 3, 5)),
    ((2, 4, 3), (2, 3, 5)),
    ((2, 1, 4, 3), (3, 3, 5)),
    ((1, 4, 3), (2, 3, 1)),
]
EMPTY = [
    ((0,), (0,)),
    ((0,), (0, 3)),
    ((4, 0), (0, 3)),
    ((0, 3), (3, 4)),
    ((3, 4), (4, 0)),
    ((2, 3, 0), (0, 4)),
    ((2, 3, 0), (2, 0, 4)),
    ((2, 0, 3), (2, 3, 4)),
    ((0, 2, 3), (1, 3, 4)),
    ((5, 0, 3), (3,)),
]
SIZES = [1, 2, 7, 8, 15, 16, 17, 31, 33, 65, 193]  # around the widths of vectors and the blocks of the kernel


def pair(rng, shapes, dtype=np.float64):
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def assert_float32_product(y, a, b):
    """Within the bound of a sum of k products rounded one by one: |error| <= k u |A| |B|, u = 2^-24."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = a.shape[-1] * 2.0**-24 * (np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)))
    assert y.dtype == np.float32
    assert y.shape == exact.shape
    assert np.all(np.abs(y - exact) <= bound)


@pytest.mark.parametrize("shapes", PRODUCTS)
def test_matmul_matches_numpy(shapes, device, rng):
    a, b = pair(rng, shapes)
    check_forward(mg.matmul, np.matmul, a, b, device=device, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(
        (mg.tensor(a, device=device) @ mg.tensor(b, device=device)).numpy(),
        mg.matmul(mg.tensor(a, device=device), mg.tensor(b, device=device)).numpy(),
    )


@pytest.mark.parametrize("shapes", PRODUCTS)
def test_matmul_gradients(shapes, device, rng):
    check_grads(mg.matmul, *pair(rng, shapes), device=device)


@pytest.mark.parametrize("shapes", PRODUCTS)
def test_float32_matmul_is_within_its_error_bound(shapes, device, rng):
    a, b = pair(rng, shapes, np.float32)
    assert_float32_product(mg.matmul(mg.tensor(a, device=device), mg.tensor(b, device=device)).numpy(), a, b)


@settings(deadline=None, max_examples=40)
@given(m=st.sampled_from(SIZES), k=st.sampled_from(SIZES), n=st.sampled_from(SIZES), double=st.booleans())
def test_product_of_any_sizes_and_its_gradients(m, k, n, double, device):
    rng = np.random.default_rng(m * 10**6 + k * 10**3 + n)
    dtype = np.float64 if double else np.float32
    a, b = pair(rng, [(m, k), (k, n)], dtype)
    ta, tb = (mg.tensor(x, device=device, requires_grad=True) for x in (a, b))
    y = ta @ tb
    dy = rng.standard_normal((m, n)).astype(dtype)
    y.backward(dy)
    if double:
        np.testing.assert_allclose(y.numpy(), a @ b, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ta.grad.numpy(), dy @ b.T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(tb.grad.numpy(), a.T @ dy, rtol=1e-12, atol=1e-12)
    else:
        assert_float32_product(y.numpy(), a, b)
        assert_float32_product(ta.grad.numpy(), dy, b.T)
        assert_float32_product(tb.grad.numpy(), a.T, dy)


def test_long_sum(device, rng):
    a, b = pair(rng, [(2, 4097), (4097, 3)], np.float32)
    assert_float32_product(mg.matmul(mg.tensor(a, device=device), mg.tensor(b, device=device)).numpy(), a, b)


def test_many_rows(device, rng):
    a, b = pair(rng, [(4097, 3), (3, 2)], np.float32)
    assert_float32_product(mg.matmul(mg.tensor(a, device=device), mg.tensor(b, device=device)).numpy(), a, b)


@pytest.mark.parametrize("shapes", EMPTY)
def test_products_of_nothing_are_zeros_or_empty(shapes, device):
    a, b = (np.zeros(shape) for shape in shapes)
    ta, tb = (mg.tensor(x, device=device, requires_grad=True) for x in (a, b))
    y = ta @ tb
    np.testing.assert_array_equal(y.numpy(), a @ b, strict=True)
    y.sum().backward()
    np.testing.assert_array_equal(ta.grad.numpy(), a, strict=True)
    np.testing.assert_array_equal(tb.grad.numpy(), b, strict=True)


def test_numpy_arrays_multiply_from_both_sides(device, rng):
    a, b = pair(rng, [(3, 4), (4, 2)])
    for y in (mg.tensor(a, device=device) @ b, a @ mg.tensor(b, device=device)):
        assert isinstance(y, mg.Tensor)
        np.testing.assert_allclose(y.numpy(), a @ b, rtol=1e-13)


def test_nan_stays_in_its_row(device):
    a = np.ones((5, 17), np.float32)
    a[2, 3] = np.nan
    y = mg.matmul(mg.tensor(a, device=device), mg.tensor(np.zeros((17, 33), np.float32), device=device)).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(a).any(axis=1, keepdims=True).repeat(33, axis=1))


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), ValueError, r"inner lengths differ, shapes \(2, 3\) and \(2, 3\)"),
        (np.ones(3), np.ones(2), ValueError, r"shapes \(3,\) and \(2,\)"),
        (np.ones(()), np.ones(2), ValueError, r"at least one axis .* \(\) and \(2,\)"),
        (np.ones((2, 3, 4)), np.ones((3, 4, 5)), ValueError, r"\(2,\) and \(3,\) do not broadcast"),
        (np.ones((2, 2)), np.ones((2, 2), np.float32), TypeError, "float64 and float32"),
        (np.ones((2, 2), np.int64), np.ones((2, 2), np.int64), TypeError, "not int64"),
    ],
)
def test_matmul_of_what_does_not_match_is_refused(a, b, error, message, device):
    with pytest.raises(error, match=message):
        mg.matmul(mg.tensor(a, device=device), mg.tensor(b, device=device))


def test_matmul_with_a_number_is_refused():
    with pytest.raises(ValueError, match="use \\*"):
        mg.tensor([1.0]) @ 2.0


@pytest.mark.parametrize("x_shape", [(3,), (1, 3), (17, 3), (2, 5, 3), (2, 2, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(x_shape, bias, device, rng):
    x, w, b = rng.standard_normal(x_shape), rng.standard_normal((3, 5)), rng.standard_normal(5)
    inputs = (x, w, b) if bias else (x, w)
    check_forward(mg.linear, lambda x, w, b=0.0: x @ w + b, *inputs, device=device, rtol=1e-14, atol=1e-14)
    check_grads(mg.linear, *inputs, device=device)


@pytest.mark.parametrize(("rows", "inside", "outside"), [(60, 100, 10), (33, 193, 65), (257, 7, 17)])
def test_float32_linear_is_within_its_error_bound(rows, inside, outside, device, rng):
    x, w = pair(rng, [(rows, inside), (inside, outside)], np.float32)
    b = rng.standard_normal(outside).astype(np.float32)
    y = mg.linear(*(mg.tensor(t, device=device) for t in (x, w, b))).numpy()
    assert_float32_product(y, np.hstack([x, np.ones((rows, 1), np.float32)]), np.vstack([w, b]))


@pytest.mark.parametrize(("x_shape", "outputs"), [((0, 3), 2), ((4, 0), 2), ((4, 3), 0), ((2, 0, 3), 2), ((0,), 2)])
def test_linear_with_a_zero_sized_axis(x_shape, outputs, device, rng):
    w, b = rng.standard_normal((x_shape[-1], outputs)), rng.standard_normal(outputs)
    x = np.zeros(x_shape)
    tensors = [mg.tensor(t, device=device, requires_grad=True) for t in (x, w, b)]
    y = mg.linear(*tensors)
    np.testing.assert_array_equal(y.numpy(), x @ w + b, strict=True)
    y.backward(np.ones(y.shape))
    rows = int(np.prod(x_shape[:-1]))
    for t, expected in zip(
        tensors, (np.zeros(x_shape) + w.sum(1), np.zeros(w.shape), np.full(outputs, rows)), strict=True
    ):
        np.testing.assert_allclose(t.grad.numpy(), expected, rtol=1e-14, atol=0)


def test_linear_gives_gradients_only_where_they_are_needed(device, rng):
    x, w, b = rng.standard_normal((4, 3)), rng.standard_normal((3, 2)), rng.standard_normal(2)
    for wanted in range(3):
        tensors = [mg.tensor(t, device=device, requires_grad=i == wanted) for i, t in enumerate((x, w, b))]
        mg.linear(*tensors).sum().backward()
        assert [t.grad is not None for t in tensors] == [i == wanted for i in range(3)]


@pytest.mark.parametrize(
    ("x", "w", "b", "error", "message"),
    [
        ((4, 3), (2, 5), None, ValueError, r"got \(4, 3\) and \(2, 5\)"),
        ((4, 3), (3,), None, ValueError, r"got \(4, 3\) and \(3,\)"),
        ((), (3, 5), None, ValueError, r"got \(\) and \(3, 5\)"),
        ((4, 3), (3, 5), (3,), ValueError, r"b must have shape \(5,\) to match w \(3, 5\), not \(3,\)"),
        ((4, 3), (3, 5), (1, 5), ValueError, r"not \(1, 5\)"),
    ],
)
def test_linear_of_shapes_that_do_not_match_is_refused(x, w, b, error, message):
    with pytest.raises(error, match=message):
        mg.linear(*(None if shape is None else mg.tensor(np.ones(shape)) for shape in (x, w, b)))


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        (("float32", "float64", "float64"), "x is float32, w is float64, b is float64"),
        (("float64", "float64", "float32"), "b is float32"),
        (("int64", "float32", "float32"), "linear needs a float32 or float64 tensor, not int64"),
        (("float32", "float32", "int64"), "not int64"),
    ],
)
def test_linear_of_dtypes_that_do_not_match_is_refused(dtypes, message):
    with pytest.raises(TypeError, match=message):
        mg.linear(*(mg.tensor(np.ones(s, t)) for s, t in zip(((4, 3), (3, 5), (5,)), dtypes, strict=True)))


def test_linear_of_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="linear needs a Tensor, not ndarray"):
        mg.linear(np.ones((4, 3)), mg.tensor(np.ones((3, 5))))
