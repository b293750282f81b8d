"""Elements set, and added to, in ONNX."""

import numpy as np

from minigrad.onnx.index_nodes import expanded, from_end, in_each_row
from minigrad.onnx.operands import ENDS, only
from minigrad.onnx.plan import Array, Length, Node
from minigrad.onnx.writer import Writer


def put(writer: Writer, node: Node) -> None:
    """Where integers and slices lead other numbers, or numbers added: axis by axis what is before, there, and behind."""
    x, v = only(node, 0), only(node, 1)
    places = [regions(index, x.shape_of(trace)) for trace, index in enumerate(node.of_each("index"))]
    empty = [any(not len(part) for part in parts) for parts in places]
    if any(empty):
        if not all(empty):
            raise ValueError(f"{node.place}: it sets elements of batches of some lengths, and none of others")
        writer.put(node.result, writer.add("Identity", writer.plain(x)))
        return
    whole = [tuple(len(part) for part in parts) for parts in zip(*places, strict=True)]  # with all axes of x
    value = writer.plain(v)
    shape = place_of(node, x)  # as the index leaves it: without axes of integers, with new ones
    if v.shape != shape:
        value = writer.add("Expand", value, writer.lengths(shape))
    value = writer.reshaped(value, shape, whole)
    axes = [a for a in range(x.ndim) if any(of[a] != range(n) for of, n in zip(places, x.shape[a], strict=True))]
    writer.put(node.result, put_along(writer, node, writer.plain(x), value, axes, places))


def regions(index: object, shape: tuple[int, ...]) -> list[range]:
    """Of each axis the numbers that an index leads to."""
    parts = [part for part in expanded(index, len(shape)) if part is not None]
    places = [
        range(n)[part] if isinstance(part, slice) else range(n)[int(part) :][:1]
        for part, n in zip(parts, shape, strict=True)
    ]
    return [place if len(place) != 1 else range(place[0], place[0] + 1) for place in places]


def place_of(node: Node, x: Array) -> tuple[Length, ...]:
    """The shape of what the index leads to."""
    shapes = [
        np.broadcast_to(np.empty((), np.int8), x.shape_of(trace))[index].shape
        for trace, index in enumerate(node.of_each("index"))
    ]
    return tuple(zip(*shapes, strict=True))


def put_along(writer: Writer, node: Node, x: str, value: str, axes: list[int], places: list[list[range]]) -> str:
    """x with the value, of as many axes, at places of `axes`, all of the others; gives the result's name."""
    if not axes:
        return writer.add("Add", x, value) if node["added"] else value
    axis, *others = axes
    whole = only(node, 0).shape[axis]
    numbers = [of[axis] for of in places]
    if all(part.step == 1 for part in numbers):
        first = from_end(node, [part.start for part in numbers], whole)
        last = from_end(node, [part.stop for part in numbers], whole, ENDS[0])
        parts = [put_along(writer, node, sliced(writer, x, axis, first, last), value, others, places)]
        if any(part.start for part in numbers):
            parts.insert(0, sliced(writer, x, axis, 0, first))
        if last != ENDS[0] and any(part.stop != n for part, n in zip(numbers, whole, strict=True)):
            parts.append(sliced(writer, x, axis, last, ENDS[0]))
        return writer.add("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]
    if any(part != numbers[0] for part in numbers):
        raise ValueError(
            f"{node.place}: its index has a step of {numbers[0].step} along the batch, and only 1 is known"
        )
    here = writer.graph.integers(*numbers[0])
    there = put_along(writer, node, writer.add("Gather", x, here, axis=axis), value, others, places)
    column = writer.graph.constant(np.array(numbers[0], np.int64).reshape(-1, *[1] * (only(node, 0).ndim - axis - 1)))
    everywhere = writer.add("Expand", column, writer.add("Shape", there))
    return writer.add("ScatterElements", x, everywhere, there, axis=axis)


def sliced(writer: Writer, x: str, axis: int, start: int, stop: int) -> str:
    """A part of one axis; x itself for all of it."""
    if (start, stop) == (0, ENDS[0]):
        return x
    return writer.add("Slice", x, *[writer.graph.integers(n) for n in (start, stop, axis)])


def scatter(writer: Writer, node: Node) -> None:
    """Rows added up at places of a matrix of zeros; or, in one column, at the same places of every row of the batch."""
    x, index, y = only(node, 0), only(node, 1), node.result
    zero = writer.graph.constant(np.zeros((1, 1), x.dtype))
    if not index.each:
        zeros = writer.add("Expand", zero, writer.lengths(y.shape))
        rows = writer.reshaped(writer.plain(index), index.shape, [*index.shape, (1,) * len(index.shape[0])])
        writer.put(y, writer.add("ScatterND", zeros, rows, writer.plain(x), reduction="add"))
        return
    rows_of_batch = writer.inputs[0].shape[0]
    counts = node.of_each("count")
    found = None if y.fixed(1) != 1 else in_each_row(index.each, rows_of_batch, counts)
    if found is None:
        raise ValueError(
            f"{node.place}: it adds at places that depend on the batch; index by slices, or by the same numbers in every row"
        )
    size, inside = found
    width = (len(inside),) * len(counts)
    values = writer.reshaped(writer.plain(x), x.shape, [rows_of_batch, width])
    zeros = writer.add("Expand", zero, writer.lengths([rows_of_batch, (size,) * len(counts)]))
    places = writer.add("Expand", writer.graph.constant(inside[None]), writer.lengths([rows_of_batch, width]))
    name = writer.add("ScatterElements", zeros, places, values, axis=1, reduction="add")
    writer.put(y, writer.reshaped(name, [rows_of_batch, (size,) * len(counts)], y.shape))
