"""A node of a file, read with every attribute accounted for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.onnx.layout import Axes
from minigrad.onnx.library import library
from minigrad.onnx.reading import array_of

Wishes = dict[
    str, list[tuple[str, Axes | None]]
]  # of initializers: what each reader takes it for, and in which order of axes
Run = Callable[
    [list[Any], bool], Any
]  # inputs (Held, numbers, or None) and whether in training, to the result or a list


class Source:
    """A node as it stands in the file; what is asked of it is noted, and what nobody asked is an error."""

    def __init__(self, node: Any, number: int, opset: int, constants: dict[str, np.ndarray], wishes: Wishes) -> None:
        self.kind, self.inputs, self.outputs = node.op_type, list(node.input), list(node.output)
        self.place = place_of(node, number)
        self.opset, self.constants, self.wishes = opset, constants, wishes
        self.attributes = {attribute.name: value_of(attribute, self.place) for attribute in node.attribute}
        self.read: set[str] = set()
        self.of_numbers = False  # whether what it gives takes arrays of numbers as they are, not as tensors
        if node.domain not in ("", "ai.onnx"):
            raise self.error(f"it is of the domain {node.domain!r}, of which minigrad has no ops")

    def error(self, why: str) -> ValueError:
        """What to raise for this node."""
        return ValueError(f"{self.place}: {why}")

    def attribute(self, name: str, usual: Any = None) -> Any:
        """An attribute, or what it is by itself."""
        self.read.add(name)
        return self.attributes.get(name, usual)

    def must(self, name: str, *allowed: Any) -> Any:
        """An attribute that has one of these values, the first by itself."""
        value = self.attribute(name, allowed[0])
        if value not in allowed:
            raise self.error(f"{name}={value!r} is not supported, only {' or '.join(map(repr, allowed))}")
        return value

    def axis(self, axis: Any, ndim: int) -> int:
        """An axis of as many, counted from the first; ValueError for one that is not there."""
        if not -ndim <= axis < ndim:
            raise self.error(f"axis {axis} is not there, of {ndim}")
        return int(axis) % ndim

    def places(self, numbers: np.ndarray, length: int) -> np.ndarray:
        """Numbers of places on an axis, counted from its first; ValueError for one that is not there."""
        if numbers.size and not (-length <= numbers.min() and numbers.max() < length):
            raise self.error(f"the numbers {numbers.min()} to {numbers.max()} are not all on an axis of {length}")
        return np.where(numbers < 0, numbers + length, numbers)

    def finish(self) -> None:
        """ValueError for an attribute that nobody read."""
        unread = [name for name in self.attributes if name not in self.read]
        if unread:
            raise self.error(f"its attribute {', '.join(unread)} is not supported")

    def has(self, i: int) -> bool:
        """Whether input i is there."""
        return i < len(self.inputs) and bool(self.inputs[i])

    def number(self, i: int, usual: np.ndarray | None = None) -> np.ndarray:
        """Input i, which must be known before the model runs; it is no weight then, but part of the graph."""
        if not self.has(i):
            if usual is None:
                raise self.error(f"input {i} is missing")
            return usual
        if self.inputs[i] not in self.constants:
            raise self.error(f"input {i}, {self.inputs[i]!r}, must be a constant, and is computed")
        return self.constants[self.inputs[i]]

    def given(self, *wishes: Axes | str | None) -> list[str]:
        """The names of all inputs, of which the first are wanted in these orders of axes, or as a "buffer"."""
        for i, name in enumerate(self.inputs):
            wish = wishes[i] if i < len(wishes) else None
            role = "buffer" if wish == "buffer" else "parameter"
            self.wishes.setdefault(name, []).append((role, wish if isinstance(wish, tuple) else None))
        return self.inputs

    def only(self, count: int, *wishes: Axes | str | None) -> list[str]:
        """The first inputs, the others being part of the graph."""
        self.inputs = self.inputs[:count]
        return self.given(*wishes)


def place_of(node: Any, number: int) -> str:
    """What errors call a node."""
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type}, node {number}"


def value_of(attribute: Any, place: str) -> Any:
    """An attribute as a number, a string, a list of either or an array."""
    kinds = library().AttributeProto
    if attribute.type == kinds.TENSOR:
        return array_of(attribute.t, f"{place}: {attribute.name}", None)
    if attribute.type == kinds.STRING:
        return attribute.s.decode("utf-8", "replace")
    if attribute.type == kinds.STRINGS:
        return [text.decode("utf-8", "replace") for text in attribute.strings]
    if attribute.type in (kinds.INT, kinds.FLOAT):
        return attribute.i if attribute.type == kinds.INT else attribute.f
    if attribute.type in (kinds.INTS, kinds.FLOATS):
        values: Sequence[Any] = attribute.ints if attribute.type == kinds.INTS else attribute.floats
        return list(values)
    raise ValueError(f"{place}: its attribute {attribute.name} is of a kind that is not supported")


Reader = Callable[[Source], Run]
