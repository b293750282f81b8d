"""What each op of minigrad is in ONNX."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.window import Window
from minigrad.onnx.formulas import write_formula
from minigrad.onnx.layout import IMAGES, WEIGHT, Axes, Flattened, Layout, plain, without
from minigrad.onnx.plan import Array, Length, Node
from minigrad.onnx.writer import Writer

Rule = Callable[[Writer, Node], None]
ENDS = 2**63 - 1, -(2**63)  # of a slice that goes forwards or backwards to the end
ACTIVATIONS = {RELU: "Relu", SIGMOID: "Sigmoid"}


def write(writer: Writer, node: Node) -> None:
    """Add to the graph what a node of the plan computes; ValueError for an op that ONNX has not."""
    writer.node = node
    if node.formula is None and node.kind not in RULES:
        reason = OTHERS.get(node.kind, "ONNX has no op for it")
        raise ValueError(f"{node.place} cannot be exported: {reason}")
    if any(0 in length for length in node.result.shape):
        raise ValueError(
            f"{node.place} cannot be exported: its result has no elements, shape {node.result.shape_of(0)}"
        )
    if node.formula is not None:
        write_formula(writer, node, node.formula, *side_by_side(writer, node))
    else:
        RULES[node.kind](writer, node)


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


def elementwise(kind: str) -> Rule:
    """An op of one input, element by element, in whatever layout it is."""

    def rule(writer: Writer, node: Node) -> None:
        name, layout = writer.native(only(node, 0))
        writer.put(node.result, writer.add(kind, name), layout)

    return rule


def convert(writer: Writer, node: Node) -> None:
    """Another dtype."""
    name, layout = writer.native(only(node, 0))
    to = writer.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(node["dtype"]))
    writer.put(node.result, writer.add("Cast", name, to=to), layout)


def power(writer: Writer, node: Node) -> None:
    """x^p for a number p."""
    x = only(node, 0)
    name, layout = writer.native(x)
    exponent = writer.graph.constant(np.array(node["exponent"], x.dtype))
    writer.put(node.result, writer.add("Pow", name, exponent), layout)


def binary(kind: str) -> Rule:
    """An op of two inputs that are broadcast."""

    def rule(writer: Writer, node: Node) -> None:
        names, layout = side_by_side(writer, node)
        writer.put(node.result, writer.add(kind, *names), layout)

    return rule


def comparison(writer: Writer, node: Node) -> None:
    """A relation, element by element."""
    relation = node["relation"]
    names, layout = side_by_side(writer, node)
    kinds = {"equal": "Equal", "not_equal": "Equal", "less": "Less", "less_equal": "LessOrEqual"}
    y = writer.add(kinds[relation], *names)
    writer.put(node.result, writer.add("Not", y) if relation == "not_equal" else y, layout)


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


def linear(writer: Writer, node: Node) -> None:
    """x W + b. The weight takes the order of flattened images; over pixels it is a convolution of 1 x 1."""
    x, w = only(node, 0), only(node, 1)
    b = node.inputs[2]
    layout = writer.layout(x)
    if layout == IMAGES and w.data is not None:
        weight = writer.baked(w, w.data.T[:, :, None, None], "1 x 1")
        bias = [] if b is None else [writer.plain(b)]
        y = writer.add("Conv", writer.laid(x, IMAGES), weight, *bias, kernel_shape=[1, 1])
        writer.put(node.result, y, IMAGES)
        return
    if isinstance(layout, Flattened) and w.data is not None:
        name, weight = writer.native(x)[0], writer.baked(w, w.data[layout.order], layout)
    else:
        name, weight = writer.plain(x), writer.plain(w)
    if b is None:
        y = writer.add("MatMul", name, weight)
    elif x.ndim == 2:
        y = writer.add("Gemm", name, weight, writer.plain(b))
    else:
        y = writer.add("Add", writer.add("MatMul", name, weight), writer.plain(b))
    writer.put(node.result, y)


def matmul(writer: Writer, node: Node) -> None:
    """A product of matrices, or of stacks of them."""
    writer.put(node.result, writer.add("MatMul", writer.plain(only(node, 0)), writer.plain(only(node, 1))))


def sides(window: Window) -> dict[str, list[int]]:
    """Attributes of a window that convolutions and pools have."""
    return {
        "kernel_shape": [window.kh, window.kw],
        "strides": [window.sh, window.sw],
        "pads": [window.top, window.left, window.bottom, window.right],
    }


def conv(writer: Writer, node: Node) -> None:
    """A convolution; its weight (out, in / groups, kh, kw)."""
    x, w, b = only(node, 0), only(node, 1), node.inputs[2]
    window: Window = node["window"]
    inputs = [writer.laid(x, IMAGES), writer.laid(w, WEIGHT), *([] if b is None else [writer.plain(b)])]
    groups = {} if node.kind == "Conv2d" else {"group": x.shape_of(0)[3] // w.shape_of(0)[2]}
    y = writer.add("Conv", *inputs, **sides(window), dilations=[window.dil_h, window.dil_w], **groups)
    writer.put(node.result, y, IMAGES)


def pool(kind: str) -> Rule:
    """A pool; padding is not counted, which is ONNX's way unless told otherwise."""

    def rule(writer: Writer, node: Node) -> None:
        y = writer.add(kind, writer.laid(only(node, 0), IMAGES), **sides(node["window"]))
        writer.put(node.result, y, IMAGES)

    return rule


def batch_norm(writer: Writer, node: Node) -> None:
    """Normalization by fixed statistics, and the activation after it; ONNX has the features on axis 1."""
    x, gamma, beta, mean, var = (node.inputs[i] for i in range(5))
    if x is None or mean is None or var is None:
        raise ValueError(f"{node.place}: an input is missing")
    name, layout = writer.native(x)
    count = (mean.data.size if mean.data is not None else mean.fixed(0)) or 0
    vectors = []
    for vector, fill in ((gamma, 1), (beta, 0), (mean, 0), (var, 0)):
        if vector is None:
            vectors.append(writer.graph.constant(np.full(count, fill, x.dtype)))
        elif isinstance(layout, Flattened) and vector.data is not None:
            vectors.append(features(writer, vector, layout))
        else:
            vectors.append(writer.plain(vector))
    settings = {"epsilon": float(node["eps"]), "momentum": writer.decays.get(mean.name, 0.9)}
    if isinstance(layout, Flattened) or layout[1] == x.ndim - 1:
        y = writer.add("BatchNormalization", name, *vectors, **settings)
    else:
        rows = tuple(math.prod(lengths) for lengths in zip(*x.shape[:-1], strict=True))
        matrix = writer.reshaped(writer.plain(x), x.shape, [rows, x.shape[-1]])
        y = writer.add("BatchNormalization", matrix, *vectors, **settings)
        y, layout = writer.reshaped(y, [rows, x.shape[-1]], x.shape), plain(x.ndim)
    activation = node.parameters[0].get("activation", 0)
    if activation:
        y = writer.add(ACTIVATIONS[activation], y)
    writer.put(node.result, y, layout)


def layer_norm(writer: Writer, node: Node) -> None:
    """Normalization over the last axes."""
    x, gamma, beta = only(node, 0), node.inputs[1], node.inputs[2]
    count = node["axes"]
    lengths = [x.fixed(a) or 1 for a in range(x.ndim - count, x.ndim)]
    scale = writer.graph.constant(np.ones(lengths, x.dtype)) if gamma is None else writer.plain(gamma)
    shift = [] if beta is None else [writer.plain(beta)]
    y = writer.add("LayerNormalization", writer.plain(x), scale, *shift, axis=-count, epsilon=float(node["eps"]))
    writer.put(node.result, y)


def rms_norm(writer: Writer, node: Node) -> None:
    """Division by the root mean square over the last axes, which opset 18 has no op for."""
    x, gamma = only(node, 0), node.inputs[1]
    name, dtype = writer.plain(x), x.dtype
    axes = writer.graph.integers(*range(-node["axes"], 0))
    squares = writer.add("ReduceMean", writer.add("Mul", name, name), axes, keepdims=1)
    root = writer.add("Sqrt", writer.add("Add", squares, writer.graph.constant(np.array(node["eps"], dtype))))
    y = writer.add("Div", name, root)
    writer.put(node.result, y if gamma is None else writer.add("Mul", y, writer.plain(gamma)))


def embedding(writer: Writer, node: Node) -> None:
    """Rows of a table by number."""
    writer.put(node.result, writer.add("Gather", writer.plain(only(node, 0)), writer.plain(only(node, 1)), axis=0))


def local_response_norm(writer: Writer, node: Node) -> None:
    """ONNX divides alpha by the size. Windows of even size reach further down here; they, and arrays but images, by a pool."""
    x = only(node, 0)
    size, alpha, beta, k = (node[name] for name in ("size", "alpha", "beta", "k"))
    if x.ndim == 4 and size % 2:
        y = writer.add("LRN", writer.laid(x, IMAGES), size=size, alpha=alpha * size, beta=beta, bias=k)
        writer.put(node.result, y, IMAGES)
        return
    name = writer.plain(x)
    rows = tuple(math.prod(lengths) for lengths in zip(*x.shape[:-1], strict=True))
    one = (1,) * len(rows)
    column = [rows, one, x.shape[-1], one]
    squares = writer.reshaped(writer.add("Mul", name, name), x.shape, column)
    pads = [size // 2, 0, (size - 1) // 2, 0]
    means = writer.add("AveragePool", squares, kernel_shape=[size, 1], pads=pads, count_include_pad=1)
    means = writer.reshaped(means, column, x.shape)
    scaled = writer.add("Mul", means, writer.graph.constant(np.array(alpha * size, x.dtype)))
    shifted = writer.add("Add", scaled, writer.graph.constant(np.array(k, x.dtype)))
    divisor = writer.add("Pow", shifted, writer.graph.constant(np.array(beta, x.dtype)))
    writer.put(node.result, writer.add("Div", name, divisor))


def summed(writer: Writer, node: Node) -> None:
    """A sum, a mean, or over no axes a product with a number."""
    x, axes = only(node, 0), node["axes"]
    factors = node.of_each("factor")
    counts = [math.prod(x.shape[a][i] for a in axes) for i in range(len(factors))]
    name, layout = of_axes(writer, x)
    if all(math.isclose(factor * count, 1) for factor, count in zip(factors, counts, strict=True)) and axes:
        kind = "ReduceMean" if set(factors) != {1.0} else "ReduceSum"
    elif set(factors) == {1.0}:
        kind = "ReduceSum"
    else:
        raise ValueError(f"{node.place}: a sum times {node['factor']} is not known")
    reduced(writer, node, kind, name, layout)


def maximum(writer: Writer, node: Node) -> None:
    """The largest element over axes."""
    reduced(writer, node, "ReduceMax", *of_axes(writer, only(node, 0)))


def reduced(writer: Writer, node: Node, kind: str, name: str, layout: Axes) -> None:
    """A reduction; the axes that are left stay in their order."""
    axes, keepdims = node["axes"], node["keepdims"]
    if not axes:
        writer.put(node.result, writer.add("Identity", name), layout)
        return
    places = writer.graph.integers(*sorted(layout.index(a) for a in axes))
    y = writer.add(kind, name, places, keepdims=int(keepdims))
    writer.put(node.result, y, layout if keepdims else without(layout, axes))


def along_last(kind: str) -> Rule:
    """A function along the last axis, wherever it lies now."""

    def rule(writer: Writer, node: Node) -> None:
        x = only(node, 0)
        name, layout = writer.native(x)
        axis = x.ndim - 1 if isinstance(layout, Flattened) else layout.index(x.ndim - 1)
        writer.put(node.result, writer.add(kind, name, axis=axis), layout)

    return rule


def cross_entropy(writer: Writer, node: Node) -> None:
    """The mean of -log softmax at the labels."""
    names = [writer.plain(only(node, i)) for i in (0, 1)]
    writer.put(node.result, writer.add("SoftmaxCrossEntropyLoss", *names, reduction="mean"))


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
    layouts = [of_axes(writer, x)[1] for x in xs if x.data is None]
    layout = next((a for a in layouts if a != plain(xs[0].ndim)), plain(xs[0].ndim))
    y = writer.add("Concat", *[writer.laid(x, layout) for x in xs], axis=layout.index(node["axis"]))
    writer.put(node.result, y, layout)


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
    whole = writer.origins.get(x)
    rows = None if whole is None or not whole.ndim else whole.shape[0]
    if whole is not None and rows is not None and rows == node.result.shape[0]:
        size = [math.prod(lengths) // n for lengths, n in zip(zip(*whole.shape, strict=True), rows, strict=True)]
        starts = [np.arange(n)[:, None] * size[0] for n in rows]
        inside = [numbers.reshape(n, -1) - start for numbers, n, start in zip(each, rows, starts, strict=True)]
        if min(size) == max(size) and all((part == inside[0][0]).all() for part in inside):
            width = (inside[0].shape[1],) * len(rows)
            matrix = writer.reshaped(writer.plain(whole), whole.shape, [rows, tuple(size)])
            places = writer.graph.constant(np.ascontiguousarray(inside[0][0]))
            return writer.add("Gather", matrix, places, axis=1), [rows, width]
    raise ValueError(
        f"{node.place}: it indexes by numbers that depend on the batch; index by slices, or by the same numbers in every row"
    )


OTHERS = {
    "Dropout": "in training it draws random numbers; a model is exported in evaluation mode, so pass training=self.training",
    "BatchNorm": "it normalizes by the batch's own statistics, in training; pass training=self.training",
    "SyncBatchNorm": "it normalizes by the statistics of all ranks, in training; pass training=self.training",
    "NegativeLogLikelihood": "of the losses by labels only the mean of cross_entropy without weights is exported",
    "LabelWeights": "of the losses by labels only the mean of cross_entropy without weights is exported",
    **dict.fromkeys(
        ("Attention", "SelfAttention"),
        "it would need version 23 of ONNX; mg.softmax(scale * q @ k.swapaxes(-1, -2) + mask) @ v has the same result",
    ),
    **dict.fromkeys(
        ("RNN", "LSTM", "GRU", "Rows"),
        "recurrent layers have no rule here; ONNX has them in another order of gates",
    ),
    "BranchConcat": "it normalizes by the batch's own statistics, in training; use mg.concat",
    **dict.fromkeys(
        (
            "BroadcastTo",
            "ConvTranspose2d",
            "CumSum",
            "DepthwiseConvTranspose2d",
            "Flip",
            "Pad",
            "Put",
            "Resample",
            "Scatter",
            "TakeAlong",
        ),
        "there is no rule for it here yet; arithmetic that broadcasts, slices, mg.concat and matrix products have one",
    ),
}
"""Ops that are not exported, and why."""
RULES: dict[str, Rule] = {
    **{"Exp": elementwise("Exp"), "Log": elementwise("Log"), "Sqrt": elementwise("Sqrt"), "Tanh": elementwise("Tanh")},
    **{"Sigmoid": elementwise("Sigmoid"), "ReLU": elementwise("Relu"), "Power": power, "Convert": convert},
    **{
        "Add": binary("Add"),
        "Sub": binary("Sub"),
        "Mul": binary("Mul"),
        "Div": binary("Div"),
        "Comparison": comparison,
    },
    **{"Linear": linear, "MatMul": matmul, "BatchedMatMul": matmul, "Conv2d": conv},
    **{"DepthwiseConv2d": conv, "GroupedConv2d": conv},
    **{"MaxPool": pool("MaxPool"), "AvgPool": pool("AveragePool"), "BatchNormInference": batch_norm},
    **{"LayerNorm": layer_norm, "RMSNorm": rms_norm, "Embedding": embedding},
    **{"LocalResponseNorm": local_response_norm, "Sum": summed, "Max": maximum},
    **{"Softmax": along_last("Softmax"), "LogSoftmax": along_last("LogSoftmax"), "CrossEntropy": cross_entropy},
    **{"Reshape": reshape, "Transpose": transpose, "Concat": concat, "Slice": slice_, "Take": take},
}
