"""Gradients of chosen tensors, by a second walk through the tape.

`grad` walks only what leads from the results to the tensors asked for, and gives their gradients back instead of leaving them
in `.grad`. With create_graph each op is asked for `backward_on_tape` instead of `backward`: the same gradient by ops on
tensors, which leaves a tape of its own. What `backward` does, and what it keeps, knows nothing of this.
"""

import heapq
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from minigrad.devices import Device
from minigrad.gradients import added, left_by, run_hooks
from minigrad.modes import Switch, at_work, read
from minigrad.ops import add
from minigrad.ops.shape_functions import BroadcastTo
from minigrad.results import Result, no_gradient, op_of
from minigrad.tape import Op, check_count, first_gradient, watching, wrong_gradient
from minigrad.tensor import Tensor

Source = Op | Result | Tensor  # where a tensor comes from: the op that made it, one of its results, or a leaf itself
Arrived = tuple[Tensor, bool]  # a gradient, and whether nobody else has it
Tensors = Tensor | Sequence[Tensor]


def grad(
    y: Tensors,
    xs: Tensors,
    grad_outputs: Any = None,
    create_graph: bool = False,
    allow_unused: bool = False,
    *,
    retain_graph: bool | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of y to each of `xs`, weighted by `grad_outputs`, as a tuple; no `.grad` is touched.

    Args:
        y: a tensor, or several, whose gradients are added up.
        xs: tensors that y was computed from: leaves, or results on the way. One tensor stands for a tuple of one.
        grad_outputs: what y's elements are weighted by, of its shape; may be left out for one element. Of several y a sequence.
        create_graph: the gradients are on the tape themselves, and can be derived.
        allow_unused: a tensor that y was not computed from gets None instead of an error.
        retain_graph: whether the tape stays for another walk, by default if it is to be derived again (create_graph).

    Raises:
        RuntimeError: y is not on the tape, or was not computed from one of xs; what was saved was changed in place.
        NotImplementedError: with create_graph, an op on the way that has no second derivative, by its name.
    """
    ys, targets = sequence("grad: y", y), sequence("grad: xs", xs)
    given = [None] * len(ys) if grad_outputs is None else weights_of(ys, grad_outputs, isinstance(y, Tensor))
    for i, x in enumerate(targets):
        if not x.requires_grad:
            raise RuntimeError(
                f"grad: xs[{i}] (shape {x.shape}) requires no gradient, so y does not depend on it; make it with "
                "requires_grad=True before y is computed. (Inside a function that mg.recompute was given nothing does at "
                "first; take gradients of what mg.recompute gives)"
            )
    sources = [x._op or x for x in targets]
    starts = [(root, as_start(root, weight)) for root, weight in zip(ys, given, strict=True)]
    retain = create_graph if retain_graph is None else retain_graph
    with Switch(grad_enabled=create_graph):
        found = walk(starts, set(sources), create_graph, retain)
    for i, (source, x) in enumerate(zip(sources, targets, strict=True)):
        if source not in found and not allow_unused:
            raise RuntimeError(
                f"grad: y was not computed from xs[{i}] (shape {x.shape}), or its gradient stops on the way; pass "
                "allow_unused=True to get None for it"
            )
    return given_out([found.get(source) for source in sources])


def sequence(what: str, given: Any) -> list[Tensor]:
    """One tensor or several, as a list."""
    if isinstance(given, Tensor):
        return [given]
    if callable(given):
        raise TypeError(
            f"{what} is a function, where tensors are expected: compute y = f(x) first, and pass both; of functions there are "
            "mg.jvp, mg.jacobian, mg.hessian and mg.hvp"
        )
    tensors = list(given) if isinstance(given, Iterable) else [given]
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{what}: a Tensor, or a sequence of Tensors, is expected; number {i} is {type(t).__name__}"
            )
    if not tensors:
        raise ValueError(f"{what} has no tensors")
    return tensors


def weights_of(ys: list[Tensor], given: Any, single: bool) -> list[Any]:
    """A gradient for each y."""
    among = isinstance(given, tuple | list) and len(given) == 1 and isinstance(given[0], Tensor | np.ndarray)
    weights = [given] if single and not among else list(given)
    if len(weights) != len(ys):
        raise ValueError(f"grad: there are {len(weights)} grad_outputs for {len(ys)} tensors")
    return weights


def as_start(y: Tensor, weight: Any) -> Tensor:
    """The gradient that a walk starts from, checked, on the tape if the caller's is."""
    read(y)
    array = first_gradient(y, weight)
    if isinstance(weight, Tensor) and weight.dtype == y.dtype:
        return weight
    return Tensor._wrap(array, y._device)


def walk(
    starts: Sequence[tuple[Tensor, Tensor]],
    targets: Collection[Source],
    on_tape: bool,
    retain_graph: bool,
    stop_there: bool = False,
) -> dict[Source, Arrived]:
    """Backward from some tensors to `targets`: the gradient of each that was reached, and whether nobody else has it.

    `stop_there`: what the targets themselves were made from gets no share.
    """
    home = starts[0][0]._device
    device = at_work(home)
    leading = leading_ops([y for y, _ in starts], targets, stop_there)
    arrived: dict[Source, Arrived] = {}
    waiting: list[tuple[int, Op]] = []  # a heap: the op made last comes first
    queued: set[Op] = set()
    found: dict[Source, Arrived] = {}

    def arrive(source: Source, dx: Tensor, ours: bool) -> None:
        op = op_of(source)
        if source in arrived:
            dx, ours = together(*arrived[source], dx, device, on_tape), True
        elif op is not None and op not in queued:
            queued.add(op)
            heapq.heappush(waiting, (-op.order, op))
        arrived[source] = dx, ours

    def leave(result: Op | Result, op: Op) -> Arrived | None:
        """What has arrived at a result of an op, for the op to pass on."""
        if result not in arrived:
            return None
        dy, ours = arrived.pop(result)
        if result.hooks:
            dy, ours = hooked(result.hooks, dy, on_tape), False
        if result in targets:
            found[result], ours = (dy, ours and op not in leading), False
        return None if result in targets and stop_there else (dy, ours)

    for y, dy in starts:
        first = y._op or y
        if op_of(first) in leading or first in targets:
            arrive(first, dy, False)
    observers = [] if on_tape else watching()
    while waiting:
        op = heapq.heappop(waiting)[1]
        given = [leave(result, op) for result in op._results()]
        if op not in leading or not any(given):
            continue
        op.check_saved()
        op.device, op.kernels = device, device.kernels
        sources, whole = op.sources or (), op.needs
        op.needs = tuple([s is not None and (op_of(s) in leading or s in targets) for s in sources])
        dys = [gradient_for(op, result, dy, home, on_tape) for result, dy in zip(op._results(), given, strict=True)]
        del given
        try:
            if on_tape:
                results: Sequence[Tensor | None] = checked(op, op.backward_on_tape(*dys))
            else:
                results = as_tensors(op, [None if dy is None else dy._data for dy in dys], observers, home)
        finally:
            needs, op.needs = op.needs, whole
        if not retain_graph:
            op.free()
        for source, dx, need in zip(sources, results, needs, strict=True):
            if need and source is not None and dx is not None:
                arrive(source, dx, not op.passes_on and not on_tape)
        del dys, results  # so that their memory is used again by the next op
    for leaf, (dx, ours) in arrived.items():
        if isinstance(leaf, Tensor) and leaf._hooks:
            dx, ours = hooked(leaf._hooks, dx, on_tape), False
        found[leaf] = dx, ours
    return found


def leading_ops(ys: Sequence[Tensor], targets: Collection[Source], stop_there: bool) -> set[Op]:
    """The ops on the way from ys to the targets, those that were freed among them, so that they are told of."""
    ops: set[Op] = set()
    waiting: list[Source | None] = [y._op for y in ys]
    while waiting:
        source = waiting.pop()
        op = op_of(source)
        if op is not None and op not in ops and not (stop_there and source in targets):
            ops.add(op)
            waiting += op.sources or ()
    leading: set[Op] = set()
    for op in sorted(ops, key=lambda op: op.order):
        if op.sources is None or any(s is not None and (s in targets or op_of(s) in leading) for s in op.sources):
            leading.add(op)
    return leading


def gradient_for(op: Op, result: Op | Result, given: Arrived | None, home: Any, on_tape: bool) -> Tensor | None:
    """What an op is given for one of its results."""
    if given is None:
        none = no_gradient(op, result, op.device)
        return None if none is None else Tensor._wrap(none, home)
    dy, ours = given
    if on_tape or ours or type(op).__module__.startswith("minigrad."):
        return dy
    return Tensor._wrap(op.device.copy(dy._data), dy._device)  # it may write into it all the same


def together(total: Tensor, ours: bool, dx: Tensor, device: Device, on_tape: bool) -> Tensor:
    """The sum of two gradients of one tensor."""
    if on_tape:
        return add(total, dx)
    return Tensor._wrap(added(total._data, ours, dx._data, device), total._device)


def hooked(hooks: dict[int, Any], dy: Tensor, on_tape: bool) -> Tensor:
    """A gradient as the hooks of its tensor leave it."""
    if not on_tape:
        return Tensor._wrap(run_hooks(hooks, dy._data, dy._device), dy._device)
    for hook in list(hooks.values()):
        dy = left_by(hook, dy)
    return dy


def as_tensors(op: Op, given: Sequence[Any], observers: Sequence[Any], home: Any) -> list[Tensor | None]:
    """What an op's backward gives, checked, as tensors off the tape, on the device of all."""
    dys = tuple(given)
    for observer in observers:
        observer.before(op, dys)
    results = op.backward(*dys)
    check_count(op, results)
    for observer in observers:
        observer.after(op, dys, results)
    tensors: list[Tensor | None] = []
    for i, (source, need, dx) in enumerate(zip(op.sources or (), op.needs, results, strict=True)):
        if not need or dx is None:
            tensors.append(None)
            continue
        array = np.asarray(dx) if isinstance(dx, np.generic) else dx
        like: Any = source._data if isinstance(source, Tensor) else source
        if type(array) is not home.array_type or array.shape != like.shape or array.dtype != like.dtype:
            raise wrong_gradient(type(op).__name__, i, source, array)  # type: ignore[arg-type]
        tensors.append(Tensor._wrap(array if array.flags.c_contiguous else np.ascontiguousarray(array), home))
    return tensors


def checked(op: Op, results: Any) -> tuple[Tensor | None, ...]:
    """What an op's backward_on_tape gives, if it is a gradient for each input."""
    name = f"{type(op).__name__}.backward_on_tape"
    if not isinstance(results, tuple) or len(results) != len(op.needs):
        came = f"{len(results)} of them" if isinstance(results, tuple) else type(results).__name__
        raise TypeError(f"{name} must return a tuple of {len(op.needs)} gradients, not {came}")
    for i, (source, need, dx) in enumerate(zip(op.sources or (), op.needs, results, strict=True)):
        if not need or dx is None:
            continue
        like: Any = source
        if not isinstance(dx, Tensor) or dx.shape != like.shape or dx.dtype != like.dtype:
            came = f"a tensor {dx.dtype}{list(dx.shape)}" if isinstance(dx, Tensor) else type(dx).__name__
            raise TypeError(
                f"{name} gave {came} as the gradient of input {i}, where a Tensor {like.dtype}{list(like.shape)} is expected"
            )
    return results


def given_out(found: Sequence[tuple[Tensor, bool] | None]) -> tuple[Tensor | None, ...]:
    """Gradients for the caller, who may write into each of them without changing another one, or what an op has saved."""
    results: list[Tensor | None] = []
    for gradient in found:
        if gradient is None:
            results.append(None)
            continue
        x, ours = gradient
        if x.requires_grad and any(x is result for result in results):
            x = BroadcastTo.apply(x, shape=x.shape)
        elif not x.requires_grad and (not ours or any(x is result for result in results)):
            x = Tensor._wrap(at_work(x._device).copy(x._data), x._device)
        results.append(x)
    return tuple(results)
