"""Recurrent layers in ONNX, which has a node for all steps of a layer too, with the gates in another order."""

from typing import Any

import numpy as np

from minigrad.onnx.index_nodes import from_end
from minigrad.onnx.layout import GATES
from minigrad.onnx.operands import ENDS, Rule, only
from minigrad.onnx.plan import Array, Node
from minigrad.onnx.writer import Writer


def recurrent(kind: str) -> Rule:
    """A layer in one direction: a node of this kind, whose results have an axis more, that of directions."""
    states = 2 if kind == "LSTM" else 1

    def rule(writer: Writer, node: Node) -> None:
        x, y = only(node, 0), node.result
        w_ih, w_hh, *biases = node.inputs[1 + states :]
        units = y.shape[2]
        given = [writer.plain(x), *[in_order(writer, kind, w) for w in (w_ih, w_hh) if w is not None]]
        given.append(both_biases(writer, kind, biases, units[0], x.dtype))
        given.append("")  # the number of steps of each sequence: all of them
        given += ["" if h is None else directed(writer, writer.plain(h)) for h in node.inputs[1 : 1 + states]]
        while not given[-1]:
            given.pop()
        settings: dict[str, Any] = {"hidden_size": units[0], "direction": "reverse" if node["reverse"] else "forward"}
        if kind == "RNN":
            settings["activations"] = ["Relu" if node["relu"] else "Tanh"]
        if kind == "GRU":
            settings["linear_before_reset"] = 1
        all_steps, _, *cell = writer.add_several(kind, 1 + states, *given, **settings)
        writer.put(y, writer.add("Squeeze", all_steps, writer.graph.integers(1)))
        for c, name in zip(node.results[1:], cell, strict=True):
            writer.put(c, writer.add("Squeeze", name, writer.graph.integers(0)))

    return rule


def in_order(writer: Writer, kind: str, w: Array) -> str:
    """A weight (in, gates * hidden) or a bias (gates * hidden,), its gates in ONNX's order: (1, gates * hidden, in)."""
    order = GATES[kind]
    if w.data is not None:
        gates = np.split(w.data, len(order), axis=-1)
        return writer.baked(w, np.concatenate([gates[i] for i in order], axis=-1).T[None], f"gates of {kind}")
    name = writer.laid(w, (1, 0)) if w.ndim == 2 else writer.plain(w)
    units = w.shape[-1][0] // len(order)
    if len(order) > 1:
        first, integers = writer.graph.integers(0), writer.graph.integers
        parts = [writer.add("Slice", name, integers(i * units), integers((i + 1) * units), first) for i in order]
        name = writer.add("Concat", *parts, axis=0)
    return directed(writer, name)


def both_biases(writer: Writer, kind: str, biases: list[Array | None], units: int, dtype: np.dtype) -> str:
    """The biases of x and of h one after the other, zeros for one that is not there; "" for none at all."""
    if all(b is None for b in biases):
        return ""
    none = np.zeros((1, len(GATES[kind]) * units), dtype)
    names = [writer.graph.constant(none) if b is None else in_order(writer, kind, b) for b in biases]
    return writer.add("Concat", *names, axis=1)


def directed(writer: Writer, name: str) -> str:
    """With a first axis, of the one direction."""
    return writer.add("Unsqueeze", name, writer.graph.integers(0))


def rows(writer: Writer, node: Node) -> None:
    """Neighbouring rows."""
    x = only(node, 0)
    integers = writer.graph.integers
    start = from_end(node, node.of_each("start"), x.shape[0])
    stop = from_end(node, node.of_each("stop"), x.shape[0], ENDS[0])
    writer.put(node.result, writer.add("Slice", writer.plain(x), integers(start), integers(stop), integers(0)))
