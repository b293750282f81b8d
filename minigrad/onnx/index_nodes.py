"""Indexing in ONNX: by slices, by integers and by numbers of rows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.onnx.layout import plain, without
from minigrad.onnx.operands import ENDS, of_axes, only
from minigrad.onnx.plan import Array, Length, Node
from minigrad.onnx.writer import Writer


def slice_(writer: Writer, node: Node) -> None:
    """Integers, slices, None and the ellipsis."""
    x = only(node, 0)
    indices = [expanded(index, x.ndim) for index in node.of_each("index")]
    name, layout = of_axes(writer, x)
    if any(part is None for part in indices[0]):
        name, layout = writer.plain(x), plain(x.ndim)
    by_axis = [[part for part in index if part is not None] for index in indices]
    cut = [a for a in range(x.ndim) if isinstance(by_axis[0][a], slice) and by_axis[0][a] != slice(None)]
    if cut:
        bounds = [bounds_of(node, [parts[a] for parts in by_axis], x.shape[a]) for a in cut]
        starts, ends, steps = (writer.graph.integers(*numbers) for numbers in zip(*bounds, strict=True))
        places = writer.graph.integers(*[layout.index(a) for a in cut])
        name = writer.add("Slice", name, starts, ends, places, steps)
    taken = [a for a in range(x.ndim) if not isinstance(by_axis[0][a], slice)]
    for a in sorted(taken, key=layout.index, reverse=True):
        number = from_end(node, [parts[a] for parts in by_axis], x.shape[a])
        name = writer.add("Gather", name, writer.graph.constant(np.array(number, np.int64)), axis=layout.index(a))
    layout = without(layout, taken)
    new = [i for i, part in enumerate(p for p in indices[0] if part_stays(p)) if part is None]
    if new:
        name, layout = writer.add("Unsqueeze", name, writer.graph.integers(*new)), plain(node.result.ndim)
    writer.put(node.result, name if cut or taken or new else writer.add("Identity", name), layout)


def part_stays(part: Any) -> bool:
    """Whether a part of an index leaves an axis in the result."""
    return part is None or isinstance(part, slice)


def expanded(index: Any, ndim: int) -> list[Any]:
    """An index with slice(None) for the ellipsis and for what is not named."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    i = next(i for i, part in enumerate(parts) if part is Ellipsis)
    named = sum(part is not None and part is not Ellipsis for part in parts)
    return [*parts[:i], *[slice(None)] * (ndim - named), *parts[i + 1 :]]


def bounds_of(node: Node, parts: list[slice], length: Length) -> tuple[int, int, int]:
    """(start, end, step) of a slice in every trace."""
    step = from_end(node, [1 if part.step is None else int(part.step) for part in parts], None)
    ends = ENDS[step < 0]
    start, stop = parts[0].start, parts[0].stop
    first = (0 if step > 0 else ENDS[0]) if start is None else from_end(node, [p.start for p in parts], length)
    return first, ends if stop is None else from_end(node, [p.stop for p in parts], length, ends), step


def from_end(node: Node, numbers: list[int], length: Length | None, end: int | None = None) -> int:
    """An index that is one number in all traces, or counted from the end of the axis; `end` for the end itself."""
    if min(numbers) == max(numbers):
        return int(numbers[0])
    if length is not None:
        back = {int(number) - n for number, n in zip(numbers, length, strict=True)}
        if len(back) == 1 and max(back) < 0:
            return back.pop()
        if back == {0} and end is not None:
            return end
    raise ValueError(
        f"{node.place}: an index depends on the batch, {numbers[0]} and {numbers[1]} on batches of two lengths"
    )


def take(writer: Writer, node: Node) -> None:
    """Rows by number; or the same places of every row of the batch, which come as numbers among all elements."""
    x, index, y = only(node, 0), only(node, 1), node.result
    if index.each:
        name, want = places_of_each_row(writer, node, x, index.each)
    else:
        name = writer.add("Gather", writer.plain(x), writer.plain(index), axis=0)
        want = [index.shape[0], *x.shape[1:]]
    writer.put(y, writer.reshaped(name, want, y.shape))


def places_of_each_row(writer: Writer, node: Node, x: Array, each: tuple[np.ndarray, ...]) -> tuple[str, list[Length]]:
    """(result, its lengths) of an index whose numbers are another for another batch: those of a row, from where it begins."""
    batch = writer.inputs[0].shape[0]
    parts = writer.parts.get(x, [])
    together = in_each_row_of_parts(each, batch, parts) if x.fixed(-1) == 1 and len(parts) > 1 else None
    if together is not None:
        matrices = []
        for part in parts:
            shape = [batch, tuple(count // n for count, n in zip(part.shape[0], batch, strict=True))]
            matrices.append(writer.reshaped(writer.plain(part), part.shape, shape))
        matrix = writer.add("Concat", *matrices, axis=1)
        name = writer.add("Gather", matrix, writer.graph.constant(together), axis=1)
        return name, [batch, (len(together),) * len(batch)]
    whole = writer.origins.get(x)
    rows = None if whole is None or not whole.ndim else whole.shape[0]
    if whole is not None and rows is not None and rows == node.result.shape[0]:
        found = in_each_row(each, rows, [math.prod(lengths) for lengths in zip(*whole.shape, strict=True)])
        if found is not None:
            size, inside = found
            matrix = writer.reshaped(writer.plain(whole), whole.shape, [rows, (size,) * len(rows)])
            places = writer.graph.constant(inside)
            return writer.add("Gather", matrix, places, axis=1), [rows, (len(inside),) * len(rows)]
    raise ValueError(
        f"{node.place}: it indexes by numbers that depend on the batch; index by slices, or by the same numbers in every row"
    )


def in_each_row(each: tuple[np.ndarray, ...], rows: Length, counts: Sequence[int]) -> tuple[int, np.ndarray] | None:
    """(elements of a row, places in it) of numbers among all elements that are the same places of every row; else None."""
    sizes = {count // n for count, n in zip(counts, rows, strict=True)}
    if len(sizes) > 1 or any(count % n for count, n in zip(counts, rows, strict=True)):
        return None
    (size,) = sizes
    if any(numbers.size % n for numbers, n in zip(each, rows, strict=True)):
        return None
    starts = [np.arange(n)[:, None] * size for n in rows]
    inside = [numbers.reshape(n, -1) - start for numbers, n, start in zip(each, rows, starts, strict=True)]
    place = np.ascontiguousarray(inside[0][0])
    if any(part.shape[1:] != place.shape or (part != place).any() for part in inside):
        return None
    return size, place


def in_each_row_of_parts(each: tuple[np.ndarray, ...], rows: Length, parts: Sequence[Array]) -> np.ndarray | None:
    """Places in a row, of parts side by side, of numbers among all elements of one part and then of the next; else None.

    Each part has as many elements for every row, and the numbers are the same places of every row.
    """
    found: list[np.ndarray] = []
    for trace, (numbers, n) in enumerate(zip(each, rows, strict=True)):
        counts = [part.shape[0][trace] for part in parts]
        if numbers.size % n or any(count % n for count in counts):
            return None
        sizes = np.array(counts) // n
        which = np.searchsorted(np.cumsum(counts), numbers.reshape(-1), side="right")
        inside = numbers.reshape(-1) - (np.cumsum(counts) - counts)[which]
        places = (inside % sizes[which] + (np.cumsum(sizes) - sizes)[which]).reshape(n, -1)
        if ((inside // sizes[which]).reshape(n, -1) != np.arange(n)[:, None]).any() or (places != places[0]).any():
            return None
        found.append(places[0])
    if any(not np.array_equal(place, found[0]) for place in found):
        return None
    return found[0]


def take_along(writer: Writer, node: Node) -> None:
    """Elements along an axis, by a number for each element of the result."""
    x, index, axis = only(node, 0), only(node, 1), node["axis"]
    writer.put(node.result, writer.add("GatherElements", writer.plain(x), writer.plain(index), axis=axis))
