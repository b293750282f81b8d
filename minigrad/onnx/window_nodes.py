"""Convolutions, pools and windows over channels in ONNX."""

import math

import numpy as np

from minigrad.kernels.window import Window
from minigrad.onnx.layout import IMAGES, WEIGHT, WEIGHT_TRANSPOSED
from minigrad.onnx.operands import Rule, only
from minigrad.onnx.plan import Node
from minigrad.onnx.writer import Writer
from minigrad.ops.resample import Axis, made_of


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


def conv_transpose(writer: Writer, node: Node) -> None:
    """A transposed convolution; its weight (in, out / groups, kh, kw)."""
    x, w = only(node, 0), only(node, 1)
    window: Window = node["window"]
    (height, width), spans = node["image"], [(window.kh - 1) * window.dil_h, (window.kw - 1) * window.dil_w]
    more = [
        height - ((window.oh - 1) * window.sh + spans[0] + 1 - window.top - window.bottom),
        width - ((window.ow - 1) * window.sw + spans[1] + 1 - window.left - window.right),
    ]
    groups = {} if node.kind == "ConvTranspose2d" else {"group": x.fixed(3)}
    settings = {**sides(window), "dilations": [window.dil_h, window.dil_w], "output_padding": more, **groups}
    inputs = writer.laid(x, IMAGES), writer.laid(w, WEIGHT_TRANSPOSED)
    writer.put(node.result, writer.add("ConvTranspose", *inputs, **settings), IMAGES)


def resample(writer: Writer, node: Node) -> None:
    """Images in another size: products with a matrix from the left, for the rows, and from the right, for the columns."""
    x = only(node, 0)
    left, right = matrix_of(node["down"], x.dtype), matrix_of(node["across"], x.dtype).T
    y = writer.add("MatMul", writer.graph.constant(left), writer.laid(x, IMAGES))
    y = writer.add("MatMul", y, writer.graph.constant(np.ascontiguousarray(right)))
    writer.put(node.result, y, IMAGES)


def matrix_of(axis: Axis, dtype: np.dtype) -> np.ndarray:
    """The share that each pixel of the image has in each of the result, along one axis."""
    matrix = np.zeros((axis.result, axis.length), dtype)
    for row, (first, weights) in zip(matrix, made_of(axis, dtype), strict=True):
        row[first : first + len(weights)] = weights
    return matrix
