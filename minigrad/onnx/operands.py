"""What a rule is given: inputs of a node by their names in the graph, laid out alike."""

from collections.abc import Callable

from minigrad.onnx.layout import Axes, Flattened, Layout, plain
from minigrad.onnx.plan import Array, Node
from minigrad.onnx.writer import Writer

ENDS = 2**63 - 1, -(2**63)  # of a slice that goes forwards or backwards to the end
Rule = Callable[[Writer, Node], None]  # which adds to the graph what a node of the plan computes


def only(node: Node, index: int) -> Array:
    """An input that must be there."""
    array = node.inputs[index]
    if array is None:
        raise ValueError(f"{node.place}: input {index} is missing")
    return array


def of_axes(writer: Writer, array: Array) -> tuple[str, Axes]:
    """(name, layout) as the array came, or plain where its features are in an order of their own."""
    name, layout = writer.native(array)
    if isinstance(layout, Flattened):
        return writer.plain(array), plain(array.ndim)
    return name, layout


def side_by_side(writer: Writer, node: Node) -> tuple[list[str], Layout]:
    """Names of all inputs laid out alike, and how: as one of them came, if the others can be brought to it."""
    sides = [only(node, i) for i in range(len(node.inputs))]
    ndim = node.result.ndim
    found: Layout = plain(ndim)
    for x in sides:
        layout = writer.layout(x)
        if x.ndim == ndim and x.data is None and layout != found:
            found = layout
            break
    names = [beside(writer, x, found, ndim) for x in sides]
    if None in names:
        found = plain(ndim)
        names = [writer.plain(x) for x in sides]
    return [name for name in names if name is not None], found


def beside(writer: Writer, x: Array, layout: Layout, ndim: int) -> str | None:
    """The name of an array that is broadcast to others of this layout; None if it cannot be brought to it."""
    if x.ndim == 0:
        return writer.plain(x)
    if isinstance(layout, Flattened):
        if writer.layout(x) == layout:
            return writer.native(x)[0]
        if x.data is None:
            return None
        return features(writer, x, layout) if x.fixed(-1) != 1 else writer.plain(x)
    if x.data is not None:
        values = x.data.reshape((1,) * (ndim - x.ndim) + x.data.shape).transpose(layout)
        while values.ndim > x.ndim and values.shape[0] == 1:
            values = values[0]
        return writer.baked(x, values, (layout, values.shape)) if layout != plain(ndim) else writer.plain(x)
    if x.ndim == ndim:
        return writer.laid(x, layout)
    return writer.plain(x) if layout == plain(ndim) else None


def features(writer: Writer, x: Array, layout: Flattened) -> str:
    """A constant whose last axis has one number for each feature, in the order of flattened ones."""
    data = x.data
    return writer.baked(x, None if data is None else data[..., layout.order], layout)
