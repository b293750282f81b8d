"""Arrays of a model beside their names in the graph, in each layout that was asked for."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from minigrad.onnx.graph import GraphBuilder
from minigrad.onnx.layout import IMAGES, Axes, Flattened, Layout, between, in_order, inverse, plain
from minigrad.onnx.plan import Array, Length, Node, same


class Writer:
    """A graph in the making: which arrays of the model are in it, under which names."""

    def __init__(self, inputs: Sequence[Array], decays: dict[str, float]) -> None:
        self.graph = GraphBuilder()
        self.versions: dict[Array, dict[Layout, str]] = {}  # in the order of their coming
        self.initializers: dict[tuple[Array, Hashable], str] = {}
        self.inputs = list(inputs)
        self.decays = decays  # of BatchNorm layers, by the name of their running mean
        self.origins: dict[Array, Array] = {}  # what an array is a reshape of
        self.parts: dict[Array, list[Array]] = {}  # what an array has one after the other on its first axis
        self.node: Node | None = None  # at work

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of ONNX's; gives the name of its result."""
        return self.graph.add(kind, list(inputs), self.node.module if self.node else "", **attributes)

    def add_several(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node of ONNX's that has several results; gives their names."""
        return self.graph.add_several(kind, count, list(inputs), self.node.module if self.node else "", **attributes)

    def put(self, array: Array, name: str, layout: Layout | None = None) -> None:
        """An array is at hand under a name."""
        self.versions.setdefault(array, {})[plain(array.ndim) if layout is None else layout] = name

    def native(self, array: Array) -> tuple[str, Layout]:
        """(name, layout) as the array came first."""
        if array not in self.versions:
            self.put(array, self.baked(array, array.data, plain(array.ndim)))
        layout, name = next(iter(self.versions[array].items()))
        return name, layout

    def layout(self, array: Array) -> Layout:
        """As the array came first."""
        return self.native(array)[1]

    def plain(self, array: Array) -> str:
        """Its name in the layout of minigrad."""
        return self.laid(array, plain(array.ndim))

    def laid(self, array: Array, axes: Axes) -> str:
        """Its name in a layout; what is not there is made, a constant by turning its values."""
        if array.data is not None:
            return self.baked(array, array.data.transpose(axes), axes)
        _, layout = self.native(array)
        versions = self.versions[array]
        if axes not in versions:
            if isinstance(layout, Flattened) and plain(array.ndim) not in versions:
                self.unflatten(array, layout)
                return self.laid(array, axes)
            have = self.nearest(array, axes)
            versions[axes] = self.turned(versions[have], array, have, axes)
        return versions[axes]

    def nearest(self, array: Array, axes: Axes) -> Axes:
        """Of the layouts at hand one from which the wanted one is the same memory, else the first."""
        there = [have for have in self.versions[array] if not isinstance(have, Flattened)]
        shape = [array.fixed(a) for a in range(array.ndim)]
        return next((have for have in there if in_order(between(have, axes), [shape[a] for a in have])), there[0])

    def turned(self, name: str, array: Array, have: Axes, want: Axes) -> str:
        """A transpose, or where only axes of length 1 move a reshape."""
        shape = [array.shape[a] for a in have]
        turn = between(have, want)
        if in_order(turn, [same(length) for length in shape]):
            return self.reshaped(name, shape, [array.shape[a] for a in want])
        return self.add("Transpose", name, perm=turn)

    def unflatten(self, array: Array, layout: Flattened) -> None:
        """Give flattened features, which came with the channels first, minigrad's order."""
        rows, features = array.shape
        image = [rows, *[(n,) * len(rows) for n in (layout.c, layout.h, layout.w)]]
        name = self.reshaped(self.versions[array][layout], array.shape, image)
        name = self.add("Transpose", name, perm=inverse(IMAGES))
        self.put(array, self.reshaped(name, [image[i] for i in (0, 2, 3, 1)], [rows, features]))

    def baked(self, array: Array, values: np.ndarray | None, how: Hashable) -> str:
        """The name of a constant's values, turned as `how` says: of the model's state under its own name, once for each."""
        if values is None:
            raise AssertionError(f"no node has made an array of shape {array.shape}")  # a fault of ours
        if not array.name:
            return self.graph.constant(np.ascontiguousarray(values))
        key = array, how
        if key not in self.initializers:
            self.initializers[key] = self.graph.initializer(array.name, values)
        return self.initializers[key]

    def reshaped(self, name: str, have: Sequence[Length], want: Sequence[Length]) -> str:
        """A reshape from some lengths to others: a length that depends on the batch is copied, or follows from the others."""
        if list(have) == list(want):
            return name
        numbers: list[int | None] = []
        for i, length in enumerate(want):
            fixed = same(length)
            numbers.append(fixed if fixed is not None else 0 if i < len(have) and have[i] == length else None)
        if numbers.count(None) == 1:
            numbers[numbers.index(None)] = -1
        if None not in numbers:
            return self.add("Reshape", name, self.graph.integers(*[n for n in numbers if n is not None]))
        return self.add("Reshape", name, self.lengths(want, numbers))

    def lengths(self, want: Sequence[Length], numbers: Sequence[int | None] | None = None) -> str:
        """A vector of lengths, or of `numbers` for them, None where a length is computed from the batch's."""
        numbers = [same(length) for length in want] if numbers is None else numbers
        known = [n for n in numbers if n is not None]
        if len(known) == len(want):
            return self.graph.integers(*known)
        parts = [
            self.length(length) if n is None else self.graph.integers(n)
            for n, length in zip(numbers, want, strict=True)
        ]
        return self.add("Concat", *parts, axis=0)

    def length(self, length: Length) -> str:
        """A vector of one length, computed from the batch's: a n + b."""
        a, b = self.line_through(length)
        first = self.native(self.inputs[0])[0]
        name = self.add("Gather", self.add("Shape", first), self.graph.integers(0))  # the batch is first in any layout
        name = name if a == 1 else self.add("Mul", name, self.graph.integers(a))
        return name if b == 0 else self.add("Add", name, self.graph.integers(b))

    def line_through(self, length: Length) -> tuple[int, int]:
        """(a, b) of a length a n + b for a batch of n; ValueError for one that is no such."""
        n = self.inputs[0].shape[0]
        a = length[1] - length[0]  # the second batch has one row more than the first
        b = length[0] - a * n[0]
        if any(have != a * rows + b for have, rows in zip(length, n, strict=True)):
            where = self.node.place if self.node else "the model"
            raise ValueError(
                f"{where}: a length of its result is {length} for batches of {n}, which is not in proportion to the batch; "
                "pass batch=None for a graph of these shapes alone"
            )
        return a, b
