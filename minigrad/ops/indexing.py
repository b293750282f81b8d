"""Elements by their numbers: taken, set, added to, and a row for each label."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigrad.arrays import held_number, is_number
from minigrad.kernels.axes import broadcast_shape
from minigrad.kernels.contract import Array
from minigrad.modes import at_work, refuse_arrays
from minigrad.ops.arithmetic import as_operand
from minigrad.ops.checks import float_tensor
from minigrad.ops.comparison import equal
from minigrad.ops.forms import Form
from minigrad.ops.launches import binary, expand, filled, read, unbroadcast, write
from minigrad.ops.movement import Slice, Take, concat, getitem, is_basic, reshape, stand_in, to, transpose
from minigrad.ops.reduce import summed_to
from minigrad.ops.shape_functions import broadcast_to, expand_dims, moveaxis, tensor_of
from minigrad.ops.shapes import one_axis
from minigrad.tape import Op
from minigrad.tensor import Tensor
from minigrad.types import DeviceLike, Index, Operand, TensorLike


class Put(Op):
    """A copy of x with other numbers, or with numbers added, where basic indexing leads."""

    formula = "y = x, y[...] = v (or += v);  dx = dy, where set with dx[...] = 0;  dv = dy[...]"
    passes_on = False

    def forward(self, x: Array, v: Array, *, index: Index, added: bool) -> Array:
        parts = index if isinstance(index, tuple) else (index,)
        whole = x if isinstance(x, np.ndarray) else stand_in(x)
        view = whole[parts if Ellipsis in parts else (*parts, Ellipsis)]
        self.index, self.added, self.v_shape, self.place = index, added, v.shape, view.shape
        self.strides = tuple([s // x.itemsize for s in view.strides])
        start = view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        self.offset = start // x.itemsize if view.size else 0
        v = expand(self, v.reshape((1,) * (len(self.place) - v.ndim) + v.shape), self.place)
        if added:
            v = binary(self, self.kernels.elementwise.add_forward, self.there(x), v)
        y = copied(self, x)
        write(self, v, self.strides, self.offset, y)
        return y

    def there(self, x: Array) -> Array:
        """The elements of x that the index leads to."""
        return read(self, x, self.place, self.strides, self.offset)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx = dv = None
        if self.needs[0]:
            dx = copied(self, dy)
            if not self.added:
                write(self, filled(self, self.place, dy.dtype, 0.0), self.strides, self.offset, dx)
        if self.needs[1]:
            dv = unbroadcast(self, self.there(dy), self.v_shape)
        return dx, dv

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx = dy
        if self.needs[0] and not self.added:
            zero = Tensor._wrap(dy._device.from_host(np.zeros((), dy.dtype)), dy._device)
            dx = Put.apply(dy, zero, index=self.index, added=False)
        dv = summed_to(Slice.apply(dy, index=self.index), self.v_shape) if self.needs[1] else None
        return dx if self.needs[0] else None, dv


class TakeAlong(Form):
    """Elements of x along an axis, by a number for each element of the result."""

    formula = "y[i, j] = x[i, index[i, j]];  dx = 0, dx[i, index[i, j]] += dy[i, j]"
    passes_on = False

    def forward(self, x: Array, index: Array, *, axis: int) -> Array:
        self.x_shape, self.axis = x.shape, axis
        y = self.empty(index.shape, x.dtype)
        if y.size:
            self.kernels.movement.take_along(*[split_at(a, axis) for a in (x, index, y)])
        self.save(index)
        return y

    def again(self, x: Array) -> Array:
        return self.forward(x, *self.saved, axis=self.axis)  # type: ignore[misc]

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        (index,) = self.saved  # type: ignore[misc]
        if not dy.size:
            return filled(self, self.x_shape, dy.dtype, 0.0), None
        dx = self.empty(self.x_shape, dy.dtype)
        self.kernels.movement.take_along_backward(*[split_at(a, self.axis) for a in (dy, index, dx)])
        return dx, None


class Scatter(Form):
    """Rows added up at places of a matrix of zeros."""

    formula = "y = 0, y[index[i]] += x[i];  dx[i] = dy[index[i]]"
    passes_on = False

    def forward(self, x: Array, index: Array, *, count: int) -> Array:
        y = filled(self, (count, x.shape[1]), x.dtype, 0.0) if not x.size else self.empty((count, x.shape[1]), x.dtype)
        if x.size:
            self.kernels.movement.take_rows_backward(x, index, y)
        self.save(index)
        return y

    def again(self, x: Array) -> Array:
        return self.forward(x, *self.saved, count=self.shape[0])  # type: ignore[misc]

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        (index,) = self.saved  # type: ignore[misc]
        dx = self.empty((index.size, dy.shape[1]), dy.dtype)
        if dx.size:
            self.kernels.movement.take_rows(dy, index, dx)
        return dx, None


def split_at(x: Array, axis: int) -> Array:
    """An array as (outer, axis, inner)."""
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))


def copied(op: Op, x: Array) -> Array:
    """A new array like x."""
    y = op.empty_like(x)
    op.kernels.movement.copy(x.reshape(-1), y.reshape(-1))
    return y


def row_numbers(x: Tensor, index: Index, what: str, count: int) -> Tensor:
    """Integers from 0 to below `count` as an int64 tensor where x is; others are refused before they are converted."""
    if isinstance(index, Tensor):
        if index.dtype.kind not in "iu":
            raise IndexError(f"{what}: indices must be integers, not {index.dtype}")
        at_work(index._device).check(check_numbers, index._data, count)
        return to(index, "int64")
    refuse_arrays(index)
    array = np.asarray(index)
    if array.dtype.kind not in "iu":
        raise IndexError(f"{what}: indices must be integers, not {array.dtype}")
    check_numbers(array, count)
    return Tensor(array.astype(np.int64), device=x._device)


def take(x: Tensor, indices: TensorLike, axis: int | None = None) -> Tensor:
    """Elements of x along `axis` by their numbers, an array or tensor of any shape; without an axis, of x as if it were flat.

    Lists and arrays may count from the end by negative numbers, tensors may not. Raises IndexError out of range.
    """
    tensor_of("take", x)
    if axis is None:
        return take(reshape(x, -1), indices, 0)
    along = one_axis(axis, x.ndim)
    if isinstance(indices, tuple):  # which would index several axes
        indices = list(indices)
    if not isinstance(indices, Tensor) and (kind := np.asarray(indices).dtype).kind not in "iu":
        raise IndexError(f"take: indices must be integers, not {kind}")
    if not along:
        return getitem(x, indices)
    count = indices.ndim if isinstance(indices, Tensor) else np.ndim(indices)
    taken = getitem(moveaxis(x, along, 0), indices)
    order = [*range(count, count + along), *range(count), *range(count + along, taken.ndim)]
    return transpose(taken, order)


def take_along_axis(x: Tensor, indices: TensorLike, axis: int = -1) -> Tensor:
    """For each element of `indices` that element of x which stands at this number along `axis`: as many axes as x.

    The other lengths must be x's. Raises IndexError out of range, below 0 too.
    """
    along = one_axis(axis, tensor_of("take_along_axis", x).ndim)
    index = row_numbers(x, indices, "take_along_axis", x.shape[along])
    if index.ndim != x.ndim or any(
        n != m for a, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if a != along
    ):
        raise ValueError(f"take_along_axis on axis {axis}: indices have shape {index.shape}, x has {x.shape}")
    return TakeAlong.apply(x, index, axis=along)


def check_numbers(index: np.ndarray, n: int) -> None:
    """Raise IndexError for a number below 0 or past the last."""
    if index.size and (index.min() < 0 or index.max() >= n):
        raise IndexError(f"numbers must be 0 to {n - 1}; they go from {index.min()} to {index.max()}")


def one_hot(labels: TensorLike, classes: int, dtype: DTypeLike = np.float32, device: DeviceLike = None) -> Tensor:
    """A new last axis of `classes` elements: 1 at the label, 0 elsewhere. Raises IndexError for a label out of range."""
    if not isinstance(labels, Tensor):
        labels = Tensor(labels, device=device)
    numbers = row_numbers(labels, labels, "one_hot", classes)
    columns = Tensor._wrap(numbers._device.from_host(np.arange(classes, dtype=np.int64)), numbers._device)
    return to(equal(expand_dims(numbers, numbers.ndim), columns), dtype)


NO_INDEX: Any = object()


class At:
    """x.at[index], by which elements are set, or added to, in a copy: `x.at[1:].set(0.0)`, `x.at[rows].add(y)`."""

    def __init__(self, x: Tensor, index: Index = NO_INDEX) -> None:
        self.x, self.index = x, index

    def __getitem__(self, index: Index) -> "At":
        return At(self.x, index)

    def set(self, value: Operand) -> Tensor:
        """A copy of x with `value`, broadcast, at the index; the gradient goes to both. Places must be named once each."""
        return self.put(value, added=False)

    def add(self, value: Operand) -> Tensor:
        """A copy of x with `value`, broadcast, added at the index, as often as a place is named."""
        return self.put(value, added=True)

    def put(self, value: Operand, added: bool) -> Tensor:
        """The copy."""
        x = self.x
        if self.index is NO_INDEX:
            raise TypeError("at needs an index: x.at[index].set(value), where x.at[...] is all of x")
        if added:
            float_tensor("at[...].add", x)
        if is_number(value):
            value = Tensor._wrap(x._device.from_host(held_number("at: the value", value, x.dtype)), x._device)
        value = as_operand("at", value, x)
        if value.dtype != x.dtype:
            raise TypeError(f"at: dtypes differ, {x.dtype} and {value.dtype}; convert one with .to(...)")
        if is_basic(self.index):
            place = stand_in(x._data)[self.index].shape
            if broadcast_shape(value.shape, place) != place:
                raise ValueError(f"at: shape {value.shape} does not fit into {place}")
            return Put.apply(x, value, index=self.index, added=added)
        places = self.places()
        value = reshape(broadcast_to(value, places.shape), (-1, 1))
        if added:
            rows = Tensor._wrap(x._device.from_host(places.reshape(-1)), x._device)
            return x + reshape(Scatter.apply(value, rows, count=x.size), x.shape)
        source = np.arange(x.size)
        source[places.reshape(-1)] = np.arange(x.size, x.size + places.size)
        if (source >= x.size).sum() != places.size:
            raise ValueError("at[...].set: a place is named twice, and which of the values stays is not said")
        chosen = Tensor._wrap(x._device.from_host(source), x._device)
        both = concat([reshape(x, (-1, 1)), value], 0)
        return reshape(Take.apply(both, chosen, shape=(x.size, 1)), x.shape)

    def places(self) -> np.ndarray:
        """Where in the flat tensor the index leads, which has arrays."""
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        refuse_arrays([p for p in parts if not isinstance(p, Tensor)])
        numbers = tuple([p.numpy() if isinstance(p, Tensor) else p for p in parts])
        return np.ascontiguousarray(np.arange(self.x.size, dtype=np.int64).reshape(self.x.shape)[numbers])
