"""Elements in other places, in ONNX."""

import numpy as np

from minigrad.onnx.layout import IMAGES, Axes, Flattened, plain, without
from minigrad.onnx.operands import ENDS, of_axes, only
from minigrad.onnx.plan import Node
from minigrad.onnx.writer import Writer


def reshape(writer: Writer, node: Node) -> None:
    """The same memory in another shape. Images with their channels first are flattened so, and the features keep that order."""
    x, y = only(node, 0), node.result
    writer.origins[y] = x
    layout = writer.layout(x)
    rows_stay = x.ndim == 4 and y.ndim == 2 and x.shape[0] == y.shape[0]
    image = [x.fixed(a) for a in range(1, 4)] if rows_stay else [None]
    if layout == IMAGES and x.data is None and None not in image:
        h, w, c = (n or 0 for n in image)
        flat = Flattened(h, w, c)
        name = writer.reshaped(writer.laid(x, IMAGES), [x.shape[a] for a in IMAGES], y.shape)
        writer.put(y, name, plain(2) if 1 in (c, h * w) else flat)
        return
    have = writer.nearest(x, plain(x.ndim)) if x.data is None and not isinstance(layout, Flattened) else None
    shape = [x.fixed(a) for a in range(x.ndim)]
    if have is not None and [a for a in have if shape[a] != 1] == [a for a in range(x.ndim) if shape[a] != 1]:
        writer.put(y, writer.reshaped(writer.laid(x, have), [x.shape[a] for a in have], y.shape))
        return
    writer.put(y, writer.reshaped(writer.plain(x), x.shape, y.shape))


def transpose(writer: Writer, node: Node) -> None:
    """Axes in another order: only the layout is another, until someone asks for it plain."""
    axes: Axes = node["axes"]
    name, layout = of_axes(writer, only(node, 0))
    writer.put(node.result, name, tuple(axes.index(a) for a in layout))


def concat(writer: Writer, node: Node) -> None:
    """Arrays one after another, laid out as the first that is not plain."""
    xs = [x for x in node.inputs if x is not None]
    if node["axis"] == 0:
        writer.parts[node.result] = xs
    layouts = [of_axes(writer, x)[1] for x in xs if x.data is None]
    layout = next((a for a in layouts if a != plain(xs[0].ndim)), plain(xs[0].ndim))
    y = writer.add("Concat", *[writer.laid(x, layout) for x in xs], axis=layout.index(node["axis"]))
    writer.put(node.result, y, layout)


def broadcast_to(writer: Writer, node: Node) -> None:
    """Elements repeated along axes of length 1, or along axes that are new."""
    x, y = only(node, 0), node.result
    name, layout = of_axes(writer, x)
    if x.ndim != y.ndim:
        name, layout = writer.plain(x), plain(y.ndim)
    elif x.shape == y.shape:
        writer.put(y, writer.add("Identity", name), layout)
        return
    writer.put(y, writer.add("Expand", name, writer.lengths([y.shape[a] for a in layout])), layout)


def split(writer: Writer, node: Node) -> None:
    """Parts along an axis, which without it are squeezed."""
    x = only(node, 0)
    name, layout = of_axes(writer, x)
    axis, keepdims = node["axis"], node["keepdims"]
    lengths = node.of_each("lengths")
    place = layout.index(axis)
    if len(lengths[0]) == 1:
        names = [writer.add("Identity", name)]
    elif all(given == lengths[0] for given in lengths):
        parts = writer.graph.integers(*lengths[0])
        names = writer.add_several("Split", len(node.results), name, parts, axis=place)
    elif all(len(set(given)) == 1 for given in lengths):
        names = writer.add_several("Split", len(node.results), name, axis=place, num_outputs=len(node.results))
    else:
        raise ValueError(
            f"{node.place}: the lengths of the parts depend on the batch, {lengths[0]} and {lengths[1]} on batches of two "
            "lengths; cut it into equal parts, or another axis"
        )
    for part, y in zip(names, node.results, strict=True):
        if keepdims:
            writer.put(y, part, layout)
        else:
            writer.put(y, writer.add("Squeeze", part, writer.graph.integers(place)), without(layout, [axis]))


def pad(writer: Writer, node: Node) -> None:
    """The array amid a number."""
    x = only(node, 0)
    name, layout = of_axes(writer, x)
    widths = [node["widths"][a] for a in layout]
    pads = writer.graph.integers(*[before for before, _ in widths], *[after for _, after in widths])
    value = writer.graph.constant(np.array(node["value"], x.dtype))
    writer.put(node.result, writer.add("Pad", name, pads, value), layout)


def flip(writer: Writer, node: Node) -> None:
    """Some axes turned round: slices that go backwards from the end to the beginning."""
    axes: Axes = node["axes"]
    name, layout = of_axes(writer, only(node, 0))
    if axes:
        places = writer.graph.integers(*[layout.index(a) for a in axes])
        back = writer.graph.integers(*[-1 for _ in axes])
        name = writer.add("Slice", name, back, writer.graph.integers(*[ENDS[1] for _ in axes]), places, back)
    writer.put(node.result, name if axes else writer.add("Identity", name), layout)
