"""Convolution of images (N, H, W, C)."""

import numpy as np

from minigrad.checks import integer
from minigrad.kernels.axes import Shape
from minigrad.kernels.contract import Array
from minigrad.kernels.window import Window
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.depthwise import DepthwiseConv2d, GroupedConv2d
from minigrad.ops.launches import expand, filled, no_bias, product
from minigrad.ops.shapes import pixels
from minigrad.ops.window import Padding, Size, resolve
from minigrad.tape import Op
from minigrad.tensor import Tensor


class Conv2d(Op):
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
    3 x 3, stride and dilation 1, float32, C and K at least 16, C K at least 1024, 64 tiles of 2 x 2 outputs or more) an
    infinity in x becomes NaN or infinite in the outputs that see it, and one pixel that is not finite makes all 9
    gradients of a pair of channels so. The gradient of x is a convolution of dy, and what is said of x holds for dy.
    C and K are those of a group; depthwise, what is not finite reaches the outputs that see it and no others.
    """
    image, weight = float_tensor("conv2d", x)._data, float_tensor("conv2d", w)._data
    groups = integer("conv2d: groups", groups)
    if groups == 1:
        if image.ndim != 4 or weight.ndim != 4 or image.shape[3] != weight.shape[2]:
            raise ValueError(
                f"conv2d: x (N, H, W, C) and w (kh, kw, C, K) expected, got {image.shape} and {weight.shape}"
            )
    else:
        check_groups(image.shape, weight.shape, groups)
    if b is not None and float_tensor("conv2d", b)._data.shape != weight.shape[3:]:
        raise ValueError(f"conv2d: b must have shape ({weight.shape[3]},) to match w {weight.shape}, not {b.shape}")
    if image.dtype != weight.dtype or (b is not None and b.dtype != image.dtype):
        refuse_dtypes("conv2d", x=x, w=w, b=b)
    window = resolve("conv2d", image.shape[1:3], weight.shape[:2], stride, padding, dilation)
    if groups == 1:
        return Conv2d.apply(x, w, b, window=window)
    if groups == image.shape[3]:
        return DepthwiseConv2d.apply(x, w, b, window=window)
    return GroupedConv2d.apply(x, w, b, groups=groups, window=window)


def check_groups(image: Shape, weight: Shape, groups: int) -> None:
    """Raise ValueError unless x and w of these shapes have channels in so many groups."""
    if len(image) != 4 or len(weight) != 4:
        raise ValueError(
            f"conv2d: x (N, H, W, C) and w (kh, kw, C / groups, K) expected, got {image} and {weight} with groups={groups}"
        )
    c, k = image[3], weight[3]
    for channels, whose in ((c, f"x {image}"), (k, f"w {weight}")):
        if channels % groups:
            raise ValueError(
                f"conv2d: groups={groups} does not divide the {channels} channels on the last axis of {whose}; "
                "each group has as many of x and as many of the result as any other"
            )
    if weight[2] != c // groups:
        raise ValueError(
            f"conv2d: x {image} in {groups} groups has {c // groups} channels in each, so w must be "
            f"(kh, kw, {c // groups}, K), but it is {weight}"
        )
