"""Convolution of images (N, H, W, C), and of sequences (N, L, C)."""

from collections.abc import Sequence

import numpy as np

from minigrad.checks import integer
from minigrad.kernels.contract import Array
from minigrad.kernels.window import Window
from minigrad.ops.biased import Biased
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.depthwise import DepthwiseConv2d, GroupedConv2d
from minigrad.ops.launches import expand, filled, no_bias, product
from minigrad.ops.movement import reshape
from minigrad.ops.shapes import pixels
from minigrad.ops.window import Padding, Size, integers, resolve
from minigrad.tensor import Tensor


class Conv2d(Biased):
    """Each output pixel is the sum, over a window of the image, of pixel times weight."""

    formula = (
        "y[p] = b + Σ x[p + t] W[t] over the taps t;  dx[p + t] = Σ dy[p] W[t]ᵀ;  dW[t] = Σ x[p + t]ᵀ dy[p];  db = Σ dy"
    )
    adds_to = 0
    passes_on = False

    def forward(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, *, window: Window) -> np.ndarray:
        self.save(x if self.needs[1] else None, w if self.needs[0] else None)
        self.x_shape, self.w_shape = x.shape, w.shape
        self.window = window
        # a window of one pixel that steps over each: a matrix product
        around = window.top, window.bottom, window.left, window.right
        self.is_product = window.kh == window.kw == window.sh == window.sw == 1 and not any(around)
        y = self.empty((x.shape[0], window.oh, window.ow, w.shape[3]), x.dtype)
        bias = no_bias(self, x.dtype) if b is None else b
        if not y.size:
            return y
        if not w.size:  # no input channels
            return filled(self, y.shape, y.dtype, 0.0) if b is None else expand(self, b.reshape(1, 1, 1, -1), y.shape)
        if self.is_product:
            self.kernels.gemm.gemm(pixels(x), w.reshape(w.shape[2:]), bias, pixels(y), False, False)
        else:
            self.kernels.conv.conv_forward(x, w, bias, window, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, w = self.saved  # type: ignore[misc]
        dx = dw = db = None
        if self.needs[0]:
            if self.is_product:
                total = self.take_total()
                dx = product(self, pixels(dy), w.reshape(w.shape[2:]), trans_b=True, shape=self.x_shape, total=total)
            elif not dy.size:
                dx = filled(self, self.x_shape, dy.dtype, 0.0)
            else:
                dx = self.empty(self.x_shape, dy.dtype)
                if dx.size:
                    self.kernels.conv.conv_backward_x(dy, w, self.window, dx)
        if self.needs[1]:
            if self.is_product:
                dw = product(self, pixels(x), pixels(dy), trans_a=True, shape=self.w_shape)
            elif not dy.size or not x.size:
                dw = filled(self, self.w_shape, dy.dtype, 0.0)
            else:
                dw = self.empty(self.w_shape, dy.dtype)
                if dw.size:
                    self.kernels.conv.conv_backward_w(x, dy, self.window, dw)
        if self.needs[2]:
            db = self.empty(dy.shape[-1:], dy.dtype)
            if db.size:
                self.kernels.reduce.sum_forward(pixels(dy).reshape(1, -1, db.size), db.reshape(1, -1))
        return dx, dw, db

    def again(self, x: Array, w: Array) -> Array:
        return self.forward(x, w, None, window=self.window)


def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution: x (N, H, W, C), w (kh, kw, C / groups, K), b (K,) or None, result (N, OH, OW, K).

    The sum over the window is taken without a flip, as all neural networks do. stride and dilation are an int or a pair;
    padding is an int, a pair, a pair of pairs ((top, bottom), (left, right)), or "same" (result of ceil(H / stride)).
    With groups, which must divide C and K, the first K / groups channels of the result see the first C / groups of x
    alone, and so on: PyTorch's order. As many groups as channels of x are a depthwise convolution, with a kernel of its own;
    other groups are convolved one after the other.
    Raises ValueError for shapes that do not match or a window larger than the padded image, TypeError for dtypes.

    A NaN or an infinity in x reaches every output whose window sees it, and others only where the CPU computes two
    neighbouring outputs of a row as one (stride and dilation 1, even width of the result, K at most half a vector register,
    8 in float32 with AVX-512): there it makes NaNs of both, whichever sees it. By Winograd's way (on the CPU, windows of
    3 x 3 and 5 x 5, stride and dilation 1, float32, C and K at least 8, C K at least 128 with AVX-512 and 256 without, images
    that fill its tiles) one pixel that is not finite makes the gradients of all taps of a pair of channels so, and with 3 x 3
    windows all of a tile of 4 x 4 outputs, of which some are up to two pixels beyond the windows that see it. Rounding there
    is relative to the largest pixel of a tile. The gradient of x is a convolution of dy, and what is said of x holds for dy.
    C and K are those of a group; depthwise, what is not finite reaches the outputs that see it and no others.
    """
    groups = check_operands("conv2d", 4, x, w, b, groups)
    window = resolve("conv2d", (x.shape[1], x.shape[2]), w.shape[:2], stride, padding, dilation)
    return convolve(x, w, b, window, groups)


def conv1d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of sequences: x (N, L, C), w (size, C / groups, K), b (K,) or None, result (N, OL, K).

    It is `conv2d` of images one pixel high, whose arguments and errors it has; padding is an int, a pair (before, after), or
    "same". With padding=(dilation * (size - 1), 0) no output sees what comes after it.
    """
    groups = check_operands("conv1d", 3, x, w, b, groups)
    steps, gaps = (integer(f"conv1d: {name}", n) for name, n in (("stride", stride), ("dilation", dilation)))
    around: Padding = padding if isinstance(padding, str) else ((0, 0), integers("conv1d", "padding", padding))
    (n, length, c), (size, *channels) = x.shape, w.shape
    window = resolve("conv1d", (1, length), (1, size), (1, steps), around, (1, gaps))
    y = convolve(reshape(x, (n, 1, length, c)), reshape(w, (1, size, *channels)), b, window, groups)
    return reshape(y, (n, window.ow, w.shape[2]))


def convolve(x: Tensor, w: Tensor, b: Tensor | None, window: Window, groups: int) -> Tensor:
    """The convolution of images, whose operands have been checked."""
    if groups == 1:
        return Conv2d.apply(x, w, b, window=window)
    if groups == x.shape[3]:
        return DepthwiseConv2d.apply(x, w, b, window=window)
    return GroupedConv2d.apply(x, w, b, groups=groups, window=window)


LAYOUTS = {3: ("x (N, L, C)", "(size, {c}, K)"), 4: ("x (N, H, W, C)", "(kh, kw, {c}, K)")}


def check_operands(name: str, ndim: int, x: Tensor, w: Tensor, b: Tensor | None, groups: int) -> int:
    """groups as an int; ValueError unless x, w and b fit one another, TypeError unless they are floats of one dtype."""
    images, weight = float_tensor(name, x).shape, float_tensor(name, w).shape
    groups = integer(f"{name}: groups", groups)
    theirs, ours = LAYOUTS[ndim]
    if len(images) != ndim or len(weight) != ndim or (groups == 1 and images[-1] != weight[-2]):
        per_group = "C" if groups == 1 else "C / groups"
        raise ValueError(
            f"{name}: {theirs} and w {ours.format(c=per_group)} expected, got {images} and {weight}"
            + (f" with groups={groups}" if groups > 1 else "")
        )
    c, k = images[-1], weight[-1]
    for channels, whose in ((c, f"x {images}"), (k, f"w {weight}")):
        if channels % groups:
            raise ValueError(
                f"{name}: groups={groups} does not divide the {channels} channels on the last axis of {whose}; "
                "each group has as many of x and as many of the result as any other"
            )
    if weight[-2] != c // groups:
        raise ValueError(
            f"{name}: x {images} in {groups} groups has {c // groups} channels in each, so w must be "
            f"{ours.format(c=c // groups)}, but it is {weight}"
        )
    if b is not None and float_tensor(name, b).shape != (k,):
        raise ValueError(f"{name}: b must have shape ({k},) to match w {weight}, not {b.shape}")
    if x.dtype != w.dtype or (b is not None and b.dtype != x.dtype):
        refuse_dtypes(name, x=x, w=w, b=b)
    return groups
