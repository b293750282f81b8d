"""Sums over axes, softmax and losses in ONNX."""

import math

import numpy as np

from minigrad.onnx.layout import Axes, Flattened, without
from minigrad.onnx.operands import Rule, of_axes, only
from minigrad.onnx.plan import Node
from minigrad.onnx.writer import Writer


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


def cumsum(writer: Writer, node: Node) -> None:
    """Running sums along an axis."""
    name, layout = of_axes(writer, only(node, 0))
    axis = writer.graph.constant(np.array(layout.index(node["axis"]), np.int64))
    writer.put(node.result, writer.add("CumSum", name, axis), layout)


def negative_log_likelihood(writer: Writer, node: Node) -> None:
    """Losses of rows by their labels; of smoothed labels a share is the mean over all classes, for rows that count."""
    x, labels, weight = only(node, 0), only(node, 1), node.inputs[2]
    names = [writer.plain(a) for a in (x, labels)]
    weights = [] if weight is None else [writer.plain(weight)]
    ignore, smoothing, dtype = node["ignore"], node["smoothing"], x.dtype
    y = writer.add("NegativeLogLikelihoodLoss", *names, *weights, ignore_index=ignore, reduction="none")
    if smoothing:
        weighted = writer.add("Mul", names[0], *weights) if weights else names[0]
        whole = writer.add("ReduceSum", weighted, writer.graph.integers(1), keepdims=0)
        counts = writer.add("Cast", counted(writer, names[1], ignore), to=type_of(writer, dtype))
        share = writer.graph.constant(np.array(-smoothing / (x.fixed(1) or 1), dtype))
        spread = writer.add("Mul", writer.add("Mul", whole, share), counts)
        y = writer.add("Add", writer.add("Mul", y, writer.graph.constant(np.array(1 - smoothing, dtype))), spread)
    writer.put(node.result, y)


def label_weights(writer: Writer, node: Node) -> None:
    """The weight of each row's label, 0 where it is ignored."""
    labels, weight = only(node, 0), node.inputs[1]
    name, dtype = writer.plain(labels), np.dtype(node["dtype"])
    counts = counted(writer, name, node["ignore"])
    if weight is None:
        writer.put(node.result, writer.add("Cast", counts, to=type_of(writer, dtype)))
        return
    inside = writer.add("Where", counts, name, writer.graph.constant(np.array(0, np.int64)))
    found = writer.add("Gather", writer.plain(weight), inside, axis=0)
    writer.put(node.result, writer.add("Where", counts, found, writer.graph.constant(np.array(0, dtype))))


def counted(writer: Writer, labels: str, ignore: int) -> str:
    """Which labels count."""
    return writer.add("Not", writer.add("Equal", labels, writer.graph.constant(np.array(ignore, np.int64))))


def type_of(writer: Writer, dtype: np.dtype) -> int:
    """The number of a dtype in ONNX."""
    return int(writer.graph.onnx.helper.np_dtype_to_tensor_dtype(dtype))
