"""Comparisons: bool tensors, element by element, as NumPy has them; off the tape, and a tensor is itself in dicts and sets."""

import operator

import numpy as np
import pytest

import minigrad as mg

OPERATORS = {
    "==": (operator.eq, mg.equal),
    "!=": (operator.ne, mg.not_equal),
    "<": (operator.lt, mg.less),
    "<=": (operator.le, mg.less_equal),
    ">": (operator.gt, mg.greater),
    ">=": (operator.ge, mg.greater_equal),
}
each_operator = pytest.mark.parametrize(("compare", "function"), OPERATORS.values(), ids=OPERATORS.keys())
A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
B = np.array([[1, 3, 2], [4, np.nan, np.inf]], np.float32)


def assert_is(t, expected):
    """A bool tensor with these elements."""
    assert type(t) is mg.Tensor
    assert not t.requires_grad
    np.testing.assert_array_equal(t.numpy(), np.asarray(expected), strict=True)


@each_operator
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_two_tensors(compare, function, dtype, device):
    a, b = A.astype(dtype), np.nan_to_num(B, posinf=7).astype(dtype)
    x, y = mg.tensor(a, device=device), mg.tensor(b, device=device)
    assert_is(compare(x, y), compare(a, b))
    assert_is(function(x, y), compare(a, b))
    assert (x == y).device == device


@each_operator
def test_nan_and_infinity(compare, function, device):
    assert_is(compare(mg.tensor(B, device=device), mg.tensor(B, device=device)), compare(B, B))


@each_operator
def test_shapes_broadcast(compare, function, device):
    x = mg.tensor(A, device=device)
    for other in (A[0], A[:, :1], A[:1, :1], A[None], np.float32(3).reshape(())):
        assert_is(compare(x, mg.tensor(other, device=device)), compare(A, other))
        assert_is(compare(mg.tensor(other, device=device), x), compare(other, A))


@each_operator
def test_arrays_on_both_sides(compare, function, device):
    x = mg.tensor(A, device=device)
    assert_is(compare(x, B), compare(A, B))
    assert_is(compare(B, x), compare(B, A))


@each_operator
@pytest.mark.parametrize("number", [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2), np.nan, -np.inf, 10**400])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_numbers_on_both_sides(compare, function, number, dtype, device):
    array = A.astype(dtype)
    x = mg.tensor(array, device=device)
    wide = np.float64(np.inf if type(number) is int and number > 2 else number)
    assert_is(compare(x, number), compare(array, wide))
    assert_is(compare(number, x), compare(wide, array))


@each_operator
@pytest.mark.parametrize("number", [0.1, 1e300, -(2**62), 16777217])
def test_numbers_take_the_dtype_of_a_float_tensor(compare, function, number):
    array = np.array([0.1, 16777216, np.inf], np.float32)
    with np.errstate(over="ignore"):
        expected = compare(array, np.float32(number))
    assert_is(compare(mg.tensor(array), number), expected)


@each_operator
@pytest.mark.parametrize("number", [-1, 255, 256, 2**70, -(2**70), 3.5, -0.5])
def test_numbers_that_an_integer_tensor_cannot_hold(compare, function, number):
    array = np.array([0, 3, 4, 255], np.uint8)
    assert_is(compare(mg.tensor(array), number), [compare(n, number) for n in array.tolist()])


@each_operator
def test_large_integers_are_told_apart(compare, function, device):
    a, b = np.array([2**53, -(2**53), 2**62]), np.array([2**53 + 1, -(2**53) - 1, 2**62 + 1])
    assert_is(compare(mg.tensor(a, device=device), mg.tensor(b, device=device)), compare(a, b))
    assert_is(compare(mg.tensor(a, device=device), 2**53 + 1), compare(a, 2**53 + 1))
    large = np.array([2**63 + 1, 1], np.uint64)
    assert_is(
        compare(mg.tensor(large, device=device), mg.tensor(large[::-1].copy(), device=device)),
        compare(large, large[::-1]),
    )


@each_operator
def test_dtypes_that_differ_meet_in_numpys_common_one(compare, function, device):
    a, b = np.array([1, 2, 3], np.uint8), np.array([1.5, 2.0, -1.0], np.float64)
    assert_is(compare(mg.tensor(a, device=device), mg.tensor(b, device=device)), compare(a, b))
    assert_is(compare(mg.tensor(b, device=device), mg.tensor(b.astype("f4"), device=device)), compare(b, b))


@each_operator
def test_without_elements(compare, function, device):
    for shape in ((0,), (3, 0)):
        x = mg.tensor(np.zeros(shape, np.float32), device=device)
        assert_is(compare(x, x), np.zeros(shape, bool))
        assert_is(compare(x, 1.0), np.zeros(shape, bool))


@each_operator
def test_nothing_is_left_on_the_tape(compare, function):
    x = mg.tensor(A, requires_grad=True)
    y = x * 2.0
    mask = compare(y, x)
    assert mask.is_leaf
    assert not mask.requires_grad
    (y * mask.to("float32")).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * compare(2 * A, A))


@each_operator
def test_in_a_captured_step(compare, function):
    limit = mg.tensor([2.0, 3.0, 4.0])

    @mg.capture
    def step(x):
        return compare(x, limit), compare(x * 2.0, 6.0), compare(x, x)

    for x in (A, A + 1, B):
        for got, want in zip(step(x), (compare(x, limit.numpy()), compare(x * 2, 6), compare(x, x)), strict=True):
            assert_is(got, want)
    limit += 1.0
    assert_is(step(A)[0], compare(A, limit.numpy()))
    assert len(step.plans) == 1


def test_an_array_from_nowhere_is_refused_in_a_captured_step():
    step = mg.capture(lambda x: x == np.ones(3, np.float32))
    with pytest.raises(mg.CaptureError, match="NumPy array"):
        step(A)


def test_mean_of_what_is_equal():
    a = mg.tensor([1.0, 2.0, 3.0, 4.0])
    assert np.mean(a == mg.tensor([1.0, 0.0, 3.0, 0.0])) == 0.5
    assert (a == a).to("float32").mean().item() == 1
    assert a[a > 2.0].tolist() == [3, 4]


@pytest.mark.parametrize("other", [None, "a", object(), {}, 1j])
def test_what_is_no_number_is_never_equal(other):
    x = mg.tensor([1.0])
    assert (x == other) is False
    assert (other == x) is False
    assert (x != other) is True
    with pytest.raises(TypeError, match="not supported between"):
        x < other  # noqa: B015


@pytest.mark.parametrize("other", [[1.0], (1.0,), np.array(["a"]), np.array([1j])])
@each_operator
def test_lists_and_arrays_of_something_else_are_refused(compare, function, other):
    with pytest.raises(TypeError):
        compare(mg.tensor([1.0]), other)


def test_errors_say_what_came():
    x = mg.tensor(A)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2,\) do not broadcast"):
        x == mg.tensor([1.0, 2.0])  # noqa: B015
    with pytest.raises(RuntimeError, match="different devices"):
        x == mg.tensor(A, device="reference")  # noqa: B015
    with pytest.raises(TypeError, match="at least one side must be a Tensor, not float and ndarray"):
        mg.less(1.0, A)


@pytest.mark.parametrize("shape", [(2,), (0,), (2, 3)])
def test_several_elements_have_no_truth(shape):
    x = mg.tensor(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="not true or false as a whole"):
        bool(x == x)


def test_a_tensor_is_itself_in_dicts_and_sets():
    a, b = mg.tensor(A), mg.tensor(A)
    assert len({a, b, a}) == 2
    assert {a: 1, b: 2}[b] == 2
    assert a in {a}
    assert b not in {a}
    assert len(dict.fromkeys(mg.nn.Linear(2, 2).parameters())) == 2


def test_one_element_in_a_tuple_of_python_values_selects_a_recording_by_itself():
    """The arguments of a call are compared with those of the last: tensors in them by identity."""
    step = mg.capture(lambda x, pair: x * pair[0])
    first, second = mg.tensor([2.0, 3.0]), mg.tensor([2.0, 3.0])
    for factor in (first, second, first):
        np.testing.assert_array_equal(step(np.ones(2, np.float32), (factor, 1)).numpy(), [2, 3])
    assert len(step.plans) == 2
