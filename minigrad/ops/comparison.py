"""Comparisons, element by element: bool tensors, which are never on the tape."""

import numbers
from collections.abc import Callable

import numpy as np

from minigrad.arrays import is_number
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.contract import Kernels
from minigrad.ops.arithmetic import as_operand, as_scalar
from minigrad.ops.launches import Binary
from minigrad.ops.movement import to
from minigrad.tape import Op
from minigrad.tensor import FLOATS, Tensor
from minigrad.types import Operand

BOOL = np.dtype(np.bool_)
WIDE = np.dtype(np.float64)


KERNELS: dict[str, Callable[[Kernels], Binary]] = {
    "equal": lambda kernels: kernels.elementwise.equal,
    "not_equal": lambda kernels: kernels.elementwise.not_equal,
    "less": lambda kernels: kernels.elementwise.less,
    "less_equal": lambda kernels: kernels.elementwise.less_equal,
}


class Comparison(Op):
    """Whether a relation holds between a and b, broadcast; its sides come off the tape, so it is never on it."""

    formula = "y = 1 where the relation holds, else 0"

    def forward(self, a: np.ndarray, b: np.ndarray, *, relation: str) -> np.ndarray:
        shape, merged, a_strides, b_strides = broadcast_layout(a.shape, b.shape)
        y = self.empty(shape, BOOL)
        if y.size:
            KERNELS[relation](self.kernels)(a.reshape(-1), b.reshape(-1), y.reshape(-1), merged, a_strides, b_strides)
        return y


def compared(name: str, a: Operand, b: Operand, relation: str) -> Tensor:
    """Whether a relation, which a kernel is named by, holds between a and b, broadcast."""
    like = a if isinstance(a, Tensor) else b
    if not isinstance(like, Tensor):
        raise TypeError(f"{name}: at least one side must be a Tensor, not {type(a).__name__} and {type(b).__name__}")
    sides = as_side(name, a, like), as_side(name, b, like)
    dtype = np.result_type(*[side.dtype for side in sides])
    return Comparison.apply(*[to(side, dtype) for side in sides], relation=relation)


def as_side(name: str, value: Operand, like: Tensor) -> Tensor:
    """One side off the tape. A number takes the dtype of `like` if that holds it or is a float's, else float64."""
    if isinstance(value, Tensor) or not is_number(value):
        return as_operand(name, value, like).detach()
    dtype = like.dtype
    if dtype not in FLOATS:
        kept = np.iinfo(np.int64 if dtype == BOOL else dtype)
        dtype = WIDE
        if isinstance(value, numbers.Integral | np.bool_):
            whole = int(value)
            if kept.min <= whole <= kept.max:
                dtype = kept.dtype
            else:  # larger, or less, than any element
                value = np.inf if whole > 0 else -np.inf
    return Tensor._wrap(like._device.from_host(as_scalar(value, dtype)), like._device)


def equal(a: Operand, b: Operand) -> Tensor:
    """Whether a == b, element by element with broadcasting: a bool tensor without a gradient, as of all comparisons.

    Both sides are tensors, or one a number or an array; dtypes may differ, and NumPy's `result_type` is what they are
    compared in. Nothing equals NaN. Raises ValueError for shapes that do not broadcast.
    """
    return compared("equal", a, b, "equal")


def not_equal(a: Operand, b: Operand) -> Tensor:
    """Whether a != b, element by element; see `equal`."""
    return compared("not_equal", a, b, "not_equal")


def less(a: Operand, b: Operand) -> Tensor:
    """Whether a < b, element by element; see `equal`."""
    return compared("less", a, b, "less")


def less_equal(a: Operand, b: Operand) -> Tensor:
    """Whether a <= b, element by element; see `equal`."""
    return compared("less_equal", a, b, "less_equal")


def greater(a: Operand, b: Operand) -> Tensor:
    """Whether a > b, element by element; see `equal`."""
    return compared("greater", b, a, "less")


def greater_equal(a: Operand, b: Operand) -> Tensor:
    """Whether a >= b, element by element; see `equal`."""
    return compared("greater_equal", b, a, "less_equal")
