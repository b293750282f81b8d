"""The checks themselves: they pass what is right and find every kind of mistake."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_forward, check_grads


class Cube(mg.Op):
    """x³, with a gradient that a test may spoil."""

    spoil = staticmethod(lambda dx: dx)

    def forward(self, x):
        self.save(x)
        return self.device.from_host(np.asarray(self.device.to_host(x) ** 3))

    def backward(self, dy):
        x, dy = map(self.device.to_host, (*self.saved, dy))
        return (self.device.from_host(np.asarray(type(self).spoil(np.asarray(3 * x**2 * dy)))),)


def spoiled(how):
    return type("SpoiledCube", (Cube,), {"spoil": staticmethod(how)}).apply


def one_element(dx):
    dx.reshape(-1)[dx.size // 2] *= 1.001
    return dx


@pytest.mark.parametrize("shape", [(), (1,), (5, 7), (4097,)])
def test_a_right_gradient_passes(shape, device, rng):
    check_grads(Cube.apply, rng.standard_normal(shape), device=device)


@pytest.mark.parametrize("shape", [(1,), (5, 7), (65,)])
@pytest.mark.parametrize(
    "how",
    [
        lambda dx: 1.001 * dx,
        lambda dx: dx + 1e-3,
        lambda dx: -dx,
        lambda dx: 0 * dx,
        lambda dx: dx * np.nan,
        one_element,
    ],
)
def test_a_wrong_gradient_is_found(how, shape, device, rng):
    with pytest.raises(AssertionError, match="gradient of input 0"):
        check_grads(spoiled(how), 1 + rng.random(shape), device=device)


def test_the_wrong_element_is_named(rng):
    def wrong(dx):
        dx[1, 2] += 1
        return dx

    with pytest.raises(AssertionError, match=r"gradient of input 0, element \(1, 2\): backward gives .*, finite"):
        check_grads(spoiled(wrong), rng.standard_normal((2, 3)))


def test_a_gradient_that_never_comes_is_found(rng):
    with pytest.raises(AssertionError, match="gradient of input 1"):
        check_grads(lambda a, b: a * b.detach(), rng.standard_normal(3), rng.standard_normal(3))


def test_inputs_without_floats_are_refused():
    with pytest.raises(
        ValueError, match=r"no input of floats whose gradient to check; the inputs are: int64 ndarray, str"
    ):
        check_grads(lambda x, name: x, np.array([1, 2]), "name")


def test_a_result_that_is_no_tensor_is_refused(rng):
    with pytest.raises(
        TypeError, match="check_grads: the function must return a Tensor, or a tuple of them, not ndarray"
    ):
        check_grads(lambda x: x.numpy(), rng.standard_normal(3))


def test_the_wrong_input_is_named(rng):
    with pytest.raises(AssertionError, match="gradient of input 1, element"):
        check_grads(lambda a, b: a + spoiled(lambda dx: 2 * dx)(b), rng.standard_normal(3), rng.standard_normal(3))


def test_inputs_that_are_no_floats_are_passed_on(rng):
    labels = np.array([0, 2, 1])

    def loss(logits, given):
        assert given is labels
        return mg.cross_entropy(logits, given)

    check_grads(loss, rng.standard_normal((3, 4)), labels)


def test_float32_inputs_are_checked_in_float64(rng):
    def function(x):
        assert x.dtype == np.float64
        return x * x

    check_grads(function, rng.standard_normal(3).astype(np.float32))


def test_large_values_do_not_raise_false_alarms(device, rng):
    check_grads(mg.sum, 1e3 * rng.random(4097), device=device)
    check_grads(lambda x: 1e6 * x, rng.random(17), device=device)


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_a_right_result_passes(dtype, device, rng):
    check_forward(Cube.apply, lambda x: x**3, rng.standard_normal((5, 7)), device=device, dtype=dtype)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (lambda x: x**3 * (1 + 1e-12), "Not equal to tolerance"),
        (lambda x: (x**3)[..., np.newaxis], r"result of shape \(5, 7\), expected \(5, 7, 1\)"),
        (lambda x: np.where(x == x.max(), np.nan, x**3), "nan location mismatch|x and y nan"),
    ],
)
def test_a_wrong_result_is_found(reference, message, device, rng):
    with pytest.raises(AssertionError, match=message):
        check_forward(Cube.apply, reference, rng.standard_normal((5, 7)), device=device)


def test_tolerances_can_be_given(rng):
    x = rng.standard_normal(5)
    check_forward(Cube.apply, lambda x: x**3 * 1.01, x, rtol=0.02)
    with pytest.raises(AssertionError, match="Not equal"):
        check_forward(Cube.apply, lambda x: x**3 * 1.01, x, rtol=0.005)
