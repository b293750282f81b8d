"""A NaN on its way through the convolutions of CPU, CUDA and reference, for windows of every kind.

It reaches what its windows reach and nothing else; but where the CPU computes pairs of pixels it reaches both of a pair, and by
Winograd's products all weights of a pair of channels, as docs/convolution.md says. 3 x 3 windows of stride 1, which the CPU computes
by Winograd's products or by pairs, are in test_conv.py.
"""

import importlib

import numpy as np
import pytest
from targets import target_named

from minigrad.kernels.cpu import conv
from minigrad.kernels.cpu.parts import winograd
from minigrad.ops.window import resolve

H, W = 9, 8
FEW = 8  # channels, of which the simulator takes no more; a multiple of four, which are loaded at once
PATHS = {  # size, stride, padding, dilation; and channels of source and target
    "1x1": (1, 1, 0, 1, 5, 6),
    "1x1 many channels": (1, 1, 0, 1, 33, 40),
    "1x1 strided": (1, 2, 0, 1, 5, 6),
    "5x5": (5, 1, 2, 1, 3, 6),
    "5x5 many channels": (5, 1, 2, 1, 33, 40),
    "5x5 strided": (5, 3, 1, 1, 3, 6),
    "3x3 strided": (3, 2, 1, 1, 16, 40),
    "3x3 dilated": (3, 1, 2, 2, 16, 40),
    "2x3 at one side": ((2, 3), (2, 1), ((0, 1), (2, 0)), 1, 4, 5),
}
PLACES = [(0, 0), (4, 3), (8, 7), (5, 0)]
every_path = pytest.mark.parametrize("path", PATHS)


class Reference:
    """The specification itself."""

    name = "reference"

    def run(self, family, name, *arguments):
        getattr(importlib.import_module(f"minigrad.kernels.reference.{family}"), name)(*arguments)
        return arguments


@pytest.fixture(params=["reference", "cpu", "cuda", pytest.param("cuda, host", marks=pytest.mark.slow)])
def runs(request, monkeypatch):
    return Reference() if request.param == "reference" else target_named(request.param, monkeypatch)


def problem(runs, path, rng, images=2):
    """(x, w, dy, window)."""
    size, stride, padding, dilation, c, k = PATHS[path]
    if runs.name == "cuda":
        c, k = min(c, FEW), min(k, FEW)
    window = resolve("conv", (H, W), size, stride, padding, dilation)
    shapes = (images, H, W, c), (window.kh, window.kw, c, k), (images, window.oh, window.ow, k)
    return *[rng.standard_normal(shape).astype(np.float32) for shape in shapes], window


def meetings(window):
    """(row of the result, its column, row of the window, column of it, row of the image, column): who meets whom."""
    for i, j, a, b in np.ndindex(window.oh, window.ow, window.kh, window.kw):
        row, column = i * window.sh - window.top + a * window.dil_h, j * window.sw - window.left + b * window.dil_w
        if 0 <= row < H and 0 <= column < W:
            yield i, j, a, b, row, column


def for_pairs(runs, expected, results, window):
    """What is expected, for pairs of results where those are computed together."""
    if runs.name == "cpu" and conv.pairs_pay(results, window):
        return expected.reshape(*expected.shape[:2], -1, 2).any(axis=3).repeat(2, axis=2)
    return expected


def exactly(found, expected):
    """Whether NaN is where it is expected and nowhere else, of whatever stands along the last axes."""
    lost = np.isnan(found)
    expected = expected.reshape(expected.shape + (1,) * (lost.ndim - expected.ndim))
    np.testing.assert_array_equal(lost, np.broadcast_to(expected, lost.shape))


@every_path
def test_nan_in_a_pixel_reaches_its_windows_and_no_others(runs, path, rng):
    x, w, dy, window = problem(runs, path, rng, images=1 + len(PLACES))
    for image, place in enumerate(PLACES, 1):
        x[image, *place, 2] = np.nan
    *_, y = runs.run("conv", "conv_forward", x, w, np.zeros(w.shape[3], np.float32), window, np.zeros_like(dy))
    expected = np.zeros(y.shape[:3], bool)
    for i, j, _, _, *pixel in meetings(window):
        expected[1:, i, j] |= [tuple(pixel) == place for place in PLACES]
    exactly(y, for_pairs(runs, expected, y, window))


@every_path
def test_nan_in_a_gradient_reaches_the_pixels_of_its_window_and_no_others(runs, path, rng):
    x, w, dy, window = problem(runs, path, rng, images=4)
    places = [(0, 0), (window.oh - 1, window.ow - 1), (window.oh // 2, window.ow // 2)]
    for image, place in enumerate(places, 1):
        dy[image, *place, 3] = np.nan
    *_, dx = runs.run("conv", "conv_backward_x", dy, w, window, np.zeros_like(x))
    expected = np.zeros(dx.shape[:3], bool)
    for i, j, _, _, *pixel in meetings(window):
        expected[1:, *pixel] |= [(i, j) == place for place in places]
    exactly(dx, for_pairs(runs, expected, dx, window))


@every_path
def test_nan_in_a_pixel_reaches_the_weights_that_meet_it_and_no_others(runs, path, rng):
    x, w, dy, window = problem(runs, path, rng)
    for place in PLACES:
        given = x.copy()
        given[1, *place, 2] = np.nan
        *_, dw = runs.run("conv", "conv_backward_w", given, dy, window, np.zeros_like(w))
        expected = np.zeros(dw.shape[:3], bool)
        for _, _, a, b, *pixel in meetings(window):
            expected[a, b, 2] |= tuple(pixel) == place
        if runs.name == "cpu" and winograd.pays(x, dy, window):
            expected[:, :, 2] |= expected[:, :, 2].any()
        exactly(dw, expected)


@every_path
def test_nan_in_a_weight_reaches_its_channel_wherever_it_meets_a_pixel(runs, path, rng):
    x, w, dy, window = problem(runs, path, rng)
    w[0, 0, 1, 4] = np.nan
    *_, y = runs.run("conv", "conv_forward", x, w, np.zeros(w.shape[3], np.float32), window, np.zeros_like(dy))
    assert np.isfinite(np.delete(y, 4, axis=3)).all()
    met = np.zeros(y.shape[:3], bool)
    for i, j, a, b, *_ in meetings(window):
        met[:, i, j] |= (a, b) == (0, 0)
    assert np.isnan(y[..., 4][met]).all()  # on padding, zero times NaN may be one or may be left out
