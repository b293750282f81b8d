"""What a model computes, as nodes with shapes that may depend on the length of the batch, found by tracing it several times.

A trace knows only the numbers of one run. The model runs on batches of other lengths with other values in them: a length that
changes depends on the batch, and a constant that changes was computed where no trace looks, in NumPy say, and is refused. A
model whose own Python code looks at values, to compute in NumPy or to choose its way, is traced on many more.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.devices import Device, get_device
from minigrad.interop.tracing import Trace, TracedOp, device_of, traced
from minigrad.kernels.expressions import Formula
from minigrad.nn import Module
from minigrad.ops.pointwise import Pointwise
from minigrad.tensor import Tensor

Length = tuple[int, ...]  # of an axis, in each trace
MORE = 16  # traces of a model in which Python looks at values: an `if` may go the same way several times


@dataclass(eq=False)
class Array:
    """An array of a model: an input, a constant, or what a node makes."""

    shape: tuple[Length, ...]
    dtype: np.dtype
    data: np.ndarray | None = None  # of a constant
    name: str = ""  # of a parameter or buffer, as in state_dict
    each: tuple[np.ndarray, ...] = ()  # numbers of rows that are others in each trace

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def shape_of(self, trace: int) -> tuple[int, ...]:
        """The shape in one trace."""
        return tuple(length[trace] for length in self.shape)

    def fixed(self, axis: int) -> int | None:
        """The length of an axis; None if it depends on the batch."""
        return same(self.shape[axis])


@dataclass(eq=False)
class Node:
    """One use of an op."""

    kind: str  # the op's class
    inputs: list[Array | None]
    parameters: tuple[dict[str, Any], ...]  # in each trace
    results: list[Array]
    module: str  # in whose forward, by its dotted name
    line: str  # of the user's code
    formula: Formula | None = None  # of an op that is made of one

    @property
    def place(self) -> str:
        """The op and where it is, for errors."""
        return f"{self.kind} in {self.module or 'the model'} (called at {self.line})"

    @property
    def result(self) -> Array:
        """What it makes, the first of several."""
        return self.results[0]

    def __getitem__(self, parameter: str) -> Any:
        """A parameter, which must not depend on the batch."""
        first, *others = [given[parameter] for given in self.parameters]
        if any(other != first for other in others):
            raise ValueError(f"{self.place}: its {parameter} depends on the batch, {first} and {others[0]}")
        return first

    def of_each(self, parameter: str) -> list[Any]:
        """A parameter in each trace."""
        return [given[parameter] for given in self.parameters]


@dataclass(eq=False)
class ModelPlan:
    """The nodes of a model in their order, its inputs, and its outputs by name."""

    inputs: list[Array] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)


def same(length: Length) -> int | None:
    """A length, if it is the same in all traces."""
    return length[0] if min(length) == max(length) else None


def planned(model: Module, examples: tuple[Any, ...], batch: bool) -> ModelPlan:
    """The plan of `model(*examples)` in evaluation mode; with `batch`, axis 0 of every input may have any length.

    Raises ValueError for a model that computes something else for other values, or not at all on another batch.
    """
    arrays, device = [np.asarray(example) for example in examples], device_of(model, examples)
    sizes = lengths_of_batches(arrays) if batch else [None, None]
    names = {id(t._data): name for of in (model.named_buffers, model.named_parameters) for name, t in of()}

    def run_of(i: int, size: int | None) -> TracedRun:
        """The i-th run: number 0 is that on the example."""
        inputs = arrays if i == 0 else [other_values(x, size, i) for x in arrays]
        tensors = tuple(Tensor(x, device=device) for x in inputs)
        return TracedRun(run(model, tensors, size, sizes[0] if i else None), names, device or get_device(None))

    runs = [run_of(i, size) for i, size in enumerate(sizes)]
    if sizes[0] == 1 and path(runs[0]) != path(runs[1]):  # a batch of one has a way of its own, without transpositions
        runs = [run_of(i, size) for i, size in enumerate((2, 3, 5), 1)]
    if any(run.looks for run in runs):
        runs += [run_of(i, sizes[-1]) for i in range(len(runs) + 1, len(runs) + 1 + MORE)]
    return merged(runs)


def lengths_of_batches(arrays: list[np.ndarray]) -> list[int | None]:
    """The example's length on axis 0, and two others."""
    shapes = [array.shape for array in arrays]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"the batch is axis 0 of every input, and the example has shapes {', '.join(map(str, shapes))}; give all inputs "
            "the same length there, or pass batch=None for a graph of these shapes alone"
        )
    n = shapes[0][0]
    if not n:
        raise ValueError(f"the example is an empty batch, of shape {shapes[0]}; pass at least one row")
    return [n, n + 1, n + 3]


def other_values(x: np.ndarray, rows: int | None, seed: int) -> np.ndarray:
    """A batch of so many rows, with values of x elsewhere: floats one by one, others, which may be numbers of rows, by rows."""
    rng = np.random.default_rng(seed)
    shape = x.shape if rows is None else (rows, *x.shape[1:])
    if x.dtype.kind != "f":
        return x if not x.ndim else x[(np.arange(shape[0]) + seed) % len(x)]
    values = x.reshape(-1)
    if x.size and (values == values[0]).all():  # an example of zeros
        return rng.random(shape).astype(x.dtype)
    return rng.choice(values, shape)


def run(model: Module, inputs: tuple[Tensor, ...], size: int | None, example: int | None) -> Trace:
    """A trace of the model; an error on another batch than the example's says that it is one."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return traced(model, inputs)
    except Exception as error:
        if size is None or example is None:
            raise
        raise ValueError(
            f"the model runs on the example, a batch of {example}, and not on one of {size} ({type(error).__name__}: {error}); "
            "make it take any batch, or pass batch=None for a graph of these shapes alone"
        ) from error


class TracedRun:
    """What one trace has, its arrays by number: inputs first, then results and constants as they come."""

    def __init__(self, trace: Trace, names: dict[int, str], device: Device) -> None:
        self.looks = bool(trace.looks)
        self.numbers: dict[int, int] = {}
        self.arrays: list[Array] = []
        self.made: set[int] = set()  # numbers of inputs and results
        self.steps: list[tuple[TracedOp, list[int | None], list[int]]] = []

        def number(array: Any, constant: bool = True) -> int:
            if id(array) not in self.numbers:
                self.numbers[id(array)] = len(self.arrays)
                data = np.array(device.to_host(array)) if constant else None
                lengths = tuple((n,) for n in array.shape)
                self.arrays.append(Array(lengths, np.dtype(array.dtype), data, names.get(id(array), "")))
            return self.numbers[id(array)]

        self.inputs = [number(array, constant=False) for array in trace.inputs]
        self.made.update(self.inputs)
        for step in trace.steps:
            inputs = [None if x is None else number(x) for x in step.inputs]
            results = [number(y, constant=False) for y in step.results]
            self.made.update(results)
            self.steps.append((TracedOp(step.op, (), step.parameters, (), step.line, step.module), inputs, results))
        self.outputs = {name: number(t._data) for name, t in named_outputs(trace.outputs)}


def named_outputs(value: Any) -> list[tuple[str, Tensor]]:
    """(name, tensor) of what a model returned."""
    if isinstance(value, Tensor):
        return [("output", value)]
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        items = [(f"output_{i}", item) for i, item in enumerate(value)]
    else:
        items = [("", value)]
    for _, item in items:
        if not isinstance(item, Tensor):
            raise TypeError(
                f"a model is exported that returns a tensor, or a tuple, list or dict of tensors, not {type(item).__name__}"
            )
    return items


def merged(runs: list[TracedRun]) -> ModelPlan:
    """The plan that the runs have in common; ValueError where they differ in more than lengths."""
    first = runs[0]
    for other in runs[1:]:
        if path(other) != path(first) or other.outputs.keys() != first.outputs.keys():
            raise ValueError(where_they_part(first, other))
    arrays = [of_all([run.arrays[i] for run in runs]) for i in range(len(first.arrays))]
    plan = ModelPlan([arrays[i] for i in first.inputs])
    made = set(first.made)
    for steps in zip(*[run.steps for run in runs], strict=True):
        step, inputs, results = steps[0]
        parameters = tuple(s.parameters for s, _, _ in steps)
        given = [None if i is None else arrays[i] for i in inputs]
        formula = step.op.traced if isinstance(step.op, Pointwise) else None
        made_here = [arrays[i] for i in results]
        node = Node(type(step.op).__name__, given, parameters, made_here, step.module, step.line, formula)
        for i, number in enumerate(inputs):
            if number is not None and number not in made:
                constants = [run.arrays[number] for run in runs]
                if alike(constants):
                    continue
                if node.kind in ("Take", "Scatter") and i == 1:
                    arrays[number].each = tuple(c.data for c in constants if c.data is not None)
                elif (row := row_of(constants)) is not None:
                    plan.nodes.append(repeated(row, arrays[number], node))
                    made.add(number)
                else:
                    check_constant(constants, f"{node.place}: input {i}")
        plan.nodes.append(node)
    for name, number in first.outputs.items():
        if number not in made:
            check_constant([run.arrays[number] for run in runs], f"the result {name!r} of the model")
        plan.outputs[name] = arrays[number]
    return plan


def row_of(constants: Sequence[Array]) -> Array | None:
    """The row that all rows of a constant are in all runs, of which only the number depends on the batch; None if none is."""
    first = constants[0].data
    if first is None or not first.ndim or not first.size or len({array.shape[1:] for array in constants}) > 1:
        return None
    row = first[:1]
    whole = [np.broadcast_to(row, array.data.shape) for array in constants if array.data is not None]
    if not alike(constants, whole):
        return None
    lengths = tuple((n,) * len(constants) for n in row.shape)
    return Array(lengths, first.dtype, row)


def repeated(row: Array, whole: Array, beside: Node) -> Node:
    """What repeats a row as often as the batch needs it, for a node."""
    whole.data = None
    shapes = tuple({"shape": whole.shape_of(trace)} for trace in range(len(beside.parameters)))
    return Node("BroadcastTo", [row], shapes, [whole], beside.module, beside.line)


def path(run: TracedRun) -> list[Any]:
    """What must be the same in all runs: which op is given which arrays."""
    return [(type(step.op), inputs, results) for step, inputs, results in run.steps] + [*run.outputs.items()]


def where_they_part(one: TracedRun, other: TracedRun) -> str:
    """What to say of runs that take different ways."""
    for (step, *arrays), (step2, *arrays2) in zip(one.steps, other.steps, strict=False):
        if (type(step.op), arrays) != (type(step2.op), arrays2):
            here = f"{step.name} in {step.module or 'the model'}, elsewhere {step2.name}"
            break
    else:
        here = f"{len(one.steps)} ops, elsewhere {len(other.steps)}"
    return (
        f"the model computes something else for other values or another batch: {here}. A graph has one way only: let what is "
        "done depend on shapes and settings alone"
    )


def of_all(arrays: Sequence[Array]) -> Array:
    """One array out of what it is in each run."""
    first = arrays[0]
    lengths = tuple(tuple(n for (n,) in axis) for axis in zip(*[a.shape for a in arrays], strict=False))
    return Array(lengths, first.dtype, first.data, first.name)


def alike(arrays: Sequence[Array], wanted: Sequence[np.ndarray] | None = None) -> bool:
    """Whether a constant is the same in all runs; or what is wanted of each."""
    found = [array.data for array in arrays if array.data is not None]
    nan = found[0].dtype.kind == "f"
    return all(
        np.array_equal(one, other, equal_nan=nan)
        for one, other in zip(found, wanted or [found[0]] * len(found), strict=True)
    )


def check_constant(arrays: Sequence[Array], what: str) -> None:
    """Raise ValueError unless it is the same array in all runs."""
    if not alike(arrays):
        raise ValueError(
            f"{what} was not made by ops of minigrad, and is another array for other values or another batch: it was "
            "computed in NumPy or in Python, or depends on the length of the batch; compute it by ops of minigrad, or, if "
            "only the batch changes it, pass batch=None for a graph of these shapes alone"
        )
