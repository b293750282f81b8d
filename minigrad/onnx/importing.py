"""A model from a file of ONNX."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad.devices import get_device
from minigrad.nn import Module
from minigrad.nn.module import Parameter
from minigrad.onnx.held import LAST, Held, constant
from minigrad.onnx.layout import Axes, plain
from minigrad.onnx.library import library
from minigrad.onnx.reading import described, read
from minigrad.onnx.runs import READERS
from minigrad.onnx.source import Run, Source, Wishes, place_of
from minigrad.tensor import FLOATS, Tensor


def import_model(path: str | os.PathLike[str], *, layout: str | None = None) -> "ImportedModel":
    """A model that computes what a file of ONNX does, by ops of minigrad; in evaluation mode.

    Its parameters and buffers are named by the file's initializers. Float arrays are parameters and can be trained; running
    statistics, numbers without axes and constants that stand in the graph are buffers. Weights are laid out as here, (kh, kw,
    in, out) and (in, out). It takes the inputs in the file's order and returns its output, or a dict of several by name.
    Dropout does nothing, as in evaluation. Opsets 11 to 25 are read. Needs the extra `onnx`.

    `layout` says how inputs and outputs of four axes come: None as the file has them, (N, C, H, W) in files of PyTorch's;
    "channels_last" for (N, H, W, C) where the file has (N, C, H, W).

    Raises ValueError for a file that is damaged or not sound, for weights outside of its folder, and for ops, attributes and
    opsets that are not supported, all of them by name; FileNotFoundError.
    """
    if layout not in (None, "channels_last"):
        raise ValueError(f"layout must be None, as in the file, or 'channels_last', not {layout!r}")
    graph, arrays, opset = read(path)
    try:
        return ImportedModel(graph.SerializeToString(), arrays, opset, layout)
    except ValueError as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error


@dataclass(eq=False)
class ReadyNode:
    """A node, ready to run."""

    kind: str
    place: str
    inputs: list[str]
    outputs: list[str]
    run: Run
    of_numbers: bool  # whether `run` takes arrays of numbers as they are
    last: list[str]  # names that no later step needs


class Kept(Module):
    """The parameters and buffers of a file, by their names there, or with "_" behind it if modules have such an attribute."""


class ImportedModel(Module):
    """What `mg.onnx.import_model` returns; its parts are the file's nodes."""

    def __init__(self, graph: bytes, arrays: dict[str, np.ndarray], opset: int, layout: str | None) -> None:
        self.graph, self.opset, self.layout = graph, opset, layout
        self.constants = dict(arrays)
        self.kept = Kept()
        self.orders: dict[str, Axes] = {}  # in which order of axes each is kept
        wishes = self.prepare()
        for name, array in [*self.constants.items()]:
            if name in wishes and array.dtype in FLOATS and (array.ndim or name in arrays):
                wished = [order for _, order in wishes[name] if order is not None]
                order = wished[0] if wished else plain(array.ndim)
                if len(order) != array.ndim:
                    raise ValueError(f"{name} has shape {array.shape}, where {len(order)} axes are expected")
                values = np.ascontiguousarray(array.transpose(order))
                trained = array.ndim and name in arrays and all(role == "parameter" for role, _ in wishes[name])
                self.orders[name] = order
                setattr(self.kept, own_name(name), Parameter(values) if trained else Tensor(values))
        self.constants = {name: array for name, array in self.constants.items() if name not in self.orders}
        self.eval()

    def prepare(self) -> Wishes:
        """Read the nodes; gives what each wants of the constants. ValueError that lists what is not supported."""
        graph = library().GraphProto.FromString(self.graph)
        wishes: Wishes = {}
        steps, problems = [], []
        for number, node in enumerate(graph.node, 1):
            try:
                steps.append(step_of(node, number, self.opset, self.constants, wishes))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n  ".join(["", *dict.fromkeys(problems)]) if len(problems) > 1 else problems[0])
        kept = {*self.constants, *self.orders}
        self.given = described(value for value in graph.input if value.name not in kept)
        self.made = [value.name for value in graph.output]
        needed = {*self.made, *kept}
        for step in reversed(steps):
            step.last = [name for name in dict.fromkeys(step.inputs) if name and name not in needed]
            needed.update(step.inputs)
        self.steps = [step for step in steps if step.kind != "Constant"]
        return wishes

    def children(self) -> Iterator[tuple[str, Module]]:
        """What is kept is named as in the file, without a prefix."""
        yield "", self.kept

    def settings(self) -> str:
        """How many nodes of which kinds."""
        kinds = [step.kind for step in self.steps]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))

    def __repr__(self) -> str:
        return f"ImportedModel({self.settings()})"

    def forward(self, *inputs: Tensor) -> Any:
        """The file's output, or a dict of its outputs by name."""
        values: dict[str, Any] = {"": None, **self.constants}
        for name, order in self.orders.items():
            values[name] = Held(vars(self.kept)[own_name(name)], order)
        values.update(self.checked(inputs))
        home = next((x.device for x in values.values() if isinstance(x, Held)), get_device(None))
        for step in self.steps:
            given = [values[name] for name in step.inputs]
            if not step.of_numbers:
                given = [Held(constant(x, home)) if isinstance(x, np.ndarray) else x for x in given]
            try:
                results = step.run(given, self.training)
            except (ValueError, TypeError, IndexError) as error:
                if step.place in str(error):
                    raise
                raise type(error)(f"{step.place}: {error}") from error
            results = results if isinstance(results, list) else [results]
            results = [np.asarray(y) if isinstance(y, np.generic) else y for y in results]
            values.update(zip(step.outputs, results, strict=False))
            for name in step.last:  # so that memory is free once nobody needs it
                del values[name]
        outputs = {name: self.as_output(values[name]) for name in self.made}
        return outputs[self.made[0]] if len(outputs) == 1 else outputs

    def checked(self, inputs: tuple[Tensor, ...]) -> dict[str, Held]:
        """The inputs by name; ValueError or TypeError for what the file does not take."""
        if len(inputs) != len(self.given):
            names = ", ".join(name for name, _, _ in self.given)
            raise ValueError(f"the model takes {len(self.given)} inputs ({names}), not {len(inputs)}")
        held = {}
        for x, (name, dtype, lengths) in zip(inputs, self.given, strict=True):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name} must be a tensor or an array, not {type(x).__name__}")
            value = Held(x, LAST if self.layout and x.ndim == 4 else None)
            if x.dtype != dtype:
                raise TypeError(f"{name} must be of {dtype}, not {x.dtype}; convert with .to({dtype.name!r})")
            if lengths is not None and not fits(value.shape, lengths):
                axes = LAST if self.layout and len(lengths) == 4 else plain(len(lengths))
                wanted = ", ".join(str(lengths[a]) for a in axes)
                raise ValueError(f"{name} must have shape ({wanted}), not {x.shape}")
            held[name] = value
        return held

    def as_output(self, value: Any) -> Tensor:
        """A result as it is returned."""
        if isinstance(value, np.ndarray):
            return Tensor(value)
        return value.laid(LAST) if self.layout and value.ndim == 4 else value.plain

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "steps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.prepare()


def fits(shape: tuple[int, ...], lengths: list[int | str]) -> bool:
    """Whether a shape has so many axes, of the lengths that are numbers."""
    return len(shape) == len(lengths) and all(isinstance(n, str) or n == m for n, m in zip(lengths, shape, strict=True))


def own_name(name: str) -> str:
    """The attribute that an initializer is kept as."""
    return f"{name}_" if hasattr(Module, name) else name


def step_of(node: Any, number: int, opset: int, constants: dict[str, np.ndarray], wishes: Wishes) -> ReadyNode:
    """A node, read; ValueError for what is not supported."""
    if node.op_type not in READERS:
        raise ValueError(f"{place_of(node, number)}: minigrad has no such op")
    source = Source(node, number, opset, constants, wishes)
    run = READERS[source.kind](source)
    source.finish()
    return ReadyNode(source.kind, source.place, source.inputs, source.outputs, run, source.of_numbers, [])
