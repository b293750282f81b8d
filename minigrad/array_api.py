"""The namespace of the Python array API standard, 2024.12, as far as it is there: what `t.__array_namespace__()` gives.

The names are the standard's (`subtract`, `permute_dims`), the functions minigrad's: on the tape, on every device, and computing
in float32 and float64 alone. docs/array-api.md says what is left out.
"""

import builtins
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import e, iinfo, inf, isdtype, nan, newaxis, pi
from numpy.typing import DTypeLike

from minigrad import ops
from minigrad.devices.registry import DEVICES
from minigrad.dlpack import from_dlpack
from minigrad.ops import (
    abs,
    add,
    arange,
    argmax,
    argmin,
    broadcast_to,
    copied,
    cos,
    cumsum,
    equal,
    exp,
    expm1,
    eye,
    flip,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    moveaxis,
    not_equal,
    ones,
    ones_like,
    permute_dims,
    pow,
    reciprocal,
    repeat,
    roll,
    sign,
    sin,
    sqrt,
    square,
    squeeze,
    stack,
    std,
    take,
    take_along_axis,
    tan,
    tanh,
    tile,
    to,
    tril,
    triu,
    unstack,
    var,
    where,
    zeros,
    zeros_like,
)
from minigrad.ops import div as divide
from minigrad.ops import mul as multiply
from minigrad.ops import sub as subtract
from minigrad.tensor import FLOATS, Tensor
from minigrad.types import Axis, DeviceLike, Dtype, Lengths

Copy = builtins.bool | None
VERSIONS = "2022.12", "2023.12", "2024.12"  # each has all of the one before
__array_api_version__ = VERSIONS[-1]

bool = np.dtype(np.bool_)
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
float32, float64 = FLOATS
DTYPES = (bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64)

# Creation


def asarray(obj: Any, /, *, dtype: Dtype = None, device: DeviceLike = None, copy: Copy = None) -> Tensor:
    """A tensor of numbers, nested lists, or an array, whose memory it shares if it can, unless copy=True.

    With copy=False what would be a copy is a ValueError, or a BufferError of `mg.from_dlpack`.
    """
    if isinstance(obj, Tensor) and device in (None, obj.device):
        t = obj
    elif hasattr(obj, "__dlpack__"):
        t = from_dlpack(obj, device=device, copy=False if copy is False else None)
    elif copy is False:
        raise ValueError(f"of a {type(obj).__name__} a tensor is a copy, which copy=False forbids")
    else:
        return Tensor(obj, dtype, device)
    if copy is False and dtype is not None and np.dtype(dtype) != t.dtype:
        raise ValueError(f"an array of {t.dtype} becomes {np.dtype(dtype)} by a copy, which copy=False forbids")
    return astype(t, t.dtype if dtype is None else dtype, copy=copy)


def astype(x: Tensor, dtype: DTypeLike, /, *, copy: Copy = True, device: DeviceLike = None) -> Tensor:
    """x of another dtype; a copy of x for the same, unless copy=False (or None)."""
    x = x if device is None else to(x, device)
    if np.dtype(dtype) == x.dtype:
        return x * 1.0 if copy and x.requires_grad else copied(x) if copy else x
    return to(x, dtype)


def empty(shape: Lengths, *, dtype: Dtype = None, device: DeviceLike = None) -> Tensor:
    """Zeros: no memory is shown that holds something else."""
    return zeros(shape, dtype=dtype, device=device)


def empty_like(x: Tensor, /, *, dtype: Dtype = None, device: DeviceLike = None) -> Tensor:
    """Zeros in x's shape, dtype and device."""
    return zeros_like(x, dtype=dtype, device=device)


def full(shape: Lengths, fill_value: Any, *, dtype: Dtype = None, device: DeviceLike = None) -> Tensor:
    """One number everywhere; of its own dtype, float32 for a Python float."""
    return ops.full(shape, fill_value, dtype=dtype, device=device)


def full_like(x: Tensor, /, fill_value: Any, *, dtype: Dtype = None, device: DeviceLike = None) -> Tensor:
    """One number everywhere, in x's shape, dtype and device."""
    return ops.full_like(x, fill_value, dtype=dtype, device=device)


def linspace(
    start: float, stop: float, /, num: int, *, dtype: Dtype = None, device: DeviceLike = None, endpoint: Any = True
) -> Tensor:
    """`num` numbers at equal distances, float32 by default."""
    return Tensor(np.linspace(start, stop, num, endpoint=endpoint), dtype or float32, device)


# Elements in other places, and what else has another name or other defaults here


def negative(x: Tensor, /) -> Tensor:
    """-x."""
    return -x


def positive(x: Tensor, /) -> Tensor:
    """x."""
    return +x


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Tensor:
    """x, but `min` where it is less and `max` where it is more, element by element; x itself without both."""
    return x if min is None and max is None else ops.clip(x, min, max)


def isfinite(x: Tensor, /) -> Tensor:
    """Whether x is neither infinite nor NaN, element by element; integers are."""
    return ops.isfinite(x) if x.dtype in FLOATS else ones_like(x, dtype=bool)


def isinf(x: Tensor, /) -> Tensor:
    """Whether x is infinite, element by element; integers are not."""
    return ops.isinf(x) if x.dtype in FLOATS else zeros_like(x, dtype=bool)


def isnan(x: Tensor, /) -> Tensor:
    """Whether x is NaN, element by element; integers are not."""
    return ops.isnan(x) if x.dtype in FLOATS else zeros_like(x, dtype=bool)


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """One after another on an axis, by default the first; None joins them all flat."""
    if axis is None:
        return ops.concat([ops.reshape(x, (-1,)) for x in arrays], 0)
    return ops.concat(arrays, axis)


def reshape(x: Tensor, /, shape: Lengths, *, copy: Copy = None) -> Tensor:
    """The same elements in another shape; the same memory, unless copy=True."""
    return ops.reshape(astype(x, x.dtype, copy=copy), shape)


def expand_dims(x: Tensor, /, axis: int = 0) -> Tensor:
    """A new axis of length 1, in this place of the result. Raises IndexError for a place that is not there."""
    if not -x.ndim - 1 <= axis <= x.ndim:
        raise IndexError(f"axis {axis} is no place for a new one in the shape {x.shape}")
    return ops.expand_dims(x, axis)


def matrix_transpose(x: Tensor, /) -> Tensor:
    """The last two axes exchanged. Raises ValueError for fewer."""
    return x.mT


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """Each in the shape that they have together."""
    shape = np.broadcast_shapes(*[x.shape for x in arrays])
    return [broadcast_to(x, shape) for x in arrays]


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """The coordinates of a grid, from those on each of its axes; with "xy" the first two axes are exchanged, with "ij" none."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f'indexing is "xy" or "ij", not {indexing!r}')
    if len({x.dtype for x in arrays}) > 1 or not builtins.all([x.ndim == 1 for x in arrays]):
        came = ", ".join([f"{x.shape} {x.dtype}" for x in arrays])
        raise ValueError(f"a grid is made of vectors of one dtype, not of {came}")
    axes = list(range(len(arrays)))
    if indexing == "xy" and len(axes) > 1:
        axes[:2] = 1, 0
    places = [[-1 if i == axis else 1 for i in range(len(axes))] for axis in axes]
    return broadcast_arrays(*[ops.reshape(x, place) for x, place in zip(arrays, places, strict=True)])


def all(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """Whether all elements hold, over all axes or some; a number holds if it is not 0."""
    return ops.all(x if x.dtype == bool else not_equal(x, 0), axis, keepdims)


def any(x: Tensor, /, *, axis: Axis = None, keepdims: builtins.bool = False) -> Tensor:
    """Whether an element holds, over all axes or some; a number holds if it is not 0."""
    return ops.any(x if x.dtype == bool else not_equal(x, 0), axis, keepdims)


# Sums, and what is composed of other ops


def sum(x: Tensor, /, *, axis: Axis = None, dtype: Dtype = None, keepdims: builtins.bool = False) -> Tensor:
    """Sums over all axes, or some; of x in another dtype, if one is given."""
    return ops.sum(x if dtype is None else astype(x, dtype, copy=False), axis, keepdims)


def prod(x: Tensor, /, *, axis: Axis = None, dtype: Dtype = None, keepdims: builtins.bool = False) -> Tensor:
    """Products over all axes, or some; of x in another dtype, if one is given."""
    return ops.prod(x if dtype is None else astype(x, dtype, copy=False), axis, keepdims)


def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Each element less the one before it on an axis, n times over; `prepend` and `append` are joined to x before."""
    x = ops.concat([part for part in (prepend, x, append) if part is not None], axis)
    others = (slice(None),) * (axis % x.ndim)
    for _ in range(n):
        x = x[(*others, slice(1, None))] - x[(*others, slice(None, -1))]
    return x


def cumulative_sum(
    x: Tensor, /, *, axis: int | None = None, dtype: Dtype = None, include_initial: Any = False
) -> Tensor:
    """The sums of all elements up to each on an axis, which a vector needs not name; from 0 on with `include_initial`."""
    if axis is None and x.ndim != 1:
        raise ValueError(f"which axis? x has the shape {x.shape}")
    axis = 0 if axis is None else axis
    sums = cumsum(x if dtype is None else astype(x, dtype, copy=False), axis)
    if not include_initial:
        return sums
    shape = list(sums.shape)
    shape[axis] = 1
    return ops.concat([zeros(shape, dtype=sums.dtype, device=sums.device), sums], axis)


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The sums of the products on an axis, counted from the end, of tensors that broadcast."""
    if axis >= 0:
        raise ValueError(f"the axis of vecdot is counted from the end, -1 for the last, not {axis}")
    if x1.shape[axis] != x2.shape[axis]:
        raise ValueError(f"the axes {axis} of {x1.shape} and {x2.shape} have two lengths")
    return sum(x1 * x2, axis=axis)


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """The sums of the products over axes: the last so many of x1 and the first of x2, or those of two lists, pair by pair."""
    if isinstance(axes, int):
        axes = tuple(range(x1.ndim - axes, x1.ndim)), tuple(range(axes))
    first, second = [[axis % x.ndim for axis in given] for x, given in zip((x1, x2), axes, strict=True)]
    lengths = [[x.shape[axis] for axis in given] for x, given in zip((x1, x2), (first, second), strict=True)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"the axes {first} of {x1.shape} and {second} of {x2.shape} are to be of the same lengths")
    kept = [[i for i in range(x.ndim) if i not in given] for x, given in zip((x1, x2), (first, second), strict=True)]
    rows, columns = [[x.shape[i] for i in axes] for x, axes in zip((x1, x2), kept, strict=True)]
    left = ops.reshape(permute_dims(x1, (*kept[0], *first)), (math.prod(rows), math.prod(lengths[0])))
    right = ops.reshape(permute_dims(x2, (*second, *kept[1])), (math.prod(lengths[0]), math.prod(columns)))
    return ops.reshape(matmul(left, right), (*rows, *columns))


def logical_xor(x1: Tensor, x2: Tensor, /) -> Tensor:
    """Whether just one of two holds, element by element, of bool tensors."""
    return logical_and(logical_or(x1, x2), logical_not(logical_and(x1, x2)))


# Dtypes and devices


def can_cast(from_: Tensor | DTypeLike, to: DTypeLike, /) -> builtins.bool:
    """Whether every number of a dtype, or of a tensor's, is one of the other too."""
    return np.can_cast(from_.dtype if isinstance(from_, Tensor) else from_, to)


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The one dtype of tensors and dtypes, which Python's numbers take; TypeError where they differ: nothing is converted."""
    given = [x for x in arrays_and_dtypes if not isinstance(x, int | float)]
    kinds = {np.dtype(x.dtype if isinstance(x, Tensor) else x) for x in given}
    if len(kinds) != 1:
        raise TypeError(f"these dtypes do not mix: {', '.join(sorted(map(str, kinds))) or 'none'}; convert by astype")
    return kinds.pop()


class FloatInfo(NamedTuple):
    """What `finfo` tells of a floating-point dtype, in Python's numbers."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype


def finfo(type: Dtype, /) -> FloatInfo:
    """The limits of a floating-point dtype, or of a tensor's."""
    info = np.finfo(type.dtype if isinstance(type, Tensor) else type)
    eps, most, least, normal = [float(number) for number in (info.eps, info.max, info.min, info.smallest_normal)]
    return FloatInfo(info.bits, eps, most, least, normal, info.dtype)


class Info:
    """What there is, as `__array_namespace_info__` tells."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean masks index; no shape depends on data but by them; six axes at most are walked at once."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> str:
        """Where tensors are made."""
        return "cpu"

    def default_dtypes(self, *, device: DeviceLike = None) -> dict[str, np.dtype]:
        """Of Python numbers; there are no complex ones."""
        return {"real floating": float32, "integral": int64, "indexing": int64}

    def devices(self) -> list[str]:
        """Those in use; "cuda" once it was asked for."""
        return list(DEVICES)

    def dtypes(self, *, device: DeviceLike = None, kind: str | tuple[str, ...] | None = None) -> dict[str, np.dtype]:
        """The dtypes that tensors have; computing is for "real floating"."""
        return {str(t): t for t in DTYPES if kind is None or isdtype(t, kind)}


def __array_namespace_info__() -> Info:
    """What there is."""
    return Info()


__all__ = [
    "__array_api_version__",
    "__array_namespace_info__",
    "abs",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "asarray",
    "astype",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "can_cast",
    "clip",
    "concat",
    "cos",
    "cumulative_sum",
    "diff",
    "divide",
    "e",
    "empty",
    "empty_like",
    "equal",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "finfo",
    "flip",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "full_like",
    "greater",
    "greater_equal",
    "iinfo",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log1p",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "meshgrid",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "not_equal",
    "ones",
    "ones_like",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prod",
    "reciprocal",
    "repeat",
    "reshape",
    "result_type",
    "roll",
    "sign",
    "sin",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "tile",
    "tril",
    "triu",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unstack",
    "var",
    "vecdot",
    "where",
    "zeros",
    "zeros_like",
]
