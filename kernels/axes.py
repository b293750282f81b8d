"""How a kernel is told where the elements of a strided array lie.

A layout is a shape and strides, each a tuple of exactly DIMS Python ints, the innermost axis last; strides count
elements, not bytes. Axes an array lacks stand first, with length 1 and stride 0. A broadcast axis has stride 0.

The number of axes is fixed so that a kernel is compiled once, not once for every rank.

Kernels get flat memory, 0 as the stride of an axis that is broadcast. Axes that can be walked as one are merged, so that
the innermost loop is as long as possible.
"""

import functools
import math

import numpy as np

DIMS = 6
Shape = tuple[int, ...]


def positions(shape: Shape, strides: Shape, offset: int = 0) -> np.ndarray:
    """Where a layout's elements lie in a flat array: offset + sum(idx[d] * strides[d]) for every idx, in C order."""
    position = np.array(offset, np.int64)
    for length, stride in zip(shape, strides, strict=True):
        position = position[..., np.newaxis] + np.arange(length, dtype=np.int64) * stride
    return position.ravel()


def flat_layout(size: int) -> tuple[Shape, Shape]:
    """(shape, strides) of `size` contiguous elements."""
    return (*OUTER_ONES, size), UNIT_STRIDES


OUTER_ONES = (1,) * (DIMS - 1)
UNIT_STRIDES = (*(0,) * (DIMS - 1), 1)


def contiguous_strides(shape: Shape) -> Shape:
    """Strides in elements of a C-contiguous array; 0 on axes of length 1."""
    strides = []
    step = 1
    for length in reversed(shape):
        strides.append(0 if length == 1 else step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def broadcast_shape(a: Shape, b: Shape) -> Shape:
    """The shape two shapes broadcast to, by NumPy's rules; raises ValueError."""
    shape = []
    for i in range(1, max(len(a), len(b)) + 1):
        m = a[-i] if i <= len(a) else 1
        n = b[-i] if i <= len(b) else 1
        if m != n and m != 1 and n != 1:
            raise ValueError(f"shapes {a} and {b} do not broadcast: {m} against {n} on axis {-i}")
        shape.append(n if m == 1 else m)
    return tuple(reversed(shape))


def merged(shape: Shape, *strides: Shape) -> list[list[int]]:
    """[[length, a stride for each array], ...] of the same walk in as few axes as possible, the innermost last."""
    axes: list[list[int]] = []
    for length, *steps in zip(shape, *strides, strict=True):
        if length == 1:
            continue
        if axes and all(outer == inner * length for outer, inner in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = [axes[-1][0] * length, *steps]
        else:
            axes.append([length, *steps])
    return axes


def merge(shape: Shape, *strides: Shape) -> tuple[Shape, ...]:
    """The same walk with as few axes as possible, filled up to DIMS: (shape, *strides). Raises ValueError if too many."""
    axes = merged(shape, *strides)
    if len(axes) > DIMS:
        raise ValueError(f"an array of shape {shape} needs {len(axes)} nested loops here; at most {DIMS} are supported")
    axes = [[1] + [0] * len(strides)] * (DIMS - len(axes)) + axes
    return tuple(tuple(column) for column in zip(*axes, strict=True))


@functools.lru_cache(maxsize=4096)
def broadcast_layout(a: Shape, b: Shape) -> tuple[Shape, Shape, Shape, Shape]:
    """(result shape, merged shape, strides of a, strides of b) for an element-wise op on C-contiguous arrays."""
    shape = broadcast_shape(a, b)
    if 0 in shape:
        return shape, (0,) * DIMS, (0,) * DIMS, (0,) * DIMS
    padded = [(0,) * (len(shape) - len(s)) + contiguous_strides(s) for s in (a, b)]
    return shape, *merge(shape, *padded)  # type: ignore[return-value]


@functools.lru_cache(maxsize=4096)
def broadcast_layouts(*shapes: Shape) -> tuple[Shape, Shape, tuple[Shape, ...]]:
    """(result shape, merged shape, strides of each) for an element-wise op on any number of C-contiguous arrays."""
    shape: Shape = functools.reduce(broadcast_shape, shapes)
    if 0 in shape:
        return shape, (0,) * DIMS, ((0,) * DIMS,) * len(shapes)
    padded = [(0,) * (len(shape) - len(s)) + contiguous_strides(s) for s in shapes]
    merged_shape, *strides = merge(shape, *padded)
    return shape, merged_shape, tuple(strides)


@functools.lru_cache(maxsize=4096)
def reduction_layout(shape: Shape, axes: Shape) -> tuple[int, int, int]:
    """(outer, reduced, inner) sizes for neighbouring `axes` of a C-contiguous array."""
    first, last = axes[0], axes[-1]
    return math.prod(shape[:first]), math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])
