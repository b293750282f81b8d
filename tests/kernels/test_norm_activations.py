"""Batch normalization together with an activation, in columns of a wider y and dy."""

import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu import elementwise, norm
from minigrad.kernels.cpu.tools.launch import GRAIN

EPS = 1e-5
ACTIVATIONS = {"identity": IDENTITY, "relu": RELU, "sigmoid": SIGMOID}
# Rows that are no multiple of four, nor of the rows of a chunk; features around registers and panels of them.
SHAPES = [(2, 1), (5, 7), (61, 8), (258, 17), (515, 48), (263, 100), (5, 4001), (2053, 17), (701, 48)]
MARGINS = [(0, 0), (1, 0), (16, 5), (33, 64)]  # columns of y and dy before those that are meant, and after them
SENTINEL = -7  # of the size of what stands beside it, to which errors are compared

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_backward = pytest.mark.parametrize("name", ["batch_norm_backward", "batch_norm_inference_backward"])
some_shapes = pytest.mark.parametrize(
    "shape", [(5, 7), (258, 17), *on_cpu((263, 100), (2053, 17)), *on_cuda((37, 100), (1029, 5))], ids=str
)
some_margins = pytest.mark.parametrize("margin", [(0, 0), (16, 5)], ids=str)


class Data:
    """What the kernels take, for x of a shape; statistics are float64 in training and of x's type in inference."""

    def __init__(self, rng, dtype, shape, training=True):
        c = shape[1]
        self.x = (rng.standard_normal(shape) * rng.uniform(0.5, 2, c) + rng.standard_normal(c)).astype(dtype)
        self.gamma = (rng.uniform(0.5, 2, c) * rng.choice([-1, 1], c)).astype(dtype)
        self.beta = rng.standard_normal(c).astype(dtype)
        wide = self.x.astype(np.float64)
        kept = np.float64 if training else dtype
        self.mean, self.var = wide.mean(axis=0).astype(kept), wide.var(axis=0).astype(kept)
        self.z = self.gamma * (wide - self.mean) / np.sqrt(self.var + EPS) + self.beta
        # no gradient next to the kink of ReLU, where rounding decides whether it comes through
        self.dy = np.where(np.abs(self.z) < 1e-3, 0, rng.standard_normal(shape)).astype(dtype)

    def fixed(self):
        """The arguments after x that do not depend on the gradient."""
        return self.gamma, self.beta, self.mean, self.var, EPS


def within(array, margin, value):
    """The array with columns of `value` before and after it."""
    return np.pad(array, ((0, 0), margin), constant_values=value)


def columns(array, margin):
    return array[:, margin[0] : array.shape[1] - margin[1]]


def outside(array, margin):
    return np.delete(array, np.s_[margin[0] : array.shape[1] - margin[1]], axis=1)


def filled(*shapes, dtype):
    return [np.full(shape, np.nan, dtype) for shape in shapes]


def activated(z, activation):
    y = np.empty_like(z)
    elementwise.activate(z, activation, y, 0)
    return y


def no_running(dtype):
    """What batch_norm_forward takes where no running statistics are kept."""
    return 0.9, *filled(0, 0, dtype=dtype)


def results(name, data, activation):
    """y by the forward kernel that goes with a backward kernel; the statistics it found or took are data's from now on."""
    (y,) = filled(data.x.shape, dtype=data.x.dtype)
    statistics = filled(*[data.x.shape[1]] * 2, dtype=np.float64)
    norm.batch_norm_forward(
        data.x, data.gamma, data.beta, EPS, activation, y, 0, *statistics, *no_running(data.x.dtype)
    )
    data.mean, data.var = statistics
    if name == "batch_norm_inference_backward":
        data.mean, data.var = (a.astype(data.x.dtype) for a in statistics)
        norm.batch_norm_inference(data.x, *data.fixed(), activation, y, 0)
    return y


def gradients(name, data, dy, y, column, activation):
    """dx, dgamma and dbeta by one of the two backward kernels."""
    c = data.x.shape[1]
    given = filled(data.x.shape, c, c, dtype=data.x.dtype)
    getattr(norm, name)(dy, data.x, y, column, *data.fixed(), activation, *given)
    return given


@each_activation
@each_shape
def test_forward_is_normalization_then_activation_to_the_bit(rng, dtype, shape, activation):
    data = Data(rng, dtype, shape)
    mean, var = filled(shape[1], shape[1], dtype=np.float64)
    (z,) = filled(shape, dtype=dtype)
    norm.batch_norm_forward(data.x, data.gamma, data.beta, EPS, IDENTITY, z, 0, mean, var, *no_running(dtype))
    for margin in MARGINS:
        y = within(np.full(shape, np.nan, dtype), margin, SENTINEL)
        other_mean, other_var = filled(shape[1], shape[1], dtype=np.float64)
        given = data.x, data.gamma, data.beta, EPS, activation, y, margin[0], other_mean, other_var
        norm.batch_norm_forward(*given, *no_running(dtype))
        assert columns(y, margin).tobytes() == activated(z, activation).tobytes()
        assert (outside(y, margin) == SENTINEL).all()
        assert (other_mean.tobytes(), other_var.tobytes()) == (mean.tobytes(), var.tobytes())


@each_activation
@each_shape
def test_inference_is_normalization_then_activation_to_the_bit(rng, dtype, shape, activation):
    data = Data(rng, dtype, shape, training=False)
    (z,) = filled(shape, dtype=dtype)
    norm.batch_norm_inference(data.x, *data.fixed(), IDENTITY, z, 0)
    for margin in MARGINS:
        y = within(np.full(shape, np.nan, dtype), margin, SENTINEL)
        norm.batch_norm_inference(data.x, *data.fixed(), activation, y, margin[0])
        assert columns(y, margin).tobytes() == activated(z, activation).tobytes()
        assert (outside(y, margin) == SENTINEL).all()


@each_activation
@each_shape
@each_backward
def test_backward_is_that_of_the_activation_then_of_the_normalization_to_the_bit(rng, dtype, shape, activation, name):
    data = Data(rng, dtype, shape, training=name == "batch_norm_backward")
    z = results(name, data, IDENTITY)
    y, dz = activated(z, activation), np.empty_like(z)
    elementwise.activate_backward(data.dy, y, 0, activation, dz)
    expected = gradients(name, data, dz, dz, 0, IDENTITY)
    for margin in MARGINS:
        wide_dy, wide_y = within(data.dy, margin, np.nan), within(y, margin, np.nan)
        found = gradients(name, data, wide_dy, wide_y, margin[0], activation)
        assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


@each_activation
@some_margins
@some_shapes
def test_forward_matches_reference(check_kernel, rng, dtype, shape, margin, activation):
    data = Data(rng, dtype, shape)
    y = within(np.full(shape, np.nan, dtype), margin, SENTINEL)
    mean, var = filled(shape[1], shape[1], dtype=np.float64)
    arguments = data.x, data.gamma, data.beta, EPS, activation, y, margin[0], mean, var, *no_running(dtype)
    checked = {"parallel": data.x.size >= GRAIN, "ulps": 64, "precision": dtype}
    y = check_kernel("norm", "batch_norm_forward", *arguments, **checked)[5]
    expected = {IDENTITY: data.z, RELU: np.maximum(data.z, 0), SIGMOID: 1 / (1 + np.exp(-data.z))}[activation]
    np.testing.assert_allclose(columns(y, margin), expected, rtol=0, atol=200 * np.finfo(dtype).eps)


@each_activation
@some_margins
@some_shapes
def test_inference_matches_reference(check_kernel, rng, dtype, shape, margin, activation):
    data = Data(rng, dtype, shape, training=False)
    y = within(np.full(shape, np.nan, dtype), margin, SENTINEL)
    arguments = data.x, *data.fixed(), activation, y, margin[0]
    *_, y, _ = check_kernel("norm", "batch_norm_inference", *arguments, parallel=data.x.size >= GRAIN, ulps=8)
    assert (outside(y, margin) == SENTINEL).all()


@each_activation
@some_margins
@some_shapes
@each_backward
def test_backward_matches_reference(check_kernel, rng, dtype, shape, margin, activation, name):
    data = Data(rng, dtype, shape, training=name == "batch_norm_backward")
    dy, y = within(data.dy, margin, SENTINEL), within(activated(data.z.astype(dtype), activation), margin, SENTINEL)
    empty = filled(shape, shape[1], shape[1], dtype=dtype)
    arguments = dy, data.x, y, margin[0], *data.fixed(), activation, *empty
    check_kernel("norm", name, *arguments, parallel=data.x.size >= GRAIN, ulps=64)


@each_backward
def test_relu_lets_a_gradient_through_where_its_result_is_positive(rng, dtype, name):
    data = Data(rng, dtype, (300, 37))
    data.x[:, 5] = data.x[0, 5]  # a constant feature becomes beta: at the kink, if that is 0
    data.beta[5:7] = 0
    y = results(name, data, RELU)
    dy = np.ones_like(data.x)
    *_, dbeta = gradients(name, data, dy, dy, 0, RELU)
    np.testing.assert_array_equal(dbeta, (y > 0).sum(axis=0))


@pytest.mark.parametrize("rows", [5, 1001])
def test_nan_passes_relu_and_its_gradient(rng, dtype, rows):
    data = Data(rng, dtype, (rows, 40), training=False)
    data.x[rows // 2, 21] = np.nan
    y, z = filled(data.x.shape, data.x.shape, dtype=dtype)
    norm.batch_norm_inference(data.x, *data.fixed(), RELU, y, 0)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(data.x))
    norm.batch_norm_inference(data.x, *data.fixed(), IDENTITY, z, 0)
    dz = np.empty_like(z)
    elementwise.activate_backward(data.dy, y, 0, RELU, dz)
    assert dz[rows // 2, 21] == data.dy[rows // 2, 21]
    found = gradients("batch_norm_inference_backward", data, data.dy, data.dy, 0, RELU)
    expected = gradients("batch_norm_inference_backward", data, dz, dz, 0, IDENTITY)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(np.delete(found[0], 21, axis=1)).all()
