"""Ops made of a scalar formula, of mg.elementwise and its table: each step of the formula is a node or two."""

import numpy as np

from minigrad.kernels.expressions import Formula
from minigrad.onnx.layout import Layout
from minigrad.onnx.plan import Node
from minigrad.onnx.writer import Writer

KINDS = {
    **{
        "add": "Add",
        "sub": "Sub",
        "mul": "Mul",
        "div": "Div",
        "neg": "Neg",
        "abs": "Abs",
        "sign": "Sign",
        "power": "Pow",
    },
    **{"sqrt": "Sqrt", "exp": "Exp", "log": "Log", "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf", "sin": "Sin"},
    **{"cos": "Cos", "minimum": "Min", "maximum": "Max", "where": "Where", "less": "Less", "less_equal": "LessOrEqual"},
    **{"equal": "Equal", "both": "And", "either": "Or", "not": "Not"},
}
"""What steps of a formula are in ONNX; those that are two nodes are in `write_formula`."""


def write_formula(writer: Writer, node: Node, formula: Formula, names: list[str], layout: Layout) -> None:
    """Add the steps of a formula, whose inputs are at hand under these names, laid out alike.

    e^x - 1 and log(1 + x) have no ops of their own in ONNX, so near 0 the file is as exact as float32 numbers near 1 are.
    """
    floats = [x.dtype for x, kind in zip(node.inputs, formula.kinds, strict=True) if x is not None and kind == "float"]
    dtype = floats[0] if floats else np.dtype(np.float32)
    values = list(names)
    for operation, operands in formula.steps:
        if operation == "constant":
            values.append(writer.graph.constant(np.array(operands[0], dtype)))
            continue
        given = [values[i] for i in operands]
        if operation == "expm1":
            y = writer.add("Sub", writer.add("Exp", *given), writer.graph.constant(np.array(1, dtype)))
        elif operation == "log1p":
            y = writer.add("Log", writer.add("Add", *given, writer.graph.constant(np.array(1, dtype))))
        elif operation == "not_equal":
            y = writer.add("Not", writer.add("Equal", *given))
        elif operation in KINDS:
            y = writer.add(KINDS[operation], *given)
        else:
            raise ValueError(f"{node.place} cannot be exported: ONNX has no op for {operation!r} in its formula")
        values.append(y)
    writer.put(node.result, writer.add("Identity", values[formula.outputs[0]]), layout)
