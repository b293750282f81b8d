"""An ONNX graph that grows node by node."""

from typing import Any

import numpy as np

from minigrad.onnx.library import library


class GraphBuilder:
    """Nodes and initializers, and the names that are taken."""

    def __init__(self) -> None:
        self.onnx = library()
        self.nodes: list[Any] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.taken: set[str] = set()
        self.constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def new_name(self, wish: str) -> str:
        """The name, or with a number if it is taken."""
        name, i = wish, 1
        while name in self.taken:
            name, i = f"{wish}_{i}", i + 1
        self.taken.add(name)
        return name

    def add(self, kind: str, inputs: list[str], place: str, **attributes: Any) -> str:
        """Add a node of one result, named by its place in the model; gives the result's name."""
        return self.add_several(kind, 1, inputs, place, **attributes)[0]

    def add_several(self, kind: str, count: int, inputs: list[str], place: str, **attributes: Any) -> list[str]:
        """Add a node of so many results, the first of which has its name; gives their names."""
        name = self.new_name(f"{place}/{kind}" if place else kind)
        results = [name, *[self.new_name(f"{name}_{i}") for i in range(1, count)]]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, results, name, **attributes))
        return results

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant that belongs to no state_dict; equal ones are one."""
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self.constants:
            value = self.onnx.numpy_helper.from_array(array)
            self.constants[key] = self.add("Constant", [], "", value=value)
        return self.constants[key]

    def integers(self, *numbers: int) -> str:
        """A constant vector of integers: a shape, axes."""
        return self.constant(np.array(numbers, np.int64))

    def initializer(self, wish: str, array: np.ndarray) -> str:
        """Keep an array of the model's in the file; gives its name."""
        name = self.new_name(wish)
        self.initializers[name] = np.ascontiguousarray(array)
        return name

    def rename(self, old: str, new: str) -> None:
        """Give the result of a node another name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
