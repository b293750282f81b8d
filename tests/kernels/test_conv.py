"""The convolution kernels of the CPU against the reference, for drawn shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import Cpu

import minigrad as mg
from minigrad.kernels.cpu import conv as cpu
from minigrad.kernels.cpu.parts import winograd
from minigrad.kernels.cpu.vector.target import HAS_BFLOAT16
from minigrad.kernels.reference import conv as reference
from minigrad.ops.window import resolve

PASSES = ("conv_forward", "conv_backward_x", "conv_backward_w")


def small(low, high):
    return st.integers(low, high)


@st.composite
def problems(draw):
    """(x shape, w shape, y shape, window) where at least one window fits."""
    n, h, w, c, k = (draw(small(*limits)) for limits in ((1, 4), (1, 11), (1, 11), (1, 37), (1, 67)))
    kh, kw, sh, sw, dil_h, dil_w = (draw(small(*limits)) for limits in ((1, 5), (1, 5), (1, 3), (1, 3), (1, 2), (1, 2)))
    spans = (kh - 1) * dil_h + 1, (kw - 1) * dil_w + 1
    (top, bottom), (left, right) = ((draw(small(0, 3)), draw(small(0, 3))) for _ in range(2))
    bottom += max(0, spans[0] - h - top - bottom)
    right += max(0, spans[1] - w - left - right)
    window = resolve("conv", (h, w), (kh, kw), (sh, sw), ((top, bottom), (left, right)), (dil_h, dil_w))
    return (n, h, w, c), (kh, kw, c, k), (n, window.oh, window.ow, k), window


def arguments(name, rng, shapes, window, dtype, with_bias=False):
    """Those of one pass, on random arrays; the last is to be filled."""
    x, w, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    bias = rng.standard_normal(w.shape[3] if with_bias else 0).astype(dtype)
    inputs = {"conv_forward": (x, w, bias), "conv_backward_x": (dy, w), "conv_backward_w": (x, dy)}[name]
    result = np.full({"conv_forward": dy, "conv_backward_x": x, "conv_backward_w": w}[name].shape, np.nan, dtype)
    return *inputs, window, result


def agree(name, shapes, window, dtype, with_bias=False):
    """Assert that CPU and reference fill the same, within rounding of as many terms as are summed up."""
    given = arguments(name, np.random.default_rng(0), shapes, window, dtype, with_bias)
    *_, ours = Cpu().run("conv", name, *given)
    getattr(reference, name)(*given)
    theirs = given[-1]
    (n, _, _, c), (kh, kw, _, k), (_, oh, ow, _) = shapes
    terms = {"conv_forward": kh * kw * c, "conv_backward_x": kh * kw * k, "conv_backward_w": n * oh * ow}[name]
    bound = 4 * np.finfo(dtype).eps * max(terms, 4) ** 0.5 * 4
    np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound * max(1.0, terms**0.5))


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.wide)])
@given(problem=problems(), with_bias=st.booleans())
@settings(max_examples=30, deadline=None)
def test_agrees_with_the_reference(name, dtype, problem, with_bias):
    *shapes, window = problem
    agree(name, shapes, window, dtype, with_bias)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("name", PASSES)
@given(problem=problems(), with_bias=st.booleans())
@settings(max_examples=40, deadline=None)
def test_agrees_with_the_reference_in_bfloat16(name, problem, with_bias):
    *shapes, window = problem
    with mg.matmul_precision("bf16"):
        agree(name, shapes, window, np.float32, with_bias)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    ("shape", "k", "size"), [((8, 32, 32, 24), 32, 3), ((8, 16, 16, 48), 50, 5), ((16, 16, 17, 64), 65, 3)], ids=str
)
@pytest.mark.slow
def test_large_convolutions_agree_with_the_reference_in_bfloat16(name, shape, k, size):
    window = resolve("conv", shape[1:3], (size, size), 1, "same")
    with mg.matmul_precision("bf16"):
        agree(name, (shape, (size, size, shape[3], k), (*shape[:3], k)), window, np.float32)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    ("n", "size", "c", "k", "side"),
    [(9, 32, 24, 32, 3), (17, 8, 160, 96, 3), (5, 16, 16, 50, 5), (3, 33, 3, 64, 7)],
    ids=str,
)
def test_layers_of_real_sizes(name, n, size, c, k, side):
    shapes = (n, size, size, c), (side, side, c, k), (n, size, size, k)
    agree(name, shapes, resolve("conv", (size, size), side, 1, side // 2), np.float32)


@pytest.mark.parametrize("name", PASSES)
def test_odd_numbers_of_channels(name):
    agree(name, ((5, 14, 13, 37), (3, 3, 37, 50), (5, 14, 13, 50)), resolve("conv", (14, 13), 3, 1, 1), np.float32)


WAYS = {  # channels of the source and of the target
    "pairs of pixels": (3, 2),
    "groups of pixels": (3, 20),
    "Winograd's, 16 to 64": (16, 64),
    "Winograd's, 64 to 16": (64, 16),
    "Winograd's, 33 to 40": (33, 40),
}
PLACES = [(6, 6), (6, 7), (7, 6), (7, 7), (8, 9), (0, 0), (0, 7), (12, 0), (16, 17), (7, 17)]  # in a tile, and at edges
H, W = 17, 18
every_way = pytest.mark.parametrize("way", WAYS)


def reached_from(row, column, way):
    """Which results a pixel is in the window of, for 3 x 3 windows and a padding of 1, and who is computed from it with them."""
    reached = np.zeros((H, W), bool)
    reached[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    if way.startswith("Winograd"):  # all of the tile that the pixel is in the middle of, and what it sees of the others
        rows, columns = ({*range(i - 1, i + 2), *range(i // 4 * 4, i // 4 * 4 + 4)} for i in (row, column))
        reached[np.ix_([i for i in rows if 0 <= i < H], [j for j in columns if 0 <= j < W])] = True
    if way == "pairs of pixels":
        reached = reached.reshape(H, W // 2, 2).any(axis=2).repeat(2, axis=1)
    return reached


@pytest.mark.parametrize("name", ["conv_forward", "conv_backward_x"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@every_way
def test_what_is_not_finite_reaches_the_windows_that_see_it_and_those_computed_with_them(name, value, way):
    rng, window = np.random.default_rng(0), resolve("conv", (H, W), 3, 1, 1)
    c, k = WAYS[way]
    clean = rng.standard_normal((2, H, W, c)).astype(np.float32)
    w = rng.standard_normal((3, 3, c, k) if name == "conv_forward" else (3, 3, k, c)).astype(np.float32)
    more = (np.empty(0, np.float32),) if name == "conv_forward" else ()

    def run(images):
        results = np.empty((2, H, W, k), np.float32)
        assert winograd.pays(images, results, window) == way.startswith("Winograd")
        assert cpu.pairs_pay(results, window) == way.startswith("pairs")
        getattr(cpu, name)(images, w, *more, window, results)
        return results

    expected = run(clean)
    for row, column in PLACES:
        images = clean.copy()
        images[1, row, column, c - 1] = value
        y, reached = run(images), reached_from(row, column, way)
        lost = np.isnan(y) if np.isnan(value) else ~np.isfinite(y)
        assert lost[1, reached].all(), (row, column)
        assert y[1, ~reached].tobytes() == expected[1, ~reached].tobytes(), (row, column)
        assert y[0].tobytes() == expected[0].tobytes(), (row, column)


@every_way
def test_nan_in_a_pixel_reaches_the_gradients_of_the_weights_that_met_it_and_of_no_other_channel(way):
    rng, window = np.random.default_rng(0), resolve("conv", (H, W), 3, 1, 1)
    c, k = WAYS[way]
    clean, dy = (rng.standard_normal((2, H, W, channels)).astype(np.float32) for channels in (c, k))
    for row, column in PLACES:
        x, dw = clean.copy(), np.empty((3, 3, c, k), np.float32)
        x[1, row, column, 2] = np.nan
        cpu.conv_backward_w(x, dy, window, dw)
        down, across = ([last > 0, True, here > 0] for last, here in ((H - 1 - row, row), (W - 1 - column, column)))
        met = np.outer(down, across)  # not all, if the pixel lies at an edge
        assert np.isnan(dw[met][:, 2]).all(), (row, column)
        assert way.startswith("Winograd") or np.isfinite(dw[~met][:, 2]).all(), (row, column)
        assert np.isfinite(np.delete(dw, 2, axis=2)).all(), (row, column)
