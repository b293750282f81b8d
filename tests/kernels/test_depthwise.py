"""The kernels of depthwise convolution, of every target, against the reference."""

import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu import depthwise
from minigrad.ops.window import resolve

# images, channels of the result to one of the image, size, stride, padding ((top, bottom), (left, right)), dilation
CASES = {
    "one pixel": ((1, 1, 1, 1), 1, (1, 1), 1, ((0, 0), (0, 0)), 1),
    "same 3x3": ((2, 5, 7, 4), 1, (3, 3), 1, ((1, 1), (1, 1)), 1),
    "same 3x3, stride 2": ((2, 6, 7, 5), 1, (3, 3), 2, ((0, 1), (1, 1)), 1),
    "two from each": ((2, 5, 4, 3), 2, (2, 3), (2, 1), ((1, 0), (1, 1)), 1),
    "three from each, dilation": ((1, 7, 8, 2), 3, (3, 2), (1, 2), ((2, 2), (1, 0)), (2, 3)),
}
SMALL = {
    "17 channels": ((2, 4, 21, 17), 1, (3, 3), 1, ((1, 1), (1, 1)), 1),
    "33 channels, stride 2": ((1, 9, 23, 33), 1, (3, 3), 2, ((1, 1), (1, 1)), 1),
    "32 channels": ((1, 5, 14, 32), 1, (3, 3), 1, ((1, 1), (1, 1)), 1),
    "16 channels, stride 2": ((1, 11, 20, 16), 1, (3, 3), 2, ((0, 1), (0, 1)), 1),
    "16 channels, 5x5": ((2, 9, 13, 16), 1, (5, 5), 1, ((2, 2), (2, 2)), 1),
    "strides larger than the window": ((1, 9, 11, 19), 1, (2, 2), (4, 3), ((0, 0), (0, 0)), 1),
    "stride and dilation": ((1, 12, 13, 16), 1, (3, 3), (4, 2), ((2, 1), (3, 2)), (2, 4)),
    "windows in the padding": ((1, 2, 3, 20), 1, (2, 3), 1, ((4, 3), (5, 4)), 1),
    "10 from each": ((1, 9, 6, 3), 10, (3, 3), 1, ((1, 1), (1, 1)), 1),
}
LARGE = {
    "large": ((3, 26, 25, 36), 1, (3, 3), 1, ((1, 1), (1, 1)), 1),
    "large, stride 2, two from each": ((3, 46, 45, 16), 2, (3, 3), 2, ((1, 1), (1, 1)), 1),
}
CUDA = {
    "fours of rows of several tiles": ((1, 2, 35, 8), 1, (1, 3), (2, 1), ((0, 0), (1, 1)), 1),
    "several tiles of channels": ((1, 2, 5, 36), 1, (2, 2), 1, ((0, 0), (0, 0)), 1),
    "sums of several blocks": ((2, 17, 17, 2), 1, (1, 2), 1, ((0, 0), (0, 0)), 1),
}
ALL = {**CASES, **SMALL, **LARGE, **CUDA}
SEVERAL_THREADS = [pytest.param(name, marks=[pytest.mark.cpu, pytest.mark.slow]) for name in LARGE]  # compiled anew
PASSES = ["depthwise_forward", "depthwise_backward_x", "depthwise_backward_w"]
each_pass = pytest.mark.parametrize("kernel", PASSES)


def arguments(kernel, case, rng, dtype, biased=False):
    """Those of one pass, on random arrays; the last is to be filled."""
    (n, h, w, c), m, size, stride, padding, dilation = case
    window = resolve("depthwise", (h, w), size, stride, padding, dilation)
    shapes = (n, h, w, c), (*size, 1, m * c), (n, window.oh, window.ow, m * c)
    x, w, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    bias = rng.standard_normal(m * c if biased else 0).astype(dtype)
    given = {PASSES[0]: (x, w, bias), PASSES[1]: (dy, w), PASSES[2]: (x, dy)}[kernel]
    result = np.full(dict(zip(PASSES, (dy, x, w), strict=True))[kernel].shape, np.nan, dtype)
    return *given, window, result


@each_pass
@pytest.mark.parametrize("name", [*CASES, *on_cpu(*SMALL), *SEVERAL_THREADS, *on_cuda(*CUDA)])
def test_matches_reference(check_kernel, rng, dtype, kernel, name):
    given = arguments(kernel, ALL[name], rng, dtype, biased=name != "same 3x3")
    terms = given[1].shape[0] * given[1].shape[1] * given[1].shape[2] if kernel == PASSES[2] else 9
    check_kernel("depthwise", kernel, *given, parallel=name in LARGE, ulps=4 + terms**0.5)


@pytest.mark.parametrize("name", [*CASES, *SEVERAL_THREADS])
def test_both_gradients_together_are_those_of_each_alone(target, rng, dtype, name):
    x, dy, window, dw = arguments(PASSES[2], ALL[name], rng, dtype)
    w, dx = rng.standard_normal(dw.shape).astype(dtype), np.full(x.shape, np.nan, dtype)
    *_, both_dx, both_dw = target.run("depthwise", "depthwise_backward", x, dy, w, window, dx, dw)
    *_, alone_dx = target.run("depthwise", PASSES[1], dy, w, window, dx)
    *_, alone_dw = target.run("depthwise", PASSES[2], x, dy, window, dw)
    np.testing.assert_array_equal(both_dx, alone_dx)
    np.testing.assert_array_equal(both_dw, alone_dw)


@each_pass
@pytest.mark.parametrize("name", ["same 3x3, stride 2", *on_cpu("17 channels", "10 from each")])
def test_nan_stays_in_its_channel_and_its_windows(check_kernel, rng, dtype, kernel, name):
    given = arguments(kernel, ALL[name], rng, dtype)
    given[0][0, 1, 2, 1] = np.nan
    *_, result = check_kernel("depthwise", kernel, *given)
    lost = np.isnan(result)
    assert lost.any()
    assert np.isfinite(result[..., -1]).all()


@pytest.mark.cpu
@each_pass
@pytest.mark.parametrize("name", [*CASES, *SMALL])
def test_no_element_outside_the_arrays_is_read(rng, kernel, name):
    *given, window, result = arguments(kernel, ALL[name], rng, np.float32)
    around = 40
    inside = []
    for array in given:
        memory = np.full(array.size + 2 * around, np.nan, array.dtype)
        inside.append(memory[around : around + array.size].reshape(array.shape))
        inside[-1][...] = array
    getattr(depthwise, kernel)(*inside, window, result)
    assert np.isfinite(result).all()
