"""The transposed convolution of images (N, H, W, C): the gradient of a convolution's image, as a forward."""

import numpy as np

from minigrad.checks import integer
from minigrad.kernels.contract import Array
from minigrad.kernels.window import Window
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.forms import Form
from minigrad.ops.launches import filled, no_bias, read
from minigrad.ops.movement import concat
from minigrad.ops.window import Padding, Size, check_sizes, integers, paddings, pair
from minigrad.tensor import Tensor


class ConvTranspose2d(Form):
    """Each pixel of the image is spread, times the weights, over a window of the result, where all is added up."""

    formula = "y[p + t] = Σ x[p] W[t] over the pixels p and the taps t;  dx[p] = Σ dy[p + t] W[t]ᵀ;  dW[t] = Σ x[p]ᵀ dy[p + t]"
    factors = 2
    passes_on = False

    def forward(self, x: np.ndarray, w: np.ndarray, *, window: Window, image: tuple[int, int]) -> np.ndarray:
        self.save(x if self.needs[1] else None, w if self.needs[0] else None)
        self.x_shape, self.w_shape, self.window, self.image = x.shape, w.shape, window, image
        shape = x.shape[0], *image, w.shape[3]
        if not x.size or not w.size:
            return filled(self, shape, x.dtype, 0.0)
        y = self.empty(shape, x.dtype)
        self.kernels.conv.conv_backward_x(x, self.turned(w), window, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, w = self.saved  # type: ignore[misc]
        dx = dw = None
        if self.needs[0]:
            if not dy.size or not w.size:
                dx = filled(self, self.x_shape, dy.dtype, 0.0)
            else:
                dx = self.empty(self.x_shape, dy.dtype)
                if dx.size:
                    self.kernels.conv.conv_forward(dy, self.turned(w), no_bias(self, dy.dtype), self.window, dx)
        if self.needs[1]:
            if not dy.size or not x.size or 0 in self.w_shape:
                dw = filled(self, self.w_shape, dy.dtype, 0.0)
            else:
                kh, kw, c, k = self.w_shape
                turned = self.empty((kh, kw, k, c), dy.dtype)
                self.kernels.conv.conv_backward_w(dy, x, self.window, turned)
                dw = self.turned(turned)
        return dx, dw

    def again(self, x: Array, w: Array) -> Array:
        return self.forward(x, w, window=self.window, image=self.image)

    def turned(self, w: np.ndarray) -> np.ndarray:
        """Weights from the channels of the one to those of the other, the other way round: a new array."""
        kh, kw, c, k = w.shape
        return read(self, w, (kh, kw, k, c), (kw * c * k, c * k, 1, k), 0)


class DepthwiseConvTranspose2d(Form):
    """The same of each channel by itself."""

    formula = (
        "y[p + t] = Σ x[p] W[t] over the pixels p and the taps t, in each channel;  dx[p] = Σ dy[p + t] W[t];  "
        "dW[t] = Σ x[p] dy[p + t]"
    )
    factors = 2
    passes_on = False

    def forward(self, x: np.ndarray, w: np.ndarray, *, window: Window, image: tuple[int, int]) -> np.ndarray:
        self.save(x if self.needs[1] else None, w if self.needs[0] else None)
        self.x_shape, self.w_shape, self.window, self.image = x.shape, w.shape, window, image
        self.row = (*w.shape[:2], 1, x.shape[3])  # as the kernels have weights
        shape = x.shape[0], *image, x.shape[3]
        if not x.size:
            return filled(self, shape, x.dtype, 0.0)
        y = self.empty(shape, x.dtype)
        self.kernels.depthwise.depthwise_backward_x(x, w.reshape(self.row), window, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, w = self.saved  # type: ignore[misc]
        dx = dw = None
        if self.needs[0]:
            dx = self.empty(self.x_shape, dy.dtype)
            if dx.size:
                bias = no_bias(self, dy.dtype)
                self.kernels.depthwise.depthwise_forward(dy, w.reshape(self.row), bias, self.window, dx)
        if self.needs[1]:
            if x.size:
                dw = self.empty(self.w_shape, dy.dtype)
                self.kernels.depthwise.depthwise_backward_w(dy, x, self.window, dw.reshape(self.row))
            else:
                dw = filled(self, self.w_shape, dy.dtype, 0.0)
        return dx, dw

    def again(self, x: Array, w: Array) -> Array:
        return self.forward(x, w, window=self.window, image=self.image)


def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: x (N, H, W, C), w (kh, kw, C, K / groups), b (K,) or None, result (N, OH, OW, K).

    What the gradient of `conv2d`'s image is of its result: each pixel of x, times the weights, is added to the window of
    the result that it has with this stride. OH = (H - 1) stride - top - bottom + dilation (kh - 1) + output_padding + 1.
    stride, output_padding and dilation are an int or a pair; padding, which is cut off the result, is an int, a pair, or a
    pair of pairs ((top, bottom), (left, right)); output_padding, smaller than the stride or the dilation, adds rows at the
    bottom and columns on the right, which a stride leaves open. The arguments are PyTorch's, and so are the numbers; with
    groups, each is computed by itself, single channels by a kernel.
    Raises ValueError for shapes that do not match or an empty result, TypeError for dtypes.
    """
    name = "conv_transpose2d"
    image, weight = float_tensor(name, x)._data, float_tensor(name, w)._data
    groups = integer(f"{name}: groups", groups)
    if image.ndim != 4 or weight.ndim != 4 or image.shape[3] != weight.shape[2]:
        raise ValueError(
            f"{name}: x (N, H, W, C) and w (kh, kw, C, K / groups) expected, got {image.shape} and {weight.shape}"
        )
    c, k = weight.shape[2], weight.shape[3] * groups
    if c % groups:
        raise ValueError(f"{name}: groups={groups} does not divide the {c} channels of x {image.shape}")
    if b is not None and float_tensor(name, b)._data.shape != (k,):
        raise ValueError(
            f"{name}: b must have shape ({k},) to match w {weight.shape} in {groups} groups, not {b.shape}"
        )
    if image.dtype != weight.dtype or (b is not None and b.dtype != image.dtype):
        refuse_dtypes(name, x=x, w=w, b=b)
    window, size = spread(name, image.shape[1:3], weight.shape[:2], stride, padding, output_padding, dilation)
    if groups == 1:
        y = ConvTranspose2d.apply(x, w, window=window, image=size)
    elif groups == c == k:
        y = DepthwiseConvTranspose2d.apply(x, w, window=window, image=size)
    else:
        n = c // groups
        parts = [(x[..., g * n : (g + 1) * n], w[:, :, g * n : (g + 1) * n]) for g in range(groups)]
        y = concat([ConvTranspose2d.apply(*part, window=window, image=size) for part in parts])
    return y if b is None else y + b


def spread(
    name: str,
    image: tuple[int, int],
    size: tuple[int, int],
    stride: Size,
    padding: Padding,
    output_padding: Size,
    dilation: Size,
) -> tuple[Window, tuple[int, int]]:
    """The window of the convolution that this is the transposed of, and (height, width) of the result."""
    steps, gaps = pair(name, "stride", stride), pair(name, "dilation", dilation)
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding must be an int, a pair or a pair of pairs, not {padding!r}")
    sides, more = paddings(name, padding), integers(name, "output_padding", output_padding)
    for extra, step, gap in zip(more, steps, gaps, strict=True):
        if not 0 <= extra < max(step, gap):
            raise ValueError(
                f"{name}: output_padding must be from 0 to below the stride or the dilation, {steps} and {gaps}, not {more}"
            )
    axes = zip(image, size, steps, sides, gaps, more, strict=True)
    height, width = (
        (n - 1) * step - sum(side) + gap * (taps - 1) + extra + 1 if n else 0
        for n, taps, step, side, gap, extra in axes
    )
    if (height < 1 or width < 1) and 0 not in image:
        raise ValueError(
            f"{name}: the result would be {height} x {width}: the padding {padding!r} cuts off all that a window {size} makes "
            f"of an image {image}; use a smaller padding"
        )
    (top, bottom), (left, right) = sides
    check_sizes(name, (height, width), sides, image)
    return Window(*size, *steps, top, bottom, left, right, *gaps, *image), (height, width)
