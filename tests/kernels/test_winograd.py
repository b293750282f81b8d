"""Convolutions that take another way than tap by tap: Winograd's, and two neighbouring pixels at once."""

import operator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from minigrad.kernels.cpu import conv
from minigrad.kernels.cpu.conv import pairs_pay
from minigrad.kernels.cpu.parts import winograd
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.vector import winograd as vector
from minigrad.kernels.cpu.vector.winograd import PIXELS_ACROSS, TAPS, outputs_across
from minigrad.kernels.reference import conv as reference
from minigrad.ops.window import resolve

PASSES = ("conv_forward", "conv_backward_x", "conv_backward_w")
WINOGRAD = [  # (images, height, width, channels, results, (top, left), (bottom, right)), and the sides of other windows than 3 x 3
    (3, 12, 10, 32, 48, (1, 1), (1, 1)),
    (2, 13, 11, 40, 33, (1, 1), (1, 1)),  # half a tile at the end of both axes, channels that fill no register
    (7, 9, 8, 65, 17, (0, 0), (0, 0)),
    (2, 10, 15, 33, 40, (0, 2), (2, 1)),
    (5, 8, 8, 16, 64, (2, 2), (0, 1)),
    (70, 1, 3, 32, 32, (1, 1), (1, 1)),
    (64, 3, 1, 16, 100, (1, 1), (1, 1)),
    (3, 12, 10, 32, 48, (2, 2), (2, 2), (5, 5)),
    (2, 13, 11, 40, 33, (4, 2), (1, 2), (5, 5)),
    (4, 9, 7, 16, 65, (0, 0), (0, 0), (5, 5)),
]
PAIRS = [  # and the sides of the window
    (2, 9, 8, 5, 7, (2, 2), (2, 2), (5, 5)),
    (3, 6, 4, 24, 8, (1, 1), (1, 1), (3, 3)),
    (1, 5, 6, 3, 1, (0, 0), (0, 0), (2, 1)),
    (2, 7, 2, 17, 3, (1, 0), (0, 3), (1, 4)),
    (1, 16, 16, 8, 8, (2, 2), (2, 2), (5, 5)),
]
DIRECT = SimpleNamespace(**{name: getattr(conv, name).itself for name in PASSES})
each_winograd = pytest.mark.parametrize("problem", WINOGRAD, ids=str)
each_pass = pytest.mark.parametrize("name", PASSES)


def sizes(problem):
    """((x, w, y) shapes, window)."""
    n, h, w, c, k, (top, left), (bottom, right), *size = problem
    window = resolve("conv", (h, w), size[0] if size else 3, 1, ((top, bottom), (left, right)))
    shapes = (n, h, w, c), (window.kh, window.kw, c, k), (n, window.oh, window.ow, k)
    return shapes, window


def draw(problem, dtype=np.float32, seed=0):
    """(x, w, dy, bias, window), the values of a spread that is not the same for all channels."""
    shapes, window = sizes(problem)
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.standard_normal(shape) * rng.uniform(0.2, 3, shape[-1]) for shape in shapes)
    return x.astype(dtype), w.astype(dtype), dy.astype(dtype), rng.standard_normal(shapes[1][3]).astype(dtype), window


def run(kernels, name, x, w, dy, bias, window):
    """What a pass fills."""
    inputs = {"conv_forward": (x, w, bias), "conv_backward_x": (dy, w), "conv_backward_w": (x, dy)}[name]
    result = np.full_like({"conv_forward": dy, "conv_backward_x": x, "conv_backward_w": w}[name], np.nan)
    getattr(kernels, name)(*inputs, window, result)
    return result


def chosen(name, x, w, dy, bias, window):
    """Whether the kernel hands this call to Winograd's."""
    arguments = {
        "conv_forward": (x, w, bias, window, dy),
        "conv_backward_x": (dy, w, window, x),
        "conv_backward_w": (x, dy, window, w),
    }[name]
    other, _ = getattr(conv, name).chosen(*arguments)
    return other is getattr(winograd, name.replace("conv", "winograd"))


def rounding(taps, c=32, k=8, tiles=200):
    """Root mean square error of Winograd's way in float32, by NumPy, with the points that stand."""
    rng, outputs = np.random.default_rng(0), outputs_across(taps)
    pixels = rng.standard_normal((tiles, PIXELS_ACROSS, PIXELS_ACROSS, c)).astype(np.float32)
    weights = rng.standard_normal((taps, taps, c, k)).astype(np.float32)

    def computed_in(kind):
        maps = (vector.pixels_map(), vector.window_map(taps), vector.result_map(taps))
        p, w, r = (np.array(matrix, float).astype(kind) for matrix in maps)
        x = np.einsum("ap,tpqc,bq->tabc", p, pixels.astype(kind), p)
        products = np.zeros((tiles, PIXELS_ACROSS, PIXELS_ACROSS, k), kind)
        for i, factors in enumerate(np.einsum("ap,pqck,bq->cabk", w, weights.astype(kind), w)):
            products += x[..., i, None] * factors
        return np.einsum("ia,tabk,jb->tijk", r, products, r)

    assert computed_in(np.float64).shape == (tiles, outputs, outputs, k)
    return np.sqrt(np.mean((computed_in(np.float32) - computed_in(np.float64)) ** 2))


@pytest.mark.parametrize("taps", TAPS)
def test_the_points_lose_less_to_rounding_than_the_usual_ones(taps, monkeypatch):
    ours = rounding(taps)
    monkeypatch.setattr(vector, "POINTS", tuple(map(Fraction, (0, 1, -1, 2, -2))))
    assert rounding(taps) > 1.8 * ours


@pytest.fixture
def for_all_sizes(monkeypatch):
    """Winograd's way is taken also where so few outputs do not pay."""
    monkeypatch.setattr(winograd, "LEAST_SAVED", 0)


@each_pass
@each_winograd
@pytest.mark.usefixtures("for_all_sizes")
def test_winograd_agrees_with_the_reference(name, problem):
    values = draw(problem)
    expected = run(reference, name, *values)
    assert chosen(name, *values)
    wide = [v.astype(np.float64) if isinstance(v, np.ndarray) else v for v in values]
    exact = run(reference, name, *wide)
    size = run(
        reference, name, *[np.abs(v) if isinstance(v, np.ndarray) else v for v in wide]
    )  # the sum of absolute terms
    error = np.abs(run(conv, name, *values) - exact) / size.max(axis=(0, 1, 2) if name != "conv_backward_w" else None)
    assert error.max() < 8 * np.finfo(np.float32).eps
    np.testing.assert_allclose(expected, exact, rtol=1e-5, atol=1e-5 * size.max())


@each_pass
@each_winograd
@pytest.mark.usefixtures("for_all_sizes")
def test_winograd_gives_the_same_bits_with_any_number_of_threads(name, problem):
    if threads.available_threads() < 2:
        pytest.skip("there is one core")
    values = draw(problem, seed=1)
    before = threads.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            threads.set_num_threads(count)
            results.append(run(conv, name, *values).tobytes())
    finally:
        threads.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize("taps", TAPS)
def test_maps_are_exact_in_rational_numbers_and_those_of_pixels_and_results_in_float32(taps):
    rng, outputs = np.random.default_rng(0), outputs_across(taps)
    pixels, weights, dy = ([Fraction(int(i)) for i in rng.integers(-9, 10, n)] for n in (PIXELS_ACROSS, taps, outputs))

    def apply(matrix, values):
        return [sum(map(operator.mul, row, values)) for row in matrix]

    def times(a, b):
        return list(map(operator.mul, a, b))

    places = apply(vector.pixels_map(), pixels)
    y = apply(vector.result_map(taps), times(places, apply(vector.window_map(taps), weights)))
    assert y == [sum(map(operator.mul, pixels[i:], weights)) for i in range(outputs)]
    dw = apply(vector.weights_map(taps), times(places, apply(vector.outputs_map(taps), dy)))
    assert dw == [sum(map(operator.mul, pixels[a:], dy)) for a in range(taps)]
    for matrix in (vector.pixels_map(), vector.result_map(taps), vector.weights_map(taps)):
        assert all(Fraction(float(np.float32(float(number)))) == number for row in matrix for number in row)


@each_pass
@each_winograd
@pytest.mark.usefixtures("for_all_sizes")
def test_rounding_errors_are_no_more_than_four_times_the_direct_ways(name, problem):
    values = draw(problem)
    exact = run(reference, name, *[v.astype(np.float64) if isinstance(v, np.ndarray) else v for v in values])
    ours, usual = (np.square(run(kernels, name, *values) - exact).mean() for kernels in (conv, DIRECT))
    assert ours < 16 * usual  # of the squares


@pytest.mark.parametrize(
    "change",
    ["float64", "stride", "dilation", "window", "few channels", "few weights", "narrow", "few tiles", "half empty"],
)
def test_winograd_is_for_what_it_pays_for(change):
    def allowed(shape, size=3, stride=1, dilation=1, c=32, k=48, dtype=np.float32):
        window = resolve("conv", shape[1:], size, stride, "same", dilation)
        return winograd.pays(np.empty((*shape, c), dtype), np.empty((*shape, k), dtype), window)

    images = (4, 16, 16)
    assert allowed(images)
    assert allowed(images, size=5)
    refused = {
        "float64": {"dtype": np.float64},
        "stride": {"stride": (2, 1)},
        "dilation": {"dilation": (1, 2)},
        "window": {"size": (3, 5)},
        "few channels": {"c": 7},
        "few weights": {"c": 8, "k": 8},
        "narrow": {"size": 5, "k": 8},
        "few tiles": {"shape": (1, 8, 8)},
        "half empty": {"shape": (16, 5, 5)},
    }[change]
    assert not allowed(**{"shape": images, **refused})


@each_pass
@pytest.mark.parametrize("problem", PAIRS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda kind: np.dtype(kind).name)
def test_pairs_of_pixels_agree_with_the_reference(name, problem, dtype):
    values = draw(problem, dtype)
    result = {"conv_forward": values[2], "conv_backward_x": values[0], "conv_backward_w": None}[name]
    few = problem[4] if name == "conv_forward" else problem[3]
    if (
        result is not None
        and few * np.dtype(dtype).itemsize <= 32
        and result.shape[2] % 2 == 0
        and conv.REGISTER_BITS == 512
    ):
        assert pairs_pay(result, values[-1])
    expected = run(reference, name, *values)
    bound = 64 * np.finfo(dtype).eps
    np.testing.assert_allclose(run(conv, name, *values), expected, rtol=bound, atol=bound * np.abs(expected).max())


def test_pairs_are_not_for_strides_or_odd_widths():
    def allowed(width=8, channels=4, stride=1, dilation=1):
        window = resolve("conv", (4, width), 3, stride, "same", dilation)
        return pairs_pay(np.empty((1, 4, width, channels), np.float32), window)

    half = conv.REGISTER_BITS // 64
    assert allowed(channels=half)
    assert not allowed(channels=half + 1)
    assert not allowed(width=7)
    assert not allowed(stride=(2, 1))
    assert not allowed(dilation=(1, 2))
