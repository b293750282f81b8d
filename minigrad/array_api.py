"""The namespace of the Python array API standard, 2024.12, as far as it is there: what `t.__array_namespace__()` gives.

The names are the standard's (`subtract`, `permute_dims`), the functions minigrad's: on the tape, on every device, and computing
in float32 and float64 alone. docs/sharing-memory.md says what is left out.
"""

import builtins
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy import e, finfo, iinfo, inf, isdtype, nan, newaxis, pi

from minigrad.devices import Device
from minigrad.devices.registry import DEVICES
from minigrad.dlpack import from_dlpack
from minigrad.ops import (
    abs,
    add,
    all,
    any,
    arange,
    argmax,
    argmin,
    broadcast_to,
    clip,
    copied,
    cos,
    equal,
    exp,
    expand_dims,
    expm1,
    eye,
    flip,
    full,
    full_like,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
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
    prod,
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
    sum,
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
from minigrad.ops import concat as joined
from minigrad.ops import div as divide
from minigrad.ops import mul as multiply
from minigrad.ops import reshape as reshaped
from minigrad.ops import sub as subtract
from minigrad.tensor import FLOATS, Tensor

Dtype = Any  # what NumPy makes a dtype of
Place = str | Device | None
Shape = int | Sequence[SupportsIndex]
Copy = builtins.bool | None
VERSIONS = "2022.12", "2023.12", "2024.12"  # each has all of the one before
__array_api_version__ = VERSIONS[-1]

bool = np.dtype(np.bool_)
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
float32, float64 = FLOATS
DTYPES = (bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64)

# Creation


def asarray(obj: Any, /, *, dtype: Dtype = None, device: Place = None, copy: Copy = None) -> Tensor:
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


def astype(x: Tensor, dtype: Dtype, /, *, copy: Copy = True, device: Place = None) -> Tensor:
    """x of another dtype; a copy of x for the same, unless copy=False (or None)."""
    x = x if device is None else to(x, device)
    if np.dtype(dtype) == x.dtype:
        return x * 1.0 if copy and x.requires_grad else copied(x) if copy else x
    return to(x, dtype)


def empty(shape: Shape, *, dtype: Dtype = None, device: Place = None) -> Tensor:
    """Zeros: no memory is shown that holds something else."""
    return zeros(shape, dtype=dtype, device=device)


def empty_like(x: Tensor, /, *, dtype: Dtype = None, device: Place = None) -> Tensor:
    """Zeros in x's shape, dtype and device."""
    return zeros_like(x, dtype=dtype, device=device)


def linspace(
    start: float, stop: float, /, num: int, *, dtype: Dtype = None, device: Place = None, endpoint: Any = True
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


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """One after another on an axis, by default the first; None joins them all flat."""
    if axis is None:
        return joined([reshaped(x, (-1,)) for x in arrays], 0)
    return joined(arrays, axis)


def reshape(x: Tensor, /, shape: Shape, *, copy: Copy = None) -> Tensor:
    """The same elements in another shape; the same memory, unless copy=True."""
    return reshaped(astype(x, x.dtype, copy=copy), shape)


def matrix_transpose(x: Tensor, /) -> Tensor:
    """The last two axes exchanged. Raises ValueError for fewer."""
    if x.ndim < 2:
        raise ValueError(f"a matrix has two axes, and x has the shape {x.shape}")
    return x.swapaxes(-1, -2)


# Dtypes and devices


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The one dtype of tensors and dtypes; TypeError where they differ, since nothing is converted in silence."""
    kinds = {np.dtype(x.dtype if isinstance(x, Tensor) else x) for x in arrays_and_dtypes}
    if len(kinds) != 1:
        raise TypeError(f"these dtypes do not mix: {', '.join(sorted(map(str, kinds))) or 'none'}; convert by astype")
    return kinds.pop()


class Info:
    """What there is, as `__array_namespace_info__` tells."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean masks index; no shape depends on data but by them; six axes at most are walked at once."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> str:
        """Where tensors are made."""
        return "cpu"

    def default_dtypes(self, *, device: Place = None) -> dict[str, np.dtype]:
        """Of Python numbers; there are no complex ones."""
        return {"real floating": float32, "integral": int64, "indexing": int64}

    def devices(self) -> list[str]:
        """Those in use; "cuda" once it was asked for."""
        return list(DEVICES)

    def dtypes(self, *, device: Place = None, kind: str | tuple[str, ...] | None = None) -> dict[str, np.dtype]:
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
    "broadcast_to",
    "clip",
    "concat",
    "cos",
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
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
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
    "tile",
    "tril",
    "triu",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unstack",
    "var",
    "where",
    "zeros",
    "zeros_like",
]
