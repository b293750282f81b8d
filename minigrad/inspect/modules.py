"""The inside of a model: what its modules put out, and what they cost."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from minigrad.changes import changes
from minigrad.devices import address
from minigrad.inspect.text import columns, number_of_bytes
from minigrad.modes import Switch, refuse
from minigrad.nn import Module
from minigrad.nn.module import Value
from minigrad.ops.conv import Conv2d
from minigrad.ops.depthwise import DepthwiseConv2d, GroupedConv2d
from minigrad.ops.gemm import BatchedMatMul, Linear, MatMul
from minigrad.ops.norm import BatchNorm, BatchNormInference
from minigrad.tape import Op
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Before = Callable[[Module], None]  # what is called around a module's forward
After = Callable[[Module, Value], None]


@contextmanager
def activations(model: Module, names: str | Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of modules, by their dotted names, for what runs inside the `with` block.

        with mg.inspect.activations(model, ["8"]) as outputs:
            model(x)
        outputs["8"].numpy()

    Without `names`, of all modules below the model. The outputs are off the tape; of a module that runs several times, the
    last one counts, and one that does not run has none. Raises ValueError for a name that is none.
    """
    modules = dict(model.modules())
    if names is None:
        names = filter(None, modules)
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in modules]
    if unknown:
        raise ValueError(
            f"no module is called {', '.join(map(repr, unknown))}; there are {', '.join(filter(None, modules))}"
        )
    outputs: dict[str, Tensor] = {}

    def keep(module: Module, result: Value) -> None:
        refuse("activations inside a captured step would be read once; return the tensors from the step")
        for name in wanted:
            if modules[name] is module:
                outputs[name] = result.detach() if isinstance(result, Tensor) else result

    with watched({id(modules[name]): modules[name] for name in wanted}.values(), after=keep):
        yield outputs


@contextmanager
def watched(modules: Iterable[Module], before: Before | None = None, after: After | None = None) -> Iterator[None]:
    """Inside, call before(module) and after(module, result) around each forward of these modules."""

    def around(module: Module, forward: Callable[..., Value]) -> Callable[..., Value]:
        def forward_watched(*inputs: Value, **options: Value) -> Value:
            if before is not None:
                before(module)
            result = forward(*inputs, **options)
            if after is not None:
                after(module, result)
            return result

        return forward_watched

    watching = list(modules)
    own = [vars(module).get("forward") for module in watching]
    for module in watching:
        vars(module)["forward"] = around(module, module.forward)
    changes.add()
    try:
        yield
    finally:
        for module, forward in zip(watching, own, strict=True):
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward
        changes.add()


@dataclass(frozen=True)
class SummaryRow:
    """One call of one module: a row of a summary."""

    name: str
    layer: str
    shape: tuple[int, ...]  # of its result
    parameters: int
    multiply_adds: int
    activation: int  # bytes


@dataclass(frozen=True)
class Summary:
    """What `summary` returns; print it."""

    layers: list[SummaryRow]
    parameters: int
    multiply_adds: int
    activation: int  # bytes

    def __str__(self) -> str:
        header = ["name", "layer", "output", "parameters", "multiply-adds", "activation"]
        rows = [
            [row.name, row.layer, str(row.shape), *amounts(row.parameters, row.multiply_adds, row.activation)]
            for row in self.layers
        ]
        rows.append(["", "total", "", *amounts(self.parameters, self.multiply_adds, self.activation)])
        return columns(header, rows, right=(3, 4, 5))

    __repr__ = __str__


def amounts(parameters: int, multiply_adds: int, activation: int) -> list[str]:
    """The last three cells of a row."""
    return [f"{parameters:,}", f"{multiply_adds:,}", number_of_bytes(activation)]


@dataclass
class Call:
    """A module at work, while a summary is made."""

    module: Module
    parameters: int
    within: "Call | None" = None  # the one whose forward it was made in
    result: Value = None
    activation: int = 0
    ops: list[tuple[Op, list[tuple[int, ...]]]] = field(
        default_factory=list
    )  # its own, with the shapes of their inputs


def summary(model: Module, shape: tuple[int, ...] | Tensor | np.ndarray, dtype: "DTypeLike | None" = None) -> Summary:
    """Layers, output shapes, parameters, multiply-adds and bytes of activations, for an input of `shape` (batch included).

    A batch as a tensor or array stands for its shape.

    One forward on zeros (of `dtype`, by default the parameters') in evaluation mode tells; the model is afterwards as it was
    before. Multiply-adds are counted by op: those of linear layers and matrix products, and one per element for Batch
    Normalization. A layer's activation is the memory of its result, none where that is a view. A module that runs several
    times has as many rows, its parameters counted once. Raises TypeError for a shape that is none.
    """
    parameters = model.parameters()
    x = input_of(model, shape, dtype, "summary")
    calls = calls_of(model, x)
    names = {id(module): name for name, module in reversed(list(model.modules()))}
    layers = []
    for call in calls:
        children = list(call.module.children())
        if call.ops or call.parameters or not children:
            title = type(call.module).__name__ if children else repr(call.module)
            result = call.result.shape if isinstance(call.result, Tensor) else ()
            cost = sum(multiply_adds(op, shapes) for op, shapes in call.ops)
            layers.append(SummaryRow(names[id(call.module)], title, result, call.parameters, cost, call.activation))
    return Summary(
        layers,
        sum(t.size for t in parameters),
        sum(row.multiply_adds for row in layers),
        sum(row.activation for row in layers),
    )


def input_of(
    model: Module, shape: tuple[int, ...] | Tensor | np.ndarray, dtype: "DTypeLike | None", user: str
) -> Tensor:
    """Zeros of the shape of a batch, on the model's device."""
    lengths = shape.shape if isinstance(shape, Tensor | np.ndarray) else shape
    if not isinstance(lengths, Sequence) or not all(isinstance(n, int | np.integer) for n in lengths):
        raise TypeError(f"{user} needs the shape of a batch, such as (60, 784), or a batch itself, not {shape!r:.60}")
    parameters = model.parameters()
    if dtype is None:
        dtype = parameters[0].dtype if parameters else np.float32
    x = Tensor(np.zeros(lengths, dtype), device=parameters[0].device if parameters else None)
    x.requires_grad = x.dtype.kind == "f"  # so that every op goes on the tape and knows the shape of its result
    return x


def calls_of(model: Module, x: Tensor) -> list[Call]:
    """The calls of all modules in one forward of the model in evaluation mode, in the order of their beginning."""
    calls: list[Call] = []
    running: list[Call] = []
    counted: set[Tensor] = set()
    places = {address(x._data)}  # of all results so far, which `calls` keeps alive

    def before(module: Module) -> None:
        own = {t for name, t in module.named_parameters() if "." not in name} - counted
        counted.update(own)
        calls.append(Call(module, sum(t.size for t in own), running[-1] if running else None))
        running.append(calls[-1])

    def after(module: Module, result: Value) -> None:
        call = running.pop()
        call.result = result
        if isinstance(result, Tensor) and address(result._data) not in places:
            places.add(address(result._data))
            call.activation = result._data.nbytes

    def observe(op: Op, inputs: tuple[Tensor | None, ...], parameters: dict[str, object]) -> None:
        running[-1].ops.append((op, [() if t is None else t.shape for t in inputs]))

    modules = list({id(module): module for _, module in model.modules()}.values())
    attributes = [dict(vars(module)) for module in modules]
    observing = Switch(grad_enabled=True, trace=True, observe=observe)
    try:
        model.eval()
        with watched(modules, before, after), observing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(x)
    finally:
        for module, values in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(values)
    return calls


def multiply_adds(op: Op, shapes: list[tuple[int, ...]]) -> int:
    """How many products one forward of an op, whose inputs have these shapes, adds up."""
    if not op.sources:
        return 0
    results = math.prod(op._results()[0].shape)
    if isinstance(op, Linear | Conv2d | DepthwiseConv2d | GroupedConv2d):
        return results * math.prod(shapes[1][:-1])  # each element of the result sums over all but the last axis of w
    if isinstance(op, MatMul | BatchedMatMul):
        return results * shapes[0][-1]
    if isinstance(op, BatchNorm | BatchNormInference):
        return results
    return 0
