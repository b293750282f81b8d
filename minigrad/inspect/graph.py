"""The ops behind a tensor, numbered, and names for what feeds them."""

import itertools
import linecache
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minigrad.devices import is_array
from minigrad.inspect.kernel_calls import KernelCall, NotedKernels
from minigrad.modes import Switch
from minigrad.nn import Module
from minigrad.nn.module import modules_at_work
from minigrad.results import Result, op_of
from minigrad.tape import Op
from minigrad.tensor import Tensor

UNKNOWN = "·"  # stands for an input that needs no gradient, of which the tape keeps nothing


def trace() -> Switch:
    """Inside, each op notes the line of user code that called it: `with mg.inspect.trace(): ...`, or a decorator."""
    return Switch(trace=True)


def record() -> Switch:
    """Inside, each op also keeps a copy of its inputs and parameters, and the line of user code that called it.

    The tape itself keeps only what backward needs. `steps` needs the inputs for its finite differences, `table` and `draw`
    show those that need no gradient, and `page` shows values, modules and kernels. The copies live as long as the tape does.
    """
    return Switch(trace=True, observe=keep_inputs)


@dataclass(frozen=True)
class Recorded:
    """What an op was called with."""

    tensors: tuple["weakref.ref[Tensor] | None", ...]
    arrays: tuple[np.ndarray | None, ...]
    parameters: dict[str, object]
    modules: tuple["weakref.ref[Module]", ...]  # whose forward it was called in, the outermost first
    calls: list[KernelCall] = field(default_factory=list)  # the kernels that its forward ran


def keep_inputs(op: Op, inputs: tuple[Tensor | None, ...], parameters: dict[str, object]) -> None:
    """Leave copies of what an op is called with on the op, and let it note the kernels it runs."""
    op.recorded = Recorded(
        tuple([None if t is None else weakref.ref(t) for t in inputs]),
        tuple([None if t is None else np.array(t._data) for t in inputs]),
        {name: copied(value) for name, value in parameters.items()},
        tuple([weakref.ref(module) for module in modules_at_work()]),
    )
    op.kernels = NotedKernels(op.kernels, op.recorded.calls.append)  # type: ignore[assignment]  # it stands in for them


def copied(value: object) -> object:
    """A value whose arrays are copies, also those in tuples and lists."""
    if is_array(value):
        return np.array(value)
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(map(copied, value))
    return value


@dataclass(frozen=True)
class Constant:
    """Input `index` of an op, which needs no gradient."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


class TapeGraph:
    """The ops that a tensor was computed by, in the order of their making, and its leaves by name.

    `names` and `model` name leaves (and, where the inputs were recorded, constants); the others are called leaf1, leaf2, ...
    in the order of their first use. Raises RuntimeError where there is no tape.
    """

    def __init__(self, tensor: Tensor, names: Mapping[str, Tensor] | None = None, model: Module | None = None) -> None:
        self.ops = ops_behind(tensor)
        self.result: Op | Result = tensor._op or self.ops[-1]
        self.numbers = {op: i for i, op in enumerate(self.ops, 1)}
        self.given = given_names(names, model)
        self.leaves: dict[Tensor, str] = {}
        new_names = (name for i in itertools.count(1) if (name := f"leaf{i}") not in self.given.values())
        for op in self.ops:
            for source in op.sources or ():
                if isinstance(source, Tensor) and source not in self.leaves:
                    self.leaves[source] = self.given.get(source) or next(new_names)

    def name(self, source: Op | Result | Tensor) -> str:
        """What an op, one of its results, or a leaf is called: "#3", "#3[1]", "w1"."""
        if isinstance(source, Tensor):
            return self.leaves[source]
        if isinstance(source, Result):
            return f"#{self.numbers[source.op]}[{source.number}]"
        return f"#{self.numbers[source]}"

    def constants(self, op: Op) -> dict[int, Constant]:
        """The recorded inputs of an op that need no gradient, by their position; none if they were not recorded."""
        if op.recorded is None:
            return {}
        found = {}
        for i, (source, array) in enumerate(zip(op.sources or (), op.recorded.arrays, strict=True)):
            if source is None and array is not None:
                name = self.given.get(op.recorded.tensors[i]())
                if name is None:
                    name = f"{array.item():g}" if array.ndim == 0 else f"constant {array.shape}"
                found[i] = Constant(name, array.shape, array.dtype)
        return found

    def inputs(self, op: Op) -> list[str]:
        """The names of an op's inputs, in order, without those that were left out."""
        constants = self.constants(op)
        names = []
        for i, source in enumerate(op.sources or ()):
            if source is not None:
                names.append(self.name(source))
            elif i in constants:
                names.append(constants[i].name)
            elif op.recorded is None:
                names.append(UNKNOWN)
        return names


def ops_behind(tensor: Tensor) -> list[Op]:
    """All ops that a tensor was computed by and that are on the tape, in the order of their making."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"the tape is looked at from a Tensor, such as the loss, not from {type(tensor).__name__}")
    last = op_of(tensor._op)
    if last is None:
        raise RuntimeError(
            "this tensor has no tape: "
            + (
                "it is a leaf"
                if tensor.requires_grad
                else "no input required a gradient, or it was made under no_grad()"
            )
        )
    seen = {last}
    waiting = [last]
    while waiting:
        op = waiting.pop()
        if op.sources is None:
            raise RuntimeError(
                f"the tape behind {type(op).__name__} was freed by backward; look at it before, "
                "or call backward with retain_graph=True"
            )
        for before in map(op_of, op.sources):
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return sorted(seen, key=lambda op: op.order)


def given_names(names: Mapping[str, Tensor] | None, model: Module | None) -> dict[Tensor | None, str]:
    """Tensors and what the user calls them."""
    given: dict[Tensor | None, str] = {}
    if model is not None:
        given |= {t: name for named in (model.named_parameters(), model.named_buffers()) for name, t in named}
    for name, t in (names or {}).items():
        if not isinstance(t, Tensor):
            raise TypeError(f"names: {name!r} must be a Tensor, not {type(t).__name__}")
        given[t] = name
    return given


def kept_arrays(op: Op) -> list[np.ndarray]:
    """The arrays an op keeps for backward, but for those of its leaves, which live anyway."""
    leaves = [source._data for source in op.sources or () if isinstance(source, Tensor)]
    held = [*(op.saved or ()), *vars(op).values()]
    return [a for a in held if is_array(a) and not any(a is leaf for leaf in leaves)]


def shape_of(op: Op) -> str:
    """The shape of an op's result, or of each of several."""
    return ", ".join(str(result.shape) for result in op._results())


def dtype_of(op: Op) -> str:
    """The dtype of an op's results, each once."""
    return ", ".join(dict.fromkeys(str(result.dtype) for result in op._results()))


def source_line(line: str) -> str:
    """The text of a line of user code given as file:line, or "" if it cannot be read."""
    file, _, number = line.rpartition(":")
    return linecache.getline(file, int(number)).strip() if file else ""


def short_line(line: str) -> str:
    """file:line without the folders."""
    file, _, number = line.rpartition(":")
    return f"{Path(file).name}:{number}" if file else ""
