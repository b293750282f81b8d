"""Numbers of a graph, and what passes on what came in, of ONNX here."""

import math
from typing import Any

import numpy as np

from minigrad.onnx.movement_runs import known
from minigrad.onnx.source import Run, Source


def shape(node: Source) -> Run:
    """The lengths of the axes, as numbers."""
    start, end = node.attribute("start", 0), node.attribute("end")
    node.of_numbers = True
    node.given()
    return lambda xs, training: np.array(xs[0].shape, np.int64)[start:end]


def constant(node: Source) -> Run:
    """Numbers that stand in the file."""
    names = [
        name for name in ("value", "value_int", "value_float", "value_ints", "value_floats") if name in node.attributes
    ]
    if len(names) != 1:
        raise node.error("it holds no numbers")
    value = node.attribute(names[0])
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    array = value if names[0] == "value" else np.array(value, kinds[names[0]])
    node.constants.setdefault(node.outputs[0], array)
    return lambda xs, training: array


def same(node: Source) -> Run:
    """What came in."""
    node.of_numbers = True
    node.given()
    return lambda xs, training: xs[0]


def dropout(node: Source) -> Run:
    """What came in, as in evaluation."""
    node.attribute("ratio")
    node.attribute("seed")
    if node.has(2) and node.number(2).any():
        raise node.error("it drops elements, as in training; export the model in evaluation mode")
    if len(node.outputs) > 1:
        raise node.error("its mask, the second result, is not supported")
    node.of_numbers = True
    node.only(1)
    return lambda xs, training: xs[0]


def size(node: Source) -> Run:
    """How many elements there are, as a number."""
    node.of_numbers = True
    node.given()
    return lambda xs, training: np.array(math.prod(xs[0].shape), np.int64)


def constant_of_shape(node: Source) -> Run:
    """The same number everywhere."""
    value = node.attribute("value", np.zeros(1, np.float32))
    if value.size != 1:
        raise node.error(f"its value has {value.size} elements, where one is expected")
    node.of_numbers = True
    node.given()
    return lambda xs, training: np.full(known(node, xs[0], "shape").tolist(), value.item(), value.dtype)


def counted(node: Source) -> Run:
    """Numbers from one to another, by steps."""
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> np.ndarray:
        start, limit, step = (known(node, x, "bounds").item() for x in xs)
        return np.arange(start, limit, step, dtype=xs[0].dtype)

    return run
