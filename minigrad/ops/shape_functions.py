"""Elements in other places, as the array API and NumPy name it: compositions of the ops of movement, and a few of their own."""

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np

from minigrad.arrays import held_number
from minigrad.checks import integer
from minigrad.kernels.axes import Shape, broadcast_shape, contiguous_strides
from minigrad.kernels.contract import Array
from minigrad.ops.forms import Form
from minigrad.ops.launches import expand, filled, read, unbroadcast, write
from minigrad.ops.movement import Split, concat, reshape, transpose
from minigrad.ops.reduce import summed_to
from minigrad.ops.shapes import normal_axes, one_axis
from minigrad.ops.table import where
from minigrad.tape import Op
from minigrad.tensor import Tensor
from minigrad.types import Axis

Widths = int | Sequence[int] | Sequence[Sequence[int]]


class BroadcastTo(Op):
    """x repeated to a shape."""

    formula = "y = x, repeated;  dx = the sums of dy over what was repeated"

    def forward(self, x: Array, *, shape: Shape) -> Array:
        self.x_shape = x.shape
        return expand(self, x.reshape((1,) * (len(shape) - x.ndim) + x.shape), shape)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (unbroadcast(self, dy, self.x_shape),)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (summed_to(dy, self.x_shape),)


class Pad(Form):
    """x amid a number."""

    formula = "y = a number, y[...] = x;  dx = dy[...]"
    passes_on = False

    def forward(self, x: Array, *, widths: tuple[tuple[int, int], ...], value: float) -> Array:
        self.x_shape = x.shape
        shape = tuple([n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)])
        self.strides = contiguous_strides(shape)
        self.offset = sum(step * before for step, (before, _) in zip(self.strides, widths, strict=True))
        return self.amid(x, shape, value)

    def amid(self, x: Array, shape: Shape, value: float) -> Array:
        """x where it stands among so many of a number."""
        y = filled(self, shape, x.dtype, value)
        write(self, x, self.strides, self.offset, y)
        return y

    def again(self, x: Array) -> Array:
        return self.amid(x, self.shape, 0.0)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (read(self, dy, self.x_shape, self.strides, self.offset),)


class Flip(Op):
    """x with some axes turned round."""

    formula = "y[i] = x[n - 1 - i];  dx[i] = dy[n - 1 - i]"
    passes_on = False

    def forward(self, x: Array, *, axes: Shape) -> Array:
        self.axes = axes
        steps = contiguous_strides(x.shape)
        offset = sum(steps[a] * (x.shape[a] - 1) for a in axes)
        return read(self, x, x.shape, tuple([-s if a in axes else s for a, s in enumerate(steps)]), offset)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (self.forward(dy, axes=self.axes),)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (Flip.apply(dy, axes=self.axes),)


def tensor_of(name: str, x: object) -> Tensor:
    """x itself; TypeError unless it is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} needs a Tensor, not {type(x).__name__}; make one with mg.tensor(...)")
    return x


# Axes of length 1, and several axes as one


def expand_dims(x: Tensor, axis: Axis = 0) -> Tensor:
    """x with an axis of length 1 more at each `axis` of the result, sharing memory. Raises ValueError for one out of range."""
    count = len(list(axis)) if isinstance(axis, Iterable) else 1
    axes = normal_axes(axis, tensor_of("expand_dims", x).ndim + count)
    lengths = iter(x.shape)
    return reshape(x, [1 if a in axes else next(lengths) for a in range(x.ndim + count)])


def squeeze(x: Tensor, axis: Axis = None) -> Tensor:
    """x without its axes of length 1, or without those in `axis`, sharing memory. Raises ValueError for a longer one."""
    axes = normal_axes(axis, tensor_of("squeeze", x).ndim)
    long = [a for a in axes if x.shape[a] != 1]
    if axis is not None and long:
        raise ValueError(f"squeeze: axis {long[0]} of shape {x.shape} has length {x.shape[long[0]]}, not 1")
    return reshape(x, [n for a, n in enumerate(x.shape) if a not in axes or n != 1])


def flatten(x: Tensor, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """x with the axes from `start_axis` to `end_axis`, that one included, as one, sharing memory."""
    if not tensor_of("flatten", x).ndim:
        return reshape(x, (1,))
    first, last = one_axis(start_axis, x.ndim), one_axis(end_axis, x.ndim)
    if first > last:
        raise ValueError(f"flatten: axis {start_axis} comes after axis {end_axis}")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def permute_dims(x: Tensor, axes: Sequence[SupportsIndex]) -> Tensor:
    """Axes in another order, all named: `transpose` under the array API's name."""
    return transpose(tensor_of("permute_dims", x), axes)


def moveaxis(x: Tensor, source: Axis, destination: Axis) -> Tensor:
    """x with the axes `source` at the places `destination`, the others in their order. Raises ValueError."""
    tensor_of("moveaxis", x)
    pairs: list[list[int]] = []
    for axes in (source, destination):
        given: Any = axes if isinstance(axes, Iterable) else (axes,)
        pairs.append([one_axis(a, x.ndim) for a in given])
    if len(pairs[0]) != len(pairs[1]) or len(set(pairs[0])) != len(pairs[0]) or len(set(pairs[1])) != len(pairs[1]):
        raise ValueError(f"moveaxis: {source} and {destination} must be as many axes, each once")
    order = [a for a in range(x.ndim) if a not in pairs[0]]
    for place, a in sorted(zip(pairs[1], pairs[0], strict=True)):
        order.insert(place, a)
    return transpose(x, order)


def broadcast_to(x: Tensor, shape: SupportsIndex | Sequence[SupportsIndex]) -> Tensor:
    """x repeated to `shape`, a copy. Raises ValueError where its axes are neither 1 nor as long."""
    wanted = as_shape(shape)
    if broadcast_shape(tensor_of("broadcast_to", x).shape, wanted) != wanted:
        raise ValueError(f"shape {x.shape} cannot be repeated to {wanted}")
    return BroadcastTo.apply(x, shape=wanted)


def as_shape(shape: SupportsIndex | Sequence[SupportsIndex]) -> Shape:
    """A shape as a tuple of ints; ValueError for a negative length."""
    lengths = tuple([operator.index(n) for n in (shape if isinstance(shape, Sequence) else (shape,))])
    if any(n < 0 for n in lengths):
        raise ValueError(f"lengths of a shape are 0 or more, not {lengths}")
    return lengths


# Several tensors


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape one after another along a new axis. Raises ValueError for other shapes, TypeError for dtypes."""
    tensors = [tensor_of("stack", t) for t in tensors]
    if not tensors:
        raise ValueError("stack needs at least one tensor")
    for i, t in enumerate(tensors):
        if t.shape != tensors[0].shape:
            raise ValueError(f"stack: tensor {i} has shape {t.shape}, tensor 0 has {tensors[0].shape}")
    place = one_axis(axis, tensors[0].ndim + 1)
    return concat([expand_dims(t, place) for t in tensors], place)


def split(x: Tensor, sections: SupportsIndex | Sequence[SupportsIndex], axis: int = 0) -> tuple[Tensor, ...]:
    """x cut along an axis into `sections` equal parts, or before each of these places, as NumPy has it.

    Raises ValueError where equal parts do not come out even.
    """
    along = one_axis(axis, tensor_of("split", x).ndim)
    n = x.shape[along]
    if np.ndim(sections) == 0:  # type: ignore[arg-type]  # of whatever it is
        sections = integer("split: sections", sections)
        if n % sections:
            raise ValueError(f"split: axis {axis} of shape {x.shape} cannot be cut into {sections} equal parts")
        lengths = [n // sections] * sections
    else:
        places = [slice(operator.index(place)).indices(n)[1] for place in sections]  # type: ignore[union-attr]  # it has an axis
        lengths = [b - a for a, b in itertools.pairwise([0, *places, n])]
        if any(length < 0 for length in lengths):  # parts that overlap, as NumPy has it
            return tuple([x[(*[slice(None)] * along, slice(a, b))] for a, b in itertools.pairwise([0, *places, n])])
    parts: Any = Split.apply(x, lengths=tuple(lengths), axis=along, keepdims=True)
    return parts


def unstack(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """The parts of x along an axis, without it."""
    along = one_axis(axis, tensor_of("unstack", x).ndim)
    if not x.shape[along]:
        return ()
    parts: Any = Split.apply(x, lengths=(1,) * x.shape[along], axis=along, keepdims=False)
    return parts


# The same elements elsewhere


def flip(x: Tensor, axis: Axis = None) -> Tensor:
    """x with the order of elements along `axis` (all axes by default) turned round."""
    return Flip.apply(x, axes=normal_axes(axis, tensor_of("flip", x).ndim))


def roll(x: Tensor, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Tensor:
    """Elements moved on by `shift` along `axis`, those past the end to the front; without an axis x as if it were flat."""
    tensor_of("roll", x)
    if axis is None:
        return reshape(roll(reshape(x, -1), shift, 0), x.shape)
    axes = list(axis) if isinstance(axis, Sequence) else [axis]
    shifts = list(shift) if isinstance(shift, Sequence) else [shift] * len(axes)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: there are {len(shifts)} shifts for {len(axes)} axes")
    given = x
    for amount, a in zip(shifts, axes, strict=True):
        along = one_axis(a, x.ndim)
        place = -operator.index(amount) % max(x.shape[along], 1)
        if place:
            before = (slice(None),) * along
            x = concat([x[(*before, slice(place, None))], x[(*before, slice(0, place))]], along)
    return BroadcastTo.apply(x, shape=x.shape) if x is given else x  # a copy, whatever the shift


def pad(x: Tensor, widths: Widths, value: float = 0.0) -> Tensor:
    """x amid `value`: `widths` is a number for all sides, (before, after) for all axes, or such a pair for each axis.

    Raises ValueError for negative widths, or pairs that are not as many as axes.
    """
    pairs = np.asarray(widths)
    if pairs.dtype.kind not in "iu":
        raise TypeError(f"pad: widths must be integers, not {widths!r}")
    try:
        pairs = np.broadcast_to(pairs, (tensor_of("pad", x).ndim, 2))
    except ValueError:
        raise ValueError(
            f"pad: widths must be a number, a pair, or {x.ndim} pairs for shape {x.shape}, not {widths!r}"
        ) from None
    if (pairs < 0).any():
        raise ValueError(f"pad: widths are 0 or more, not {widths!r}; x[...] takes away")
    held_number("pad: the value", value, x.dtype)
    return Pad.apply(x, widths=tuple([(int(a), int(b)) for a, b in pairs]), value=value)


def repeat(x: Tensor, repeats: int, axis: int | None = None) -> Tensor:
    """Each element along `axis` `repeats` times in a row; without an axis, of x as if it were flat."""
    if axis is None:
        return repeat(reshape(tensor_of("repeat", x), -1), repeats, 0)
    along = one_axis(axis, tensor_of("repeat", x).ndim)
    shape = (*x.shape[: along + 1], as_shape(repeats)[0], *x.shape[along + 1 :])
    return flatten(broadcast_to(expand_dims(x, along + 1), shape), along, along + 1)


def tile(x: Tensor, repetitions: int | Sequence[int]) -> Tensor:
    """x beside itself, so many times along each axis; axes that one of the two lacks stand first."""
    times = as_shape(repetitions)
    count = max(len(times), tensor_of("tile", x).ndim)
    times, lengths = (1,) * (count - len(times)) + times, (1,) * (count - x.ndim) + x.shape
    y = reshape(x, lengths)
    for a, t in enumerate(times):  # one by one: the kernels walk six axes at most
        if t != 1:
            before, after = math.prod(y.shape[:a]), math.prod(y.shape[a:])
            repeated = broadcast_to(reshape(y, (before, 1, after)), (before, t, after))
            y = reshape(repeated, (*y.shape[:a], t * lengths[a], *lengths[a + 1 :]))
    return BroadcastTo.apply(y, shape=lengths) if all(t == 1 for t in times) else y  # a copy, however often


def triangle(name: str, x: Tensor, k: int, lower: bool) -> Tensor:
    """The elements on one side of a diagonal of each matrix, zeros elsewhere."""
    if tensor_of(name, x).ndim < 2:
        raise ValueError(f"{name} needs matrices, not shape {x.shape}")
    rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
    kept = columns - rows <= k if lower else columns - rows >= k
    return where(Tensor._wrap(x._device.from_host(np.ascontiguousarray(kept)), x._device), x, 0)


def tril(x: Tensor, k: int = 0) -> Tensor:
    """The lower triangles of matrices, zeros above the k-th diagonal; NaN there is gone. Raises ValueError without two axes."""
    return triangle("tril", x, k, lower=True)


def triu(x: Tensor, k: int = 0) -> Tensor:
    """The upper triangles of matrices, zeros below the k-th diagonal; NaN there is gone. Raises ValueError without two axes."""
    return triangle("triu", x, k, lower=False)
