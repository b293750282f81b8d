"""Numbers, lists and arrays of any kind as arrays that tensors can have, and what dtypes hold."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


def plain(array: np.ndarray) -> np.ndarray:
    """The array, or a copy of what is of another kind, such as np.memmap, or cannot be written."""
    return array if type(array) is np.ndarray and array.flags.writeable else np.array(array)


def as_array(data: Any, dtype: DTypeLike | None = None) -> np.ndarray:
    """A C-contiguous, writable array in native byte order of a dtype minigrad works with.

    Python floats become float32, Python ints int64, NumPy arrays keep their dtype unless `dtype` says otherwise.
    Raises TypeError for dtypes that are neither float32, float64, integer nor bool.
    """
    array = np.asarray(data)
    if array.dtype.kind not in "fiub" or dtype is None:
        check_dtype(array.dtype)
    if dtype is not None:
        check_dtype(np.dtype(dtype))
        check_held(array, np.dtype(dtype))
    elif array.dtype.kind == "f" and not isinstance(data, np.ndarray | np.generic) and not hasattr(data, "__array__"):
        dtype = np.float32
    return np.array(array, dtype=np.dtype(dtype or array.dtype).newbyteorder("="), order="C", copy=True)


def check_held(array: np.ndarray, dtype: np.dtype) -> None:
    """Raise TypeError for numbers beyond an integer dtype, and for NaN, which a cast would replace; not for fractions."""
    if dtype.kind not in "iu" or not array.size or np.can_cast(array.dtype, dtype):
        return
    low, high, limits = array.min().item(), array.max().item(), np.iinfo(dtype)
    if not (limits.min <= low and high <= limits.max):
        raise TypeError(
            f"{dtype} does not hold all of the numbers, which go from {low} to {high}; it is {limits.min} to {limits.max}"
        )


def held_number(what: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """A number as an array without axes, infinite in a float dtype that it is too large for.

    Raises TypeError where an integer or bool dtype does not hold it.
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.array(as_float(value), dtype)
    try:
        held = np.array(value, dtype)
    except (OverflowError, ValueError):  # too large, or NaN
        held = None
    if held is None or held != value:
        raise TypeError(f"{what} is {value!r}, which {dtype} does not hold; convert the tensor with .to(...)")
    return held


def as_float(number: Any) -> float:
    """A number as a float, infinite if it is too large."""
    try:
        return float(number)
    except OverflowError:
        return np.inf if number > 0 else -np.inf


def check_dtype(dtype: np.dtype) -> None:
    """Raise TypeError unless tensors can have this dtype."""
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        raise TypeError(f"{dtype} is not supported; convert to float32 or float64 first")
    if dtype.kind not in "fiub":
        raise TypeError(f"cannot make a tensor of dtype {dtype}; float32, float64, integers and bool are supported")


def is_number(value: Any) -> bool:
    """Whether `value` is a real Python or NumPy scalar, which can stand for a tensor."""
    return isinstance(value, numbers.Real | np.bool_)
