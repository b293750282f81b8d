"""Launches that ops of several families make, each of which gives or fills a new array."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from minigrad.kernels.axes import Shape, broadcast_layout, contiguous_strides, flat_layout, merge, reduction_layout
from minigrad.kernels.contract import Array

if TYPE_CHECKING:
    from minigrad.tape import Op

Binary = Callable[[Array, Array, Array, Shape, Shape, Shape], None]  # a kernel of two operands


def no_bias(op: "Op", dtype: np.dtype) -> np.ndarray:
    """What the kernels take for a bias where there is none."""
    return op.device.shared_constant(0.0, (0,), dtype)


def product(
    op: "Op",
    a: np.ndarray,
    b: np.ndarray,
    trans_a: bool = False,
    trans_b: bool = False,
    *,
    shape: tuple[int, ...] | None = None,
    total: np.ndarray | None = None,
) -> np.ndarray:
    """A B, either side transposed if said, as a new array, of `shape` if given; or added to `total`, which is returned."""
    rows, columns = a.shape[1] if trans_a else a.shape[0], b.shape[0] if trans_b else b.shape[1]
    y = op.empty(shape or (rows, columns), a.dtype) if total is None else total
    if y.size:
        matrix = y if y.ndim == 2 else y.reshape(rows, columns)
        if total is None:
            op.kernels.gemm.gemm(a, b, no_bias(op, a.dtype), matrix, trans_a, trans_b)
        else:
            op.kernels.gemm.gemm_add(a, b, matrix, trans_a, trans_b)
    return y


def filled(op: "Op", shape: Shape, dtype: np.dtype, value: float) -> np.ndarray:
    """A new array, the same number everywhere."""
    y = op.empty(shape, dtype)
    op.kernels.movement.fill(value, y.reshape(-1))
    return y


def read(op: "Op", x: np.ndarray, shape: Shape, strides: Shape, offset: int) -> np.ndarray:
    """A new array of `shape` with x's elements at offset + index . strides."""
    y = op.empty(shape, x.dtype)
    if y.size:
        merged, steps = merge(shape, strides)
        op.kernels.movement.strided_read(x.reshape(-1), merged, steps, offset, y.reshape(-1))
    return y


def write(op: "Op", x: np.ndarray, strides: Shape, offset: int, y: np.ndarray) -> None:
    """Put x's elements at offset + index . strides of y."""
    if x.size:
        merged, steps = merge(x.shape, strides)
        op.kernels.movement.strided_write(x.reshape(-1), merged, steps, offset, y.reshape(-1))


def add(op: "Op", x: np.ndarray, y: np.ndarray) -> None:
    """y += x, of one shape and neither empty."""
    merged, strides = flat_layout(x.size)
    op.kernels.elementwise.add_forward(y.reshape(-1), x.reshape(-1), y.reshape(-1), merged, strides, strides)


def binary(op: "Op", kernel: Binary, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A new array: the kernel on a and b, broadcast."""
    if a.shape == b.shape:
        merged, strides = flat_layout(a.size)
        y = op.empty(a.shape, a.dtype)
        kernel(a.reshape(-1), b.reshape(-1), y.reshape(-1), merged, strides, strides)
        return y
    shape, merged, a_strides, b_strides = broadcast_layout(a.shape, b.shape)
    y = op.empty(shape, a.dtype)
    if y.size:
        kernel(a.reshape(-1), b.reshape(-1), y.reshape(-1), merged, a_strides, b_strides)
    return y


def sum_axes(op: "Op", x: np.ndarray, axes: Shape) -> np.ndarray:
    """x summed over sorted `axes`, which stay with length 1: one kernel for each run of neighbouring axes."""
    while axes:
        start = len(axes) - 1
        while start > 0 and axes[start - 1] == axes[start] - 1:
            start -= 1
        run, axes = axes[start:], axes[:start]
        outer, reduced, inner = reduction_layout(x.shape, run)
        y = op.empty(tuple(1 if i in run else n for i, n in enumerate(x.shape)), x.dtype)
        if y.size:
            op.kernels.reduce.sum_forward(x.reshape(outer, reduced, inner), y.reshape(outer, inner))
        x = y
    return x


def expand(op: "Op", x: np.ndarray, shape: Shape) -> np.ndarray:
    """x, whose axes are those of `shape` or of length 1, repeated to `shape`."""
    y = op.empty(shape, x.dtype)
    if y.size:
        steps = contiguous_strides(x.shape)
        merged, strides = merge(shape, steps)
        op.kernels.movement.strided_read(x.reshape(-1), merged, strides, 0, y.reshape(-1))
    return y


def unbroadcast(op: "Op", dy: np.ndarray, shape: Shape) -> np.ndarray:
    """The gradient of an array of `shape` that was broadcast to dy's shape: the sum over what it was repeated along."""
    if dy.shape == shape:
        return dy
    return sum_axes(op, dy, repeated(dy.shape, shape)).reshape(shape)


def repeated(together: Shape, shape: Shape) -> Shape:
    """The axes of `together` along which an array of `shape`, broadcast to it, was repeated."""
    added = len(together) - len(shape)
    return tuple(i for i, n in enumerate(together) if i < added or (shape[i - added] == 1 and n != 1))
