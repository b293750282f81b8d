"""How exact products of factors in two bfloat16 are, mg.matmul_precision("bf16_3x"): held to float64, float32 and TF32."""

import numpy as np
import pytest
from targets import target_named

import minigrad as mg
from minigrad.cli.verification import with_gradients
from minigrad.kernels.cuda import gemm
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.precision import Products, rounded_to_bfloat16

HOST = pytest.param("cuda, host", marks=pytest.mark.slow)
NO_BIAS = np.empty(0, np.float32)


@pytest.fixture(params=["cuda", HOST])
def memory(request, monkeypatch):
    """A GPU in Python, or on the host with checks, where tensor cores multiply however little there is."""
    memory = target_named(request.param, monkeypatch)
    monkeypatch.setattr(context, "matmul_precision", "bf16_3x")
    monkeypatch.setattr(plans, "TENSOR_WORK", 0)
    return memory


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def multiplied(memory, a, b):
    c = memory.empty((a.shape[0], b.shape[1]), np.float32)
    gemm.gemm(memory.put(a), memory.put(b), memory.put(NO_BIAS), c, False, False)
    return memory.get(c)


def in_parts(x):
    """High and low."""
    high = rounded_to_bfloat16(x)
    return high.astype(np.float64), rounded_to_bfloat16(x - high).astype(np.float64)


def test_three_products_of_parts_are_added(memory, rng):
    a, b = numbers(rng, 20, 40), numbers(rng, 40, 24)
    (high_a, low_a), (high_b, low_b) = in_parts(a), in_parts(b)
    wanted = high_a @ high_b + high_a @ low_b + low_a @ high_b
    np.testing.assert_allclose(multiplied(memory, a, b), wanted, rtol=0, atol=4e-6)
    for one in (high_a @ low_b, low_a @ high_b):
        assert np.abs(one).max() > 1e-3  # what would be missed


def outer_error(memory, x, y):
    """The largest relative error of products of two numbers each: a matrix of depth 1."""
    exact = x[:, None].astype(np.float64) * y
    return np.abs(multiplied(memory, x[:, None], y[None]) / exact - 1).max()


def test_a_product_is_wrong_by_less_than_two_to_the_minus_15(memory, monkeypatch, rng):
    x, y = (np.float32(1) + rng.random(size, np.float32) for size in (128, 128))
    worst = np.float32(1 + 2**-8 - 2**-17)  # low is as large as it can be, and is itself rounded by as much as can be
    x[0] = y[0] = worst
    assert 2**-17 < outer_error(memory, x, y) < 2**-15
    monkeypatch.setattr(context, "matmul_precision", "tf32")
    assert outer_error(memory, x, y) > 2**-11
    monkeypatch.setattr(context, "matmul_precision", "float32")
    assert outer_error(memory, x, y) <= 2**-24


def test_sums_are_nearer_to_those_of_float32_than_to_those_of_tf32(memory, monkeypatch, rng):
    a, b = numbers(rng, 32, 300), numbers(rng, 300, 32)
    exact, size = a.astype(np.float64) @ b, np.abs(a.astype(np.float64)) @ np.abs(b)
    errors = {}
    for precision in ("float32", "bf16_3x", "tf32", "bf16"):
        monkeypatch.setattr(context, "matmul_precision", precision)
        errors[precision] = np.sqrt(np.mean(((multiplied(memory, a, b) - exact) / size) ** 2))
    assert errors["bf16_3x"] < 2**-20
    assert errors["bf16_3x"] < errors["tf32"] / 50
    assert errors["tf32"] < errors["bf16"]
    assert errors["float32"] < errors["bf16_3x"]


@pytest.mark.filterwarnings("ignore:invalid value")
def test_large_and_small_numbers_stay_and_what_is_not_finite_is_seen(memory):
    x = np.float32([3.3e38, -3.3e38, 2**100 + 2**84, 1e-30, 1e-37, 0.0, -0.0])
    one = np.ones((1, 32), np.float32)
    found = multiplied(memory, x[:, None], one)
    np.testing.assert_allclose(found, np.repeat(x[:, None], 32, axis=1), rtol=2**-16, atol=2**-133)
    for unlike in (np.nan, np.inf, -np.inf, 3.4e38):
        assert not np.isfinite(multiplied(memory, np.float32([[unlike]]), one)).any()


def test_tensor_cores_only_for_what_is_large(memory, monkeypatch):
    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)
    assert gemm.tiles_for(float32, 1) == plans.BF16_3X_TILES
    assert gemm.tiles_for(float64, 1) == [plans.DOUBLE]
    taken = [plans.best_tiling(plans.BF16_3X_TILES, 4096, n, 512).tile for n in (16, 32, 33, 64, 96, 128, 512)]
    assert [tile.columns for tile in taken] == [32, 32, 64, 64, 128, 128, 128]
    monkeypatch.setattr(plans, "TENSOR_WORK", 1 << 20)
    assert gemm.tiles_for(float32, (1 << 20) - 1) == [plans.SMALL]


OPS = {
    "linear": (mg.linear, [(21, 35), (35, 13)]),
    "conv2d": (lambda x, w: mg.conv2d(x, w, padding=1), [(2, 9, 8, 5), (3, 3, 5, 7)]),
    "conv2d with strides": (lambda x, w: mg.conv2d(x, w, stride=2, dilation=2), [(2, 9, 8, 6), (3, 2, 6, 7)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_results_and_gradients_are_near_those_of_float32(host_gpu, monkeypatch, rng, name):
    monkeypatch.setattr(plans, "TENSOR_WORK", 0)
    f, shapes = OPS[name]
    x, w = (numbers(rng, *shape) for shape in shapes)
    dy = numbers(rng, *f(mg.tensor(x), mg.tensor(w)).shape)

    exact = with_gradients(f, "reference", np.float32, x, w, dy)
    with mg.matmul_precision("bf16_3x"):
        found = with_gradients(f, "cuda", np.float32, x, w, dy)
        again = with_gradients(f, "reference", np.float32, x, w, dy)
    for one, wanted, same in zip(found, exact, again, strict=True):
        np.testing.assert_array_equal(same, wanted)  # the reference knows no tensor cores
        np.testing.assert_allclose(one, wanted, rtol=0, atol=2**-16 * np.abs(wanted).max())


def test_the_cpu_computes_in_float32(rng):
    a, b = numbers(rng, 70, 90), numbers(rng, 90, 50)
    exact = (mg.tensor(a) @ mg.tensor(b)).numpy()
    with mg.matmul_precision("bf16_3x"):
        assert not Products.in_bfloat16
        assert (mg.tensor(a) @ mg.tensor(b)).numpy().tobytes() == exact.tobytes()
