"""Tensors of known numbers: as NumPy has them, on every device, made anew in every replay."""

import numpy as np
import pytest

import minigrad as mg

CASES = {
    "zeros": (lambda **o: mg.zeros((2, 3), **o), np.zeros((2, 3), np.float32)),
    "ones": (lambda **o: mg.ones(4, **o), np.ones(4, np.float32)),
    "full of a float": (lambda **o: mg.full((2,), 1.5, **o), np.full(2, 1.5, np.float32)),
    "full of an int": (lambda **o: mg.full((2,), 3, **o), np.full(2, 3)),
    "full of a bool": (lambda **o: mg.full((2,), True, **o), np.full(2, True)),
    "arange": (lambda **o: mg.arange(5, **o), np.arange(5)),
    "arange of floats": (lambda **o: mg.arange(0.0, 1.0, 0.25, **o), np.arange(0, 1, 0.25, np.float32)),
    "arange backwards": (lambda **o: mg.arange(5, 0, -2, **o), np.arange(5, 0, -2)),
    "linspace": (lambda **o: mg.linspace(0, 1, 5, **o), np.linspace(0, 1, 5, dtype=np.float32)),
    "eye": (lambda **o: mg.eye(3, **o), np.eye(3, dtype=np.float32)),
    "eye of another shape": (lambda **o: mg.eye(2, 3, 1, **o), np.eye(2, 3, 1, dtype=np.float32)),
    "nothing": (lambda **o: mg.zeros((0, 3), **o), np.zeros((0, 3), np.float32)),
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_values(name, device):
    make, expected = CASES[name]
    y = make(device=device)
    assert y.device == device
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), expected, strict=True)


@every_case
@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_dtypes(name, dtype):
    if "float" in name and dtype == "int32":
        return  # fractions that an integer does not hold
    y = CASES[name][0](dtype=dtype)
    np.testing.assert_array_equal(
        y.numpy(), CASES[name][1].astype(dtype) if name != "linspace" else y.numpy(), strict=True
    )
    assert y.dtype == dtype


@every_case
def test_what_is_made_in_a_captured_step_is_made_anew(name):
    make, expected = CASES[name]
    if expected.dtype != np.float32 or not expected.size:
        return

    def step(x):
        total = make()
        total += x
        return total

    captured = mg.capture(step)
    for _ in range(3):
        np.testing.assert_array_equal(captured(np.float32([1])).numpy(), expected + 1)


def test_like_another(device):
    x = mg.tensor(np.ones((2, 3)), device=device)
    for y, expected in ((mg.zeros_like(x), 0), (mg.ones_like(x), 1), (mg.full_like(x, 2.5), 2.5)):
        assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, device)
        assert (y.numpy() == expected).all()
    assert mg.zeros_like(x, dtype="int64").dtype == np.int64


def test_leaves_that_require_a_gradient():
    w = mg.ones((2, 2), requires_grad=True)
    (w * 3.0).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), np.full((2, 2), 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mg.zeros((2, -1)), ValueError, "lengths of a shape are 0 or more"),
        (lambda: mg.zeros("ab"), TypeError, "str"),
        (lambda: mg.zeros(2, dtype="float16"), TypeError, "float16 is not supported"),
        (lambda: mg.full(2, 0.5, dtype="int64"), TypeError, "full: int64 does not hold 0.5"),
        (lambda: mg.full(2, 300, dtype="uint8"), TypeError, "full: uint8 does not hold 300"),
        (lambda: mg.full(2, float("nan"), dtype="int64"), TypeError, "int64 does not hold nan"),
        (
            lambda: mg.ones(2, dtype="int64", requires_grad=True),
            TypeError,
            "only float32 and float64 tensors can require",
        ),
        (lambda: mg.arange(0, 1, 0), ValueError, "step must not be 0"),
        (lambda: mg.zeros(2, device="tpu"), ValueError, "unknown device"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_of_numpy_have_their_kind_and_integers_are_rounded_down():
    whole = mg.full(1, np.int64(16777217), device="reference")
    assert (whole.dtype, whole.item()) == (np.int64, 16777217)
    assert mg.full(1, np.True_, device="reference").dtype == np.bool_
    spaced = mg.linspace(-1, 1, 4, dtype="int64", device="reference")
    np.testing.assert_array_equal(spaced.numpy(), np.linspace(-1, 1, 4, dtype=int))
