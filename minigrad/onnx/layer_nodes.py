"""Products of matrices, tables and normalization in ONNX."""

import math

import numpy as np

from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.onnx.layout import IMAGES, Flattened, plain
from minigrad.onnx.operands import features, only
from minigrad.onnx.plan import Array, Length, Node, same
from minigrad.onnx.writer import Writer

ACTIVATIONS = {RELU: "Relu", SIGMOID: "Sigmoid"}


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


def attention(writer: Writer, node: Node) -> None:
    """Softmax of scaled products with the keys, times the values, in steps."""
    q, k, v = (only(node, i) for i in range(3))
    attend(writer, node, [writer.plain(x) for x in (q, k, v)], q.shape[-2], k.shape[-2], node.inputs[3])


def self_attention(writer: Writer, node: Node) -> None:
    """The same of queries, keys and values that are one array, one behind the other on its first axis."""
    x = only(node, 0)
    places = [writer.graph.constant(np.array(i, np.int64)) for i in range(3)]
    names = [writer.add("Gather", writer.plain(x), place, axis=0) for place in places]
    attend(writer, node, names, x.shape[-2], x.shape[-2], node.inputs[1])


def attend(writer: Writer, node: Node, names: list[str], queries: Length, keys: Length, mask: Array | None) -> None:
    """Attention of arrays by their names in the graph; a query that no key takes part for has the result 0."""
    if any("rate" in given for given in node.parameters):
        raise ValueError(
            f"{node.place} cannot be exported: in training it drops weights by random numbers; a model is exported in "
            "evaluation mode, so pass dropout_p=0.0 where self.training is not set"
        )
    dtype, ndim = node.result.dtype, node.result.ndim
    turned = [*range(ndim - 2), ndim - 1, ndim - 2]
    products = writer.add("MatMul", names[0], writer.add("Transpose", names[1], perm=turned))
    scores = writer.add("Mul", products, writer.graph.constant(np.array(node["scale"], dtype)))
    lowest = writer.graph.constant(np.array(-np.inf, dtype))
    if mask is not None and mask.dtype == np.bool_:
        scores = writer.add("Where", writer.plain(mask), scores, lowest)
    elif mask is not None:
        scores = writer.add("Add", scores, writer.plain(mask))
    if node["causal"]:
        if same(queries) is None or same(keys) is None:
            raise ValueError(f"{node.place}: is_causal over an axis whose length depends on the batch; pass a mask")
        seen = writer.graph.constant(np.tri(queries[0], keys[0], dtype=np.bool_))
        scores = writer.add("Where", seen, scores, lowest)
    shares = writer.add("Softmax", scores, axis=-1)
    if mask is not None:
        largest = writer.add("ReduceMax", scores, writer.graph.integers(-1), keepdims=1)
        none = writer.add("Equal", largest, lowest)
        shares = writer.add("Where", none, writer.graph.constant(np.array(0, dtype)), shares)
    writer.put(node.result, writer.add("MatMul", shares, names[2]))
