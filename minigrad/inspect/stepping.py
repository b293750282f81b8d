"""Backward, one op at a time, each op held against finite differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.devices import Device, get_device
from minigrad.gradients import add_arrays, run_hooks
from minigrad.inspect.graph import Recorded, TapeGraph, copied, short_line, source_line
from minigrad.inspect.kernel_calls import KernelCall, NotedKernels
from minigrad.inspect.text import described, shortened
from minigrad.nn import Module
from minigrad.results import Result, no_gradient, op_of
from minigrad.tape import Op, check_count, first_gradient, wrong_gradient
from minigrad.tensor import Tensor

Source = Op | Result | Tensor
STEP = 1e-6  # of the finite differences, relative to each element
TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-6}  # of the relative error, by the tape's precision


@dataclass(frozen=True)
class Check:
    """The derivative of one node along a random direction v in one of its inputs, found in two ways.

    `analytic` is dx · v, with the gradient dx that backward passes on. `numeric` is dy · (f(x + hv) - f(x - hv)) / 2h, with
    the node's forward computed in float64 by the reference kernels. `error` is their distance over the sum of the
    absolute terms of `numeric` (or the norm of dx, if that is more), so that it is small where terms cancel.
    """

    numeric: float
    analytic: float
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the two agree as well as the precision of the tape allows. Also false at a kink, such as ReLU's at 0."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "relative error" if self.ok else "DIFFERS, relative error"
        return f"dx·v = {self.analytic:.6g}, finite differences {self.numeric:.6g}, {verdict} {self.error:.0e}"


@dataclass(frozen=True)
class Passed:
    """The gradient that a step passes on to one of its sources."""

    to: str  # the op or leaf: "#3 Sigmoid", "w1"
    gradient: np.ndarray
    part: int  # 1 if it is the first that this source gets, 2 if it is added to another one, ...
    check: Check | None  # None if the node's inputs were not recorded


@dataclass(frozen=True)
class Step:
    """Backward through one op."""

    index: int  # of the step, from 1
    number: int  # of the op, as in the table
    op: str
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...]  # of the result, or of each of several
    formula: str
    line: str  # file:line, or "" if it was not traced
    dy: Any  # the gradient that arrives; of several results a tuple, None for one that gets none
    passed: list[Passed] = field(default_factory=list)
    calls: list[KernelCall] = field(default_factory=list)  # the kernels that backward ran

    @property
    def ok(self) -> bool:
        """Whether all finite differences agree; true of none."""
        return all(passed.check is None or passed.check.ok for passed in self.passed)

    def __str__(self) -> str:
        title = f"step {self.index}: #{self.number} {self.op}"
        if self.line:
            title += f"    {short_line(self.line)}  {shortened(source_line(self.line))}".rstrip()
        lines = [title]
        if self.formula:
            lines.append(f"  formula    {self.formula}")
        several = isinstance(self.dy, tuple)
        for i, dy in enumerate(self.dy if several else (self.dy,)):
            which = f"[{i}] " if several else ""
            lines.append(f"  arrives    {which}" + ("nothing" if dy is None else f"{dy.shape}: {described(dy)}"))
        for passed in self.passed:
            added = "" if passed.part == 1 else f", added to {passed.part - 1} before"
            lines.append(f"  passes on  to {passed.to} {passed.gradient.shape}: {described(passed.gradient)}{added}")
            if passed.check is None:
                lines.append("    not checked: compute the loss inside `with mg.inspect.record():`")
            else:
                lines.append(f"    checked  {passed.check}")
        return "\n".join(lines)


class Steps(Iterator[Step]):
    """Goes backwards through a tape: each `next` is a `Step`. `gradients` has what has arrived at each leaf so far.

    Hooks of ops run with their step, those of leaves after the last step, on the whole gradient.
    """

    def __init__(self, graph: TapeGraph, dy: np.ndarray, device: Device, seed: int) -> None:
        self.gradients: dict[Tensor, Tensor] = {}
        self._graph = graph
        self._device = device
        self._seed = seed
        self._waiting = list(graph.ops)
        self._index = 0
        self._arrived: dict[Source, np.ndarray] = {graph.result: device.copy(dy)}
        self._parts: dict[Source, int] = {}
        self._hooked: list[Tensor] = []  # leaves with hooks, in the order in which they were reached

    def __next__(self) -> Step:
        while self._waiting:
            op = self._waiting.pop()
            if any(result in self._arrived for result in op._results()):
                return self._step(op)
        while self._hooked:
            leaf = self._hooked.pop(0)
            self.gradients[leaf] = self._tensor(run_hooks(leaf._hooks or {}, self._arrived[leaf], self._device))
        raise StopIteration

    def _step(self, op: Op) -> Step:
        op.check_saved()
        graph, home = self._graph, self._device
        results, dys, arrived = op._results(), [], []
        for result in results:
            dy = self._arrived.pop(result, None)
            if dy is not None and result.hooks:
                dy = run_hooks(result.hooks, dy, home)
            arrived.append(None if dy is None else home.to_host(dy))
            dys.append(no_gradient(op, result, home) if dy is None else dy)
        calls: list[KernelCall] = []
        op.device, op.kernels = self._device, NotedKernels(self._device.kernels, calls.append)  # type: ignore[assignment]
        gradients = op.backward(*dys)
        check_count(op, gradients)
        self._index += 1
        found: Any = tuple([result.shape for result in results]), tuple(arrived)
        shape, given = found if op._several else (found[0][0], found[1][0])
        step = Step(self._index, graph.numbers[op], op._title(), shape, op.formula, op.line, given, calls=calls)
        for i, (source, dx) in enumerate(zip(op.sources or (), gradients, strict=True)):
            if source is None or dx is None:
                continue
            if type(dx) is not home.array_type or dx.shape != source.shape or dx.dtype != source.dtype:
                raise wrong_gradient(step.op, i, source, dx)
            self._arrive(source, dx)
            maker = op_of(source)
            name = graph.name(source) + ("" if maker is None else f" {maker._title()}")
            gradient, check = home.to_host(dx), None
            if op.recorded is not None:
                rng = np.random.default_rng((self._seed, self._index, i))
                check = directional_check(op, i, arrived, gradient, rng)
            step.passed.append(Passed(name, gradient, self._parts[source], check))
        return step

    def _arrive(self, source: Source, dx: np.ndarray) -> None:
        """Add up the gradients of a result or leaf, into new memory: the steps show the parts."""
        if source in self._arrived:
            total = self._device.empty(dx.shape, dx.dtype)
            add_arrays(self._device, self._arrived[source], dx, total)
            dx = total
        elif isinstance(source, Tensor) and source._hooks:
            self._hooked.append(source)
        self._arrived[source] = dx
        self._parts[source] = self._parts.get(source, 0) + 1
        if isinstance(source, Tensor):
            self.gradients[source] = self._tensor(dx)

    def _tensor(self, array: np.ndarray) -> Tensor:
        """A tensor of its own with these values."""
        return Tensor._wrap(self._device.copy(array), self._device)


def steps(
    loss: Tensor,
    grad: Tensor | np.ndarray | None = None,
    *,
    names: Mapping[str, Tensor] | None = None,
    model: Module | None = None,
    seed: int = 0,
) -> Steps:
    """Backward from a tensor, one op at a time: an iterator of `Step`s, to be printed or looked into.

    Each step has the gradient that arrives, those it passes on, and, for ops computed inside `record()`, a check of that very
    node by finite differences along a random direction (drawn from `seed`). The tape stays, and no `.grad` is touched: at
    the end `gradients`, a dict by leaf, holds to the bit what `loss.backward(grad)` would add to them. `names` and
    `model` name the leaves, as in `table`. Raises RuntimeError if there is no tape, or no gradient to start from.
    """
    graph = TapeGraph(loss, names, model)
    return Steps(graph, first_gradient(loss, grad), loss._device, seed)


def directional_check(
    op: Op, index: int, dys: Sequence[np.ndarray | None], dx: np.ndarray, rng: np.random.Generator
) -> Check:
    """Hold the gradient dx of input `index` of a recorded op against central differences of its forward, in float64.

    The direction is Gaussian, times the size of each element: so no step crosses zero, where relu, log and sqrt end.
    """
    x = op.recorded.arrays[index].astype(np.float64)
    size = np.abs(x)
    typical = float(np.sqrt(np.mean(x * x))) if x.size else 0.0
    v = rng.standard_normal(x.shape) * np.where(size > 0, size, typical or 1.0)
    pairs = zip(dys, rerun(op, index, x + STEP * v), rerun(op, index, x - STEP * v), strict=True)
    given = [(dy, (above - below) / (2 * STEP)) for dy, above, below in pairs if dy is not None]
    terms = [dy.astype(np.float64) * change for dy, change in given]
    wide = dx.astype(np.float64)
    numeric, analytic = float(sum(t.sum() for t in terms)), float(np.sum(wide * v))
    scale = max(float(sum(np.abs(t).sum() for t in terms)), float(np.linalg.norm(wide * v)))
    distance = abs(numeric - analytic)
    precision = max(TOLERANCE[dtype] for dtype in (dx.dtype, *[dy.dtype for dy, _ in given]))
    return Check(numeric, analytic, distance / scale if scale else distance, precision)


def rerun(op: Op, index: int, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """The results of a recorded op with input `index` replaced, in float64 and by the reference kernels."""
    recorded: Recorded = op.recorded
    arrays = [None if a is None else in_float64(a) for a in recorded.arrays]
    arrays[index] = x
    again = type(op)()
    again.device = get_device("reference")
    again.kernels = again.device.kernels
    again.needs = op.needs
    y = again.forward(*arrays, **{name: in_float64(copied(value)) for name, value in recorded.parameters.items()})
    return y if isinstance(y, tuple) else (y,)


def in_float64(value: object) -> object:
    """A value with all float arrays and float dtypes in it turned to float64."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    if isinstance(value, np.dtype) and value.kind == "f":
        return np.dtype(np.float64)
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(map(in_float64, value))
    return value
