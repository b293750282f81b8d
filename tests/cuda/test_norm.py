import functools
import itertools
import re

import numpy as np
import pytest
from targets import Cuda

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cuda import norm
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.one_by_one import one_by_one
from minigrad.kernels.reference import elementwise
from minigrad.kernels.reference import norm as reference

EPS = 1e-5
ACTIVATIONS = {"identity": IDENTITY, "relu": RELU, "sigmoid": SIGMOID}
SENTINEL = -7
# Rows and channels, columns of y and dy before those that are meant and after them, the activation: one channel, few,
# read one by one and by fours, more of them than one block has.
CASES = {
    "one channel": ((37, 1), (0, 0), RELU),
    "three": ((70, 3), (2, 0), SIGMOID),
    "odd": ((61, 17), (16, 5), RELU),
    "fours": ((39, 20), (4, 8), IDENTITY),
    "fours, relu": ((39, 20), (4, 8), RELU),
    "fours, sigmoid": ((39, 20), (4, 8), SIGMOID),
    "fours, shifted": ((39, 20), (3, 5), SIGMOID),
    "wide fours": ((5, 260), (0, 0), RELU),
    "wide odd": ((5, 261), (0, 0), IDENTITY),
}
each_case = pytest.mark.parametrize(("shape", "margin", "activation"), CASES.values(), ids=CASES)
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_path = pytest.mark.parametrize("in_one", [True, False], ids=["one launch", "chunks"])


@pytest.fixture
def path(monkeypatch, in_one):
    """Small arrays in one launch, or as large ones are done: here in chunks of few rows."""
    if not in_one:
        monkeypatch.setattr(norm, "ONE_LAUNCH", 1)
        tile = norm.tile

        def small(m, c, blocks, least):
            (_, panels), (across, down), _ = tile(m, c, blocks, least)
            chunk = 5 * down
            while chunk >= m > 1:
                chunk, down = chunk // 2, max(1, down // 2)
            return (-(-m // chunk), panels), (across, down), chunk

        monkeypatch.setattr(norm, "tile", small)


def data(rng, dtype, shape, kept=np.float64):
    """x, gamma, beta, mean, var, dy and the result before the activation."""
    c = shape[1]
    x = (rng.standard_normal(shape) * rng.uniform(0.5, 2, c) + rng.standard_normal(c)).astype(dtype)
    gamma = (rng.uniform(0.5, 2, c) * rng.choice([-1, 1], c)).astype(dtype)
    beta = rng.standard_normal(c).astype(dtype)
    wide = x.astype(np.float64)
    mean, var = wide.mean(axis=0).astype(kept), wide.var(axis=0).astype(kept)
    z = gamma * (wide - mean) / np.sqrt(var + EPS) + beta
    # no gradient next to the kink of ReLU, where rounding decides whether it comes through
    dy = np.where(np.abs(z) < 1e-3, 0, rng.standard_normal(shape)).astype(dtype)
    return x, gamma, beta, mean, var, dy, z.astype(dtype)


def activated(z, activation):
    y = z.copy()
    if activation == RELU:
        elementwise.relu_forward(z, y)
    elif activation == SIGMOID:
        elementwise.sigmoid_forward(z, y)
    return y


def within(array, margin, value=SENTINEL):
    """The array with columns of `value` before and after it."""
    return np.pad(array, ((0, 0), margin), constant_values=value)


def filled(*shapes, dtype):
    return [np.full(shape, np.nan, dtype) for shape in shapes]


class Kernels:
    """The CUDA kernels on NumPy arrays."""

    def __init__(self, memory):
        self.memory = memory

    def forward(self, x, gamma=None, beta=None, activation=IDENTITY):
        c = x.shape[1]
        gamma, beta = np.ones(c, x.dtype) if gamma is None else gamma, np.zeros(c, x.dtype) if beta is None else beta
        given = [self.memory.put(a) for a in (x, gamma, beta)]
        y, mean, var = self.memory.empty(x.shape, x.dtype), *[self.memory.empty((c,), np.float64) for _ in range(2)]
        none = self.memory.empty((0,), x.dtype)
        norm.batch_norm_forward(*given, EPS, activation, y, 0, mean, var, 0.9, none, none)
        return [self.memory.get(a) for a in (y, mean, var)]

    def backward(self, dy, x, y, gamma, beta, mean, var, activation=IDENTITY):
        c = x.shape[1]
        dy, x, y, gamma, beta, mean, var = (self.memory.put(a) for a in (dy, x, y, gamma, beta, mean, var))
        dx, dgamma, dbeta = (self.memory.empty(shape, x.dtype) for shape in (x.shape, (c,), (c,)))
        norm.batch_norm_backward(dy, x, y, 0, gamma, beta, mean, var, EPS, activation, dx, dgamma, dbeta)
        return [self.memory.get(a) for a in (dx, dgamma, dbeta)]


@pytest.fixture
def kernels(memory):
    return Kernels(memory)


def assert_statistics(x, mean, var):
    wide = x.astype(np.longdouble)
    precision, deviation = np.finfo(x.dtype).eps, wide.std(axis=0)
    assert (np.abs(mean - wide.mean(axis=0)) <= 4 * precision * deviation + 1e-15 * np.abs(mean)).all()
    assert (np.abs(var - wide.var(axis=0)) <= 16 * precision * wide.var(axis=0)).all()


def test_many_chunks_meet_in_a_tree(kernels, rng, monkeypatch):
    tile = norm.tile
    monkeypatch.setattr(norm, "ONE_LAUNCH", 1)
    monkeypatch.setattr(norm, "tile", lambda m, c, *rest: ((-(-m // 2), tile(m, c, *rest)[0][1]), (1, 2), 2))
    x, gamma, beta, mean, var, dy, z = data(rng, np.float32, (37, 3))
    _, found_mean, found_var = kernels.forward(x, gamma, beta)
    assert_statistics(x, found_mean, found_var)
    _, dgamma, dbeta = kernels.backward(dy, x, z, gamma, beta, mean, var)
    normalized = (x - mean) / np.sqrt(var + EPS)
    np.testing.assert_allclose(dgamma, (dy * normalized).sum(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dbeta, dy.sum(axis=0), rtol=1e-5, atol=1e-5)


@each_path
@each_case
def test_forward_matches_reference(memory, rng, dtype, path, shape, margin, activation):
    x, gamma, beta, *_ = data(rng, dtype, shape)
    c = shape[1]
    y = within(np.zeros(shape, dtype), margin)
    statistics = filled(c, c, dtype=np.float64)
    running = np.full(c, 2, dtype), np.full(c, 3, dtype)
    *_, y, _, mean, var, _, running_mean, running_var = memory.run(
        "norm", "batch_norm_forward", x, gamma, beta, EPS, activation, y, margin[0], *statistics, 0.9, *running
    )
    assert_statistics(x, mean, var)
    wide = gamma * (x - x.mean(axis=0, dtype=np.float64)) / np.sqrt(x.var(axis=0, dtype=np.float64) + EPS) + beta
    expected = within(activated(wide, activation), margin)
    tolerance = 16 * np.finfo(dtype).eps * np.abs(wide).max()
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)
    reference.running_update(mean, var, shape[0], 0.9, *running)
    np.testing.assert_allclose((running_mean, running_var), running, rtol=2 * np.finfo(dtype).eps)


@each_path
@each_case
def test_backward_matches_reference(check_kernel, rng, dtype, path, shape, margin, activation):
    x, gamma, beta, mean, var, dy, z = data(rng, dtype, shape)
    wide_dy, y = within(dy, margin), within(activated(z, activation), margin)
    empty = filled(shape, shape[1], shape[1], dtype=dtype)
    arguments = wide_dy, x, y, margin[0], gamma, beta, mean, var, EPS, activation, *empty
    check_kernel("norm", "batch_norm_backward", *arguments, ulps=16)


@each_case
def test_inference_matches_reference(check_kernel, rng, dtype, shape, margin, activation):
    x, gamma, beta, mean, var, *_ = data(rng, dtype, shape, dtype)
    y = within(np.zeros(shape, dtype), margin)
    check_kernel("norm", "batch_norm_inference", x, gamma, beta, mean, var, EPS, activation, y, margin[0], ulps=8)


@each_case
def test_inference_backward_matches_reference(check_kernel, rng, dtype, shape, margin, activation):
    x, gamma, beta, mean, var, dy, z = data(rng, dtype, shape, dtype)
    wide_dy, y = within(dy, margin), within(activated(z, activation), margin)
    empty = filled(shape, shape[1], shape[1], dtype=dtype)
    arguments = wide_dy, x, y, margin[0], gamma, beta, mean, var, EPS, activation, *empty
    check_kernel("norm", "batch_norm_inference_backward", *arguments, ulps=16)


@pytest.mark.parametrize("m", [2, 60])
def test_running_update_matches_reference(check_kernel, rng, dtype, m):
    mean, var = rng.standard_normal(7), rng.uniform(1, 2, 7)
    running_mean, running_var = rng.standard_normal(7).astype(dtype), rng.uniform(1, 2, 7).astype(dtype)
    check_kernel("norm", "running_update", mean, var, m, 0.9, running_mean, running_var, ulps=1)


@each_path
@each_activation
def test_activation_is_that_of_the_rounded_result(kernels, check_kernel, rng, dtype, path, activation):
    x, gamma, beta, *_ = data(rng, dtype, (33, 8))
    z, *_ = kernels.forward(x, gamma, beta)
    y, *_ = kernels.forward(x, gamma, beta, activation)
    if activation == SIGMOID:
        np.testing.assert_allclose(y, activated(z, activation), rtol=4 * np.finfo(dtype).eps)
    else:
        np.testing.assert_array_equal(y, activated(z, activation))


@each_path
def test_relu_lets_a_gradient_through_where_its_result_is_positive(kernels, rng, dtype, path):
    x, gamma, beta, *_ = data(rng, dtype, (60, 12))
    x[:, 5] = x[0, 5]  # a constant feature becomes beta: at the kink, if that is 0
    beta[5:7] = 0
    y, mean, var = kernels.forward(x, gamma, beta, RELU)
    dy = np.ones_like(x)
    *_, dbeta = kernels.backward(dy, x, y, gamma, beta, mean, var, RELU)
    np.testing.assert_array_equal(dbeta, (y > 0).sum(axis=0))


@each_path
@pytest.mark.parametrize(("mean", "deviation"), [(1e4, 0.1), (-1e4, 1.0), (1e-4, 1e-6), (0.0, 1e3)])
def test_statistics_far_from_zero(kernels, rng, path, mean, deviation):
    x = (mean + deviation * rng.standard_normal((60, 12))).astype(np.float32)
    y, found_mean, found_var = kernels.forward(x)
    assert_statistics(x, found_mean, found_var)
    expected = (x - x.mean(axis=0, dtype=np.float64)) / np.sqrt(x.var(axis=0, dtype=np.float64) + EPS)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@each_path
def test_first_row_far_out_costs_the_variance_little(kernels, rng, path):
    x = rng.standard_normal((200, 4)).astype(np.float32)
    x[0] = 1e3
    _, mean, var = kernels.forward(x)
    rounding = np.finfo(np.float32).eps * np.abs(x[0] - x.mean(axis=0))  # of the mean as an offset from this row
    assert (np.abs(mean - x.mean(axis=0, dtype=np.float64)) <= rounding).all()
    np.testing.assert_allclose(var, x.var(axis=0, dtype=np.float64), rtol=1e-6)


@each_path
@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e-30, 1e30])
def test_constant_feature_is_exact(kernels, path, value):
    x = np.full((37, 3), value, np.float32)
    beta = np.array([1, 2, 3], np.float32)
    y, mean, var = kernels.forward(x, beta=beta)
    np.testing.assert_array_equal(mean, x[0])
    np.testing.assert_array_equal(var, np.zeros(3))
    np.testing.assert_array_equal(y, np.broadcast_to(beta, x.shape))


@each_path
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_their_feature_only(kernels, rng, dtype, path, value):
    x, gamma, beta, *_ = data(rng, dtype, (19, 12))
    x[9, 5] = value
    y, mean, var = kernels.forward(x, gamma, beta)
    others = np.arange(12) != 5
    assert np.isnan(y[:, 5]).all()
    assert np.isnan(var[5])
    assert not np.isfinite(mean[5])
    assert np.isfinite(y[:, others]).all()
    assert np.isfinite(var[others]).all()
    dx, *_ = kernels.backward(np.ones_like(x), x, y, gamma, beta, mean, var)
    assert np.isnan(dx[:, 5]).all()
    assert np.isfinite(dx[:, others]).all()


def test_small_arrays_take_one_launch(kernels, memory, rng):
    x, gamma, beta, mean, var, dy, z = data(rng, np.float32, (60, 5))
    kernels.forward(x, gamma, beta, SIGMOID)
    kernels.backward(dy, x, z, gamma, beta, mean, var, SIGMOID)
    assert list(memory.driver.launches.values()) == [1, 1]


@pytest.mark.parametrize(("m", "c"), [(1025, 1), (250 * 32 * 32, 96), (3136, 1024), (4_000_000, 3), (12250, 4001)])
def test_chunks_cover_the_rows(m, c):
    for blocks, least in ((norm.SUM_BLOCKS, 8), (norm.ROW_BLOCKS, 4)):
        (chunks, panels), (across, down), chunk = norm.tile(m, c, blocks, least)
        assert (chunks - 1) * chunk < m <= chunks * chunk
        assert 4 * across * panels >= c
        assert 128 < across * down <= norm.THREADS
        assert chunks * panels <= blocks + panels


@pytest.mark.parametrize("kernel", [*norm.normalize_kernels[True, RELU], *norm.gradient_kernels[True, RELU]])
@pytest.mark.slow
def test_float64_is_left_to_the_coefficients(kernel):
    ptx, _ = launch.compile_ptx(kernel, launch.FLOAT32, (9, 0))
    arithmetic = re.findall(r"\b(?:add|sub|mul|fma|div|sqrt|min|max)\S*\.f64\b", ptx)
    # of four channels the mean, in two parts, and the variance, if it is more than float32 holds
    assert sorted(arithmetic) == ["mul.f64"] * 4 + ["sub.f64"] * 4
    assert "ld.global.v4.f32" in ptx
    assert "st.global.v4.f32" in ptx


# Many at once


def test_branches_of_one_result_match_the_reference(check_kernel, rng, dtype):
    m, widths, activations = 37, (3, 8, 5), [RELU, IDENTITY, SIGMOID]
    columns = [0, 3, 11]
    xs = [rng.standard_normal((m, c)).astype(dtype) for c in widths]
    gammas, betas = ([rng.standard_normal(c).astype(dtype) for c in widths] for _ in range(2))
    room = [[np.zeros(c) for c in widths] for _ in range(2)]
    kept = [[rng.uniform(1, 2, c * (c != 8)).astype(dtype) for c in widths] for _ in range(2)]  # one of them has none
    y = np.zeros((m, 17), dtype)
    given = check_kernel(
        "norm", "batch_norms_forward", xs, gammas, betas, [1e-5] * 3, activations, y, columns, *room, [0.9] * 3, *kept,
        ulps=64, precision=dtype,
    )  # fmt: skip
    y, means, variances = given[5], given[7], given[8]
    dy = rng.standard_normal(y.shape).astype(dtype)
    out = [[np.zeros_like(x) for x in xs], *([np.zeros(c, dtype) for c in widths] for _ in range(2))]
    check_kernel(
        "norm", "batch_norms_backward", dy, xs, y, columns, gammas, betas, means, variances, [1e-5] * 3, activations,
        *out, ulps=64,
    )  # fmt: skip


class Branches:
    """Some x, and what is normalized from them into one y; every activation has its turn, unless it is given."""

    def __init__(self, memory, rng, dtype, m, widths, activation=None):
        self.memory, self.widths, self.dtype = memory, widths, dtype
        self.columns = [4 * (b + 1) + sum(widths[:b]) for b in range(len(widths))]
        self.xs, self.gammas, self.betas = [], [], []
        for c in widths:
            x, gamma, beta, *_ = data(rng, dtype, (m, c))
            x[:, -1] *= 1e25  # float32 does not hold the squares
            for array, arrays in ((x, self.xs), (gamma, self.gammas), (beta, self.betas)):
                arrays.append(memory.put(array))
        self.eps = [10.0 ** -(b + 3) for b in range(len(widths))]
        turns = [RELU, IDENTITY, SIGMOID] if activation is None else [activation]
        self.activations = [turns[b % len(turns)] for b in range(len(widths))]
        self.shape = m, 4 * (len(widths) + 1) + sum(widths)
        self.dy = rng.standard_normal(self.shape).astype(dtype)

    def new(self, dtype, value=np.nan):
        return [self.memory.put(np.full(c, value, dtype)) for c in self.widths]

    def results(self, calls):
        """The bytes of all that is computed, by one call for all branches or one for each."""
        forward, backward = norm.batch_norms_forward, norm.batch_norms_backward
        if calls == "each":
            forward = functools.partial(one_by_one, norm.batch_norm_forward)
            backward = functools.partial(one_by_one, norm.batch_norm_backward)
        y, dy = self.memory.put(np.full(self.shape, SENTINEL, self.dtype)), self.memory.put(self.dy)
        statistics = self.new(np.float64), self.new(np.float64)
        running = self.new(self.dtype, 2), self.new(self.dtype, 3)
        given = self.gammas, self.betas, self.eps, self.activations
        forward(self.xs, *given, y, self.columns, *statistics, [0.9] * len(self.xs), *running)
        dxs = [self.memory.put(np.full(x.shape, np.nan, self.dtype)) for x in self.xs]
        sums = self.new(self.dtype), self.new(self.dtype)
        given = self.gammas, self.betas, *statistics, self.eps, self.activations
        backward(dy, self.xs, y, self.columns, *given, dxs, *sums)
        arrays = itertools.chain([y], dxs, *statistics, *running, *sums)
        return [self.memory.get(array).tobytes() for array in arrays]


@each_path
@pytest.mark.parametrize("widths", [(8,), (3, 8, 5), (8, 16, 4, 12), (4, 1, 9, 8, 20)], ids=str)
def test_branches_have_the_bits_of_a_call_for_each(memory, rng, dtype, path, widths):
    branches = Branches(memory, rng, dtype, 33, widths)
    assert branches.results("all") == branches.results("each")


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(24, 8, 48), (4, 1, 9, 8, 264)], ids=str)
@pytest.mark.parametrize("m", [61, 1300])
def test_branches_have_the_bits_of_a_call_for_each_on_the_host(monkeypatch, rng, dtype, m, widths):
    branches = Branches(Cuda(monkeypatch, on_host=True), rng, dtype, m, widths)
    assert branches.results("all") == branches.results("each")


@pytest.mark.parametrize(("in_one", "expected"), [(True, 2), (False, 6)], ids=["one launch", "chunks"])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_four_branches_take_the_launches_of_one(memory, rng, path, expected, count):
    branches = Branches(memory, rng, np.float32, 33, (8, 16, 4, 12, 20)[:count], RELU)
    branches.results("all")
    assert sum(memory.driver.launches.values()) == expected * -(-count // 4)
