"""Sum, mean and maximum over axes."""

import builtins

import numpy as np

from minigrad.kernels.axes import Shape, reduction_layout
from minigrad.kernels.contract import Array
from minigrad.ops.checks import float_tensor
from minigrad.ops.forms import Form
from minigrad.ops.launches import binary, expand, repeated, sum_axes
from minigrad.ops.movement import reshape, transpose
from minigrad.ops.shapes import normal_axes
from minigrad.tensor import Tensor
from minigrad.types import Axis


def kept(shape: Shape, axes: Shape) -> Shape:
    """The shape with `axes` of length 1."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def dropped(shape: Shape, axes: Shape) -> Shape:
    """The shape without `axes`."""
    return tuple(n for i, n in enumerate(shape) if i not in axes)


class Sum(Form):
    """Sum over some axes, times a factor (1, or 1/n for the mean)."""

    formula = "y = c Σ x;  dx = c dy, repeated"
    passes_on = False

    def forward(self, x: np.ndarray, *, axes: Shape, keepdims: bool, factor: float) -> np.ndarray:
        self.x_shape, self.axes, self.factor = x.shape, axes, factor
        y = self.again(x)
        return y if keepdims else y.reshape(dropped(x.shape, axes))

    def again(self, x: Array) -> Array:
        y = sum_axes(self, x, self.axes) if self.axes else expand(self, x, x.shape)
        return y if self.factor == 1 else self.scaled(y)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        if self.factor != 1:
            dy = self.scaled(dy)
        return (expand(self, dy.reshape(kept(self.x_shape, self.axes)), self.x_shape),)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """x times the factor."""
        return binary(
            self, self.kernels.elementwise.mul_forward, x, self.device.shared_constant(self.factor, (), x.dtype)
        )


class Max(Form):
    """Maximum over neighbouring axes; the first of equals gets the gradient."""

    formula = "y = max x;  dx = dy at the (first) maximum, else 0"
    passes_on = False

    def forward(self, x: np.ndarray, *, axes: Shape, keepdims: bool) -> np.ndarray:
        self.x_shape = x.shape
        self.layout = outer, reduced, inner = reduction_layout(x.shape, axes)
        y = self.empty(kept(x.shape, axes) if keepdims else dropped(x.shape, axes), x.dtype)
        index = self.empty((outer, inner), np.dtype(np.int64))
        if y.size:
            self.kernels.reduce.max_forward(x.reshape(outer, reduced, inner), y.reshape(outer, inner), index)
        self.save(index)
        return y

    def again(self, x: Array) -> Array:
        (index,) = self.saved  # type: ignore[misc]
        y = self.empty((index.shape[0], 1, index.shape[1]), x.dtype)
        if y.size:
            self.kernels.movement.take_along(x.reshape(self.layout), index.reshape(y.shape), y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        (index,) = self.saved  # type: ignore[misc]
        dx = self.empty(self.x_shape, dy.dtype)
        if dx.size:
            self.kernels.reduce.max_backward(dy.reshape(index.shape), index, dx.reshape(self.layout))
        return (dx,)


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (an int, a tuple, or None for all), in a fixed order; float32 is added up in float64."""
    axes = normal_axes(axis, float_tensor("sum", x).ndim)
    return Sum.apply(x, axes=axes, keepdims=keepdims, factor=1.0)


def summed_to(dy: Tensor, shape: Shape) -> Tensor:
    """`unbroadcast` on the tape: dy, summed over what a tensor of `shape` was repeated along."""
    if dy.shape == shape:
        return dy
    axes = repeated(dy.shape, shape)
    return reshape(Sum.apply(dy, axes=axes, keepdims=True, factor=1.0), shape)


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean over `axis` (an int, a tuple, or None for all). Raises ValueError for a mean of nothing."""
    axes = normal_axes(axis, float_tensor("mean", x).ndim)
    count = builtins.max(0, int(np.prod([x.shape[a] for a in axes], dtype=np.int64)))
    if count == 0:
        raise ValueError(f"mean of no elements: shape {x.shape}, axes {axes}")
    return Sum.apply(x, axes=axes, keepdims=keepdims, factor=1.0 / count)


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Maximum over `axis` (an int, a tuple, or None for all); NaN wins. Raises ValueError for a maximum of nothing."""
    axes = normal_axes(axis, float_tensor("max", x).ndim)
    if not axes:
        return Sum.apply(x, axes=(), keepdims=keepdims, factor=1.0)
    if 0 in [x.shape[a] for a in axes]:
        raise ValueError(f"maximum of no elements: shape {x.shape}, axes {axes}")
    if axes[-1] - axes[0] == len(axes) - 1:
        return Max.apply(x, axes=axes, keepdims=keepdims)
    others = tuple(i for i in range(x.ndim) if i not in axes)
    y = Max.apply(transpose(x, others + axes), axes=tuple(range(len(others), x.ndim)), keepdims=False)
    return y.reshape(kept(x.shape, axes)) if keepdims else y
