"""Convolution in groups of channels: of single channels, which is a kernel's, and of several, which goes group by group."""

import numpy as np

from minigrad.kernels.axes import Shape, contiguous_strides
from minigrad.kernels.contract import Array
from minigrad.kernels.window import Window
from minigrad.ops.biased import Biased
from minigrad.ops.launches import expand, filled, no_bias, read, sum_axes, write


class DepthwiseConv2d(Biased):
    """Each output pixel is the sum, over a window of one channel of the image, of pixel times weight."""

    formula = (
        "y[p] = b + Σ x[p + t] W[t] over the taps t, in each channel;  dx[p + t] = Σ dy[p] W[t];  "
        "dW[t] = Σ x[p + t] dy[p];  db = Σ dy"
    )
    passes_on = False

    def forward(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, *, window: Window) -> np.ndarray:
        self.save(x if self.needs[1] else None, w if self.needs[0] else None)
        self.x_shape, self.w_shape, self.window = x.shape, w.shape, window
        y = self.empty((x.shape[0], window.oh, window.ow, w.shape[3]), x.dtype)
        if y.size:
            bias = no_bias(self, x.dtype) if b is None else b
            self.kernels.depthwise.depthwise_forward(x, w, bias, window, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, w = self.saved  # type: ignore[misc]
        dx = dw = db = None
        if self.needs[0] and self.needs[1] and dy.size and x.size:
            dx, dw = self.empty(self.x_shape, dy.dtype), self.empty(self.w_shape, dy.dtype)
            self.kernels.depthwise.depthwise_backward(x, dy, w, self.window, dx, dw)
        elif self.needs[0]:
            if dy.size:
                dx = self.empty(self.x_shape, dy.dtype)
                if dx.size:
                    self.kernels.depthwise.depthwise_backward_x(dy, w, self.window, dx)
            else:
                dx = filled(self, self.x_shape, dy.dtype, 0.0)
        if self.needs[1] and dw is None:
            if dy.size and x.size:
                dw = self.empty(self.w_shape, dy.dtype)
                self.kernels.depthwise.depthwise_backward_w(x, dy, self.window, dw)
            else:
                dw = filled(self, self.w_shape, dy.dtype, 0.0)
        if self.needs[2]:
            db = sum_axes(self, dy, (0, 1, 2)).reshape(-1)
        return dx, dw, db

    def again(self, x: Array, w: Array) -> Array:
        return self.forward(x, w, None, window=self.window)


class GroupedConv2d(Biased):
    """Channels in groups, each of which is convolved by itself, one after the other."""

    formula = (
        "y[p] = b + Σ x[p + t] W[t] over the taps t, in each group of channels;  dx[p + t] = Σ dy[p] W[t]ᵀ;  "
        "dW[t] = Σ x[p + t]ᵀ dy[p];  db = Σ dy"
    )
    passes_on = False

    def forward(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, *, groups: int, window: Window) -> np.ndarray:
        self.save(x if self.needs[1] else None, w if self.needs[0] else None)
        self.x_shape, self.w_shape, self.groups, self.window = x.shape, w.shape, groups, window
        shape = x.shape[0], window.oh, window.ow, w.shape[3]
        if not w.size:  # no input channels, or no output channels
            return filled(self, shape, x.dtype, 0.0) if b is None else expand(self, b.reshape(1, 1, 1, -1), shape)
        y = self.empty(shape, x.dtype)
        for g in range(groups if y.size else 0):
            bias = no_bias(self, x.dtype) if b is None else self.group(b, g)
            part = self.empty(self.group_shape(shape), x.dtype)
            self.kernels.conv.conv_forward(self.group(x, g), self.group(w, g), bias, window, part)
            self.put(part, g, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, w = self.saved  # type: ignore[misc]
        dx = dw = db = None
        if self.needs[0]:
            dx = self.gradient(self.x_shape, dy, w)
        if self.needs[1]:
            dw = self.gradient(self.w_shape, dy, x)
        for g in range(self.groups if dy.size else 0):
            part = self.group(dy, g)
            if dx is not None and w.size:
                dx_part = self.empty(self.group_shape(self.x_shape), dy.dtype)
                self.kernels.conv.conv_backward_x(part, self.group(w, g), self.window, dx_part)
                self.put(dx_part, g, dx)
            if dw is not None and x.size:
                dw_part = self.empty(self.group_shape(self.w_shape), dy.dtype)
                self.kernels.conv.conv_backward_w(self.group(x, g), part, self.window, dw_part)
                self.put(dw_part, g, dw)
        if self.needs[2]:
            db = sum_axes(self, dy, (0, 1, 2)).reshape(-1)
        return dx, dw, db

    def again(self, x: Array, w: Array) -> Array:
        return self.forward(x, w, None, groups=self.groups, window=self.window)

    def gradient(self, shape: Shape, *factors: np.ndarray) -> np.ndarray:
        """An array for a gradient that is to be put there group by group; zeros if a factor of it is empty."""
        if all(factor.size for factor in factors):
            return self.empty(shape, factors[0].dtype)
        return filled(self, shape, factors[0].dtype, 0.0)

    def group_shape(self, shape: Shape) -> Shape:
        """The shape of one group of an array, whose last axis they are on."""
        return (*shape[:-1], shape[-1] // self.groups)

    def group(self, array: np.ndarray, g: int) -> np.ndarray:
        """Group g of the last axis, as a new array."""
        shape = self.group_shape(array.shape)
        return read(self, array, shape, contiguous_strides(array.shape), g * shape[-1])

    def put(self, part: np.ndarray, g: int, array: np.ndarray) -> None:
        """Group g of the last axis is to be `part`."""
        write(self, part, contiguous_strides(array.shape), g * part.shape[-1], array)
