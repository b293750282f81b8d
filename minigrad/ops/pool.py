"""Pooling over windows of images (N, H, W, C): maximum and average."""

import numpy as np

from minigrad.kernels.contract import Array
from minigrad.kernels.window import Window
from minigrad.ops.checks import image_tensor
from minigrad.ops.forms import Form
from minigrad.ops.launches import filled
from minigrad.ops.reduce import mean
from minigrad.ops.window import Padding, Size, resolve, times
from minigrad.tensor import Tensor

NARROW, WIDE = np.dtype(np.uint8), np.dtype(np.int32)  # for the place in a window of up to 256 pixels, and of more


class MaxPool(Form):
    """The largest element of every window; what backward needs is where it was, a byte for each."""

    formula = "y = max of x over the window;  dx = Σ dy of the windows in which x is the (first) maximum"
    passes_on = False

    def forward(self, x: np.ndarray, *, window: Window) -> np.ndarray:
        self.x_shape, self.window = x.shape, window
        shape = (x.shape[0], window.oh, window.ow, x.shape[3])
        y = self.empty(shape, x.dtype)
        winner = self.empty(shape, NARROW if window.kh * window.kw <= 256 else WIDE)
        if y.size:
            self.kernels.pool.max_pool_forward(x, window, y, winner)
        self.save(winner)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        (winner,) = self.saved  # type: ignore[misc]
        if not dy.size:
            return (filled(self, self.x_shape, dy.dtype, 0.0),)
        dx = self.empty(self.x_shape, dy.dtype)
        self.kernels.pool.max_pool_backward(dy, winner, self.window, dx)
        return (dx,)

    def again(self, x: Array) -> Array:
        (winner,) = self.saved  # type: ignore[misc]
        y = self.empty(winner.shape, x.dtype)
        if y.size:
            self.kernels.pool.max_pool_take(x, winner, self.window, y)
        return y


class AvgPool(Form):
    """The mean of every window's elements; padding is none."""

    formula = "y = Σ x / n over the n pixels of the window;  dx = Σ dy / n of the windows that x is in"
    passes_on = False

    def forward(self, x: np.ndarray, *, window: Window) -> np.ndarray:
        self.x_shape, self.window = x.shape, window
        y = self.empty((x.shape[0], window.oh, window.ow, x.shape[3]), x.dtype)
        if y.size:
            self.kernels.pool.avg_pool_forward(x, window, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        if not dy.size:
            return (filled(self, self.x_shape, dy.dtype, 0.0),)
        dx = self.empty(self.x_shape, dy.dtype)
        self.kernels.pool.avg_pool_backward(dy, self.window, dx)
        return (dx,)

    def again(self, x: Array) -> Array:
        return self.forward(x, window=self.window)


def pooling_window(name: str, x: Tensor, size: Size, stride: Size | None, padding: Padding) -> Window:
    """The window over x, which must meet a pixel wherever it is."""
    _, h, w, _ = image_tensor(name, x).shape
    window = resolve(name, (h, w), size, size if stride is None else stride, padding)
    if h * w == 0 and window.oh * window.ow:
        raise ValueError(f"{name}: images of shape {x.shape} have no pixels to pool over")
    if max(window.top, window.bottom) >= window.kh or max(window.left, window.right) >= window.kw:
        raise ValueError(
            f"{name}: with padding {padding!r}, a window of {times((window.kh, window.kw))} pixels can lie wholly in the "
            "padding, where there is nothing to pool over; the padding must be smaller than the window"
        )
    return window


def max_pool2d(x: Tensor, size: Size, *, stride: Size | None = None, padding: Padding = 0) -> Tensor:
    """The largest element of every window, channel by channel: (N, H, W, C) to (N, OH, OW, C).

    size and stride (by default the size) are an int or a pair (vertical, horizontal), in pixels; padding is an int, a pair,
    a pair of pairs ((top, bottom), (left, right)), or "same". OH = floor((H + top + bottom - size) / stride) + 1, or
    ceil(H / stride) for "same", which puts an odd pixel of padding at the bottom and on the right, as TensorFlow does.
    Padding is never the largest. Of equal elements the first in row-major order gets the gradient, and a NaN is larger than
    any number. Raises ValueError for shapes that do not fit and for padding as large as the window.
    """
    return MaxPool.apply(x, window=pooling_window("max_pool2d", x, size, stride, padding))


def avg_pool2d(x: Tensor, size: Size, *, stride: Size | None = None, padding: Padding = 0) -> Tensor:
    """The mean of every window's elements, channel by channel: (N, H, W, C) to (N, OH, OW, C).

    Arguments, shapes and errors are those of `max_pool2d`. Padding is not counted: a window at the edge averages the
    pixels it covers. Sums are in the type of x, over each row of the window and then over the rows.
    """
    return AvgPool.apply(x, window=pooling_window("avg_pool2d", x, size, stride, padding))


def global_avg_pool(x: Tensor) -> Tensor:
    """The mean of every channel over the image: (N, H, W, C) to (N, C); float32 is added up in float64.

    Raises ValueError for images without pixels.
    """
    if 0 in image_tensor("global_avg_pool", x).shape[1:3]:
        raise ValueError(f"global_avg_pool: images of shape {x.shape} have no pixels to pool over")
    return mean(x, axis=(1, 2))
