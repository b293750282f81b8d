"""Ops of single elements in ONNX."""

import numpy as np

from minigrad.onnx.operands import Rule, only, side_by_side
from minigrad.onnx.plan import Node
from minigrad.onnx.writer import Writer


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
