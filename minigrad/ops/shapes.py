"""Axes and shapes as the functions of minigrad.ops take them, and arrays seen in other shapes."""

import math
import operator
from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np

from minigrad.kernels.axes import Shape
from minigrad.kernels.contract import Array
from minigrad.types import Axis


def normal_axes(axis: Axis, ndim: int) -> Shape:
    """Axes as sorted non-negative ints; None is all of them.

    Raises ValueError for one that is not there, or twice, and TypeError for one that is no integer.
    """
    if axis is None:
        return tuple(range(ndim))
    try:
        given = tuple(map(operator.index, axis if isinstance(axis, Iterable) else (axis,)))
    except TypeError:
        raise TypeError(f"axis must be an integer, a tuple of integers or None, not {axis!r}") from None
    result = []
    for a in given:
        if not -ndim <= a < ndim:
            raise ValueError(f"axis {a} is out of range for {ndim} dimensions")
        result.append(a % ndim)
    if len(set(result)) != len(result):
        raise ValueError(f"axes {given} name one axis twice")
    return tuple(sorted(result))


def one_axis(axis: SupportsIndex, ndim: int) -> int:
    """An axis as a number from 0 on; ValueError for one that is not there, TypeError for what is not one integer."""
    try:
        found = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be one integer here, not {axis!r}") from None
    return normal_axes(found, ndim)[0]


def as_matrix(x: np.ndarray) -> np.ndarray:
    """(..., columns) as (rows, columns)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def some_rows(x: Array, start: int, stop: int) -> Array:
    """x[start:stop], sharing memory, on any device."""
    if isinstance(x, np.ndarray):
        return x[start:stop]
    row = math.prod(x.shape[1:])
    return x.reshape(-1).part(start * row, stop * row).reshape(stop - start, *x.shape[1:])


def pixels(x: np.ndarray) -> np.ndarray:
    """(n, h, w, c) as a matrix of pixels (n h w, c)."""
    n, h, w, c = x.shape
    return x.reshape(n * h * w, c)
