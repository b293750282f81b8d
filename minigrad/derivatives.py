"""Gradients of chosen tensors, by a second walk through the tape, and the derivatives that are made of them.

`grad` walks only what leads from the results to the tensors asked for, and gives their gradients back instead of leaving them
in `.grad`. With create_graph each op is asked for `backward_on_tape` instead of `backward`: the same gradient by ops on
tensors, which leaves a tape of its own. What `backward` does, and what it keeps, knows nothing of this.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from minigrad.gradients import added, left_by, run_hooks
from minigrad.modes import Switch, at_work, read
from minigrad.ops import add, eye, ones_like, reshape, stack, zeros, zeros_like
from minigrad.ops.movement import Reshape
from minigrad.ops.shape_functions import BroadcastTo
from minigrad.tape import Op, check_count, first_gradient, watching, wrong_gradient
from minigrad.tensor import FLOATS, Tensor

Source = Op | Tensor  # where a tensor comes from: the op that made it, or a leaf itself
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
) -> dict[Source, tuple[Tensor, bool]]:
    """Backward from some tensors to `targets`: the gradient of each that was reached, and whether nobody else has it.

    `stop_there`: what the targets themselves were made from gets no share.
    """
    home = starts[0][0]._device
    device = at_work(home)
    leading = leading_ops([y for y, _ in starts], targets, stop_there)
    arrived: dict[Source, tuple[Tensor, bool]] = {}
    waiting: list[tuple[int, Op]] = []  # a heap: the op made last comes first
    found: dict[Source, tuple[Tensor, bool]] = {}

    def arrive(source: Source, dx: Tensor, ours: bool) -> None:
        if source in arrived:
            dx, ours = together(*arrived[source], dx, device, on_tape), True
        elif isinstance(source, Op):
            heapq.heappush(waiting, (-source.order, source))
        arrived[source] = dx, ours

    for y, dy in starts:
        first = y._op or y
        if first in leading or first in targets:
            arrive(first, dy, False)
    observers = [] if on_tape else watching()
    while waiting:
        op = heapq.heappop(waiting)[1]
        dy, ours = arrived.pop(op)
        if op.hooks:
            dy, ours = hooked(op.hooks, dy, on_tape), False
        if op in targets:
            found[op], ours = (dy, ours and op not in leading), False
        if op not in leading:
            continue
        op.check_saved()
        op.device, op.kernels = device, device.kernels
        sources, whole = op.sources or (), op.needs
        op.needs = tuple([s is not None and (s in leading or s in targets) for s in sources])
        try:
            if on_tape:
                results: Sequence[Tensor | None] = checked(op, op.backward_on_tape(dy))
            else:
                if not ours and not type(op).__module__.startswith("minigrad."):  # it may write into it all the same
                    dy = Tensor._wrap(device.copy(dy._data), home)
                results = as_tensors(op, dy._data, observers, home)
        finally:
            needs, op.needs = op.needs, whole
        if not retain_graph:
            op.free()
        for source, dx, need in zip(sources, results, needs, strict=True):
            if need and source is not None and dx is not None:
                arrive(source, dx, not op.passes_on and not on_tape)
        del dy, results  # so that their memory is used again by the next op
    for leaf, (dx, ours) in arrived.items():
        if isinstance(leaf, Tensor) and leaf._hooks:
            dx, ours = hooked(leaf._hooks, dx, on_tape), False
        found[leaf] = dx, ours
    return found


def leading_ops(ys: Sequence[Tensor], targets: Collection[Source], stop_there: bool) -> set[Op]:
    """The ops on the way from ys to the targets, those that were freed among them, so that they are told of."""
    ops: set[Op] = set()
    waiting = [y._op for y in ys if y._op is not None]
    while waiting:
        op = waiting.pop()
        if op not in ops and not (stop_there and op in targets):
            ops.add(op)
            waiting += [s for s in op.sources or () if isinstance(s, Op)]
    leading: set[Op] = set()
    for op in sorted(ops, key=lambda op: op.order):
        if op.sources is None or any(s is not None and (s in targets or s in leading) for s in op.sources):
            leading.add(op)
    return leading


def together(total: Tensor, ours: bool, dx: Tensor, device: Any, on_tape: bool) -> Tensor:
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


def as_tensors(op: Op, dy: np.ndarray, observers: Sequence[Any], home: Any) -> list[Tensor | None]:
    """What an op's backward gives, checked, as tensors off the tape, on the device of all."""
    for observer in observers:
        observer.before(op, dy)
    results = op.backward(dy)
    check_count(op, results)
    for observer in observers:
        observer.after(op, dy, results)
    tensors: list[Tensor | None] = []
    for i, (source, need, dx) in enumerate(zip(op.sources or (), op.needs, results, strict=True)):
        if not need or dx is None:
            tensors.append(None)
            continue
        array = np.asarray(dx) if isinstance(dx, np.generic) else dx
        like: Any = source if isinstance(source, Op) else source._data  # type: ignore[union-attr]
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


# Of functions


def jvp(f: Callable[..., Tensor], xs: Tensors, vs: Tensors, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """(f(*xs), J v): the derivative of a function along the directions `vs`, one for each of xs and of its shape.

    Found by two walks backward: the gradient uᵀJ is a linear function of the weights u, and its own gradient to u, weighted
    by v, is J v. This costs about as much as a second derivative, whatever the number of xs. J itself is never formed.
    """
    inputs = points("jvp", xs, create_graph)
    directions = directions_of("jvp", inputs, vs)
    with Switch(grad_enabled=True):
        y = result_of("jvp", f, inputs)
        weights = zeros_like(y, requires_grad=True)
        rows = grad(y, inputs, weights, create_graph=True, allow_unused=True) if y.requires_grad else ()
        pairs = [(row, v) for row, v in zip(rows, directions, strict=False) if row is not None and row.requires_grad]
        along = None
        if pairs:
            (along,) = grad([r for r, _ in pairs], weights, [v for _, v in pairs], create_graph, True)
    return value_of(y, create_graph), zeros_like(y) if along is None else along


def hvp(f: Callable[..., Tensor], xs: Tensors, vs: Tensors, create_graph: bool = False) -> tuple[Tensor, Any]:
    """(f(*xs), H v): the Hessian of a function with one number as its result, times vectors `vs` of the shapes of xs.

    The gradient of the gradient, weighted by v: two walks backward, and no Hessian is formed. Of one tensor xs, H v is a
    tensor, of several a tuple.
    """
    inputs = points("hvp", xs, create_graph)
    directions = directions_of("hvp", inputs, vs)
    with Switch(grad_enabled=True):
        y, slopes = value_and_slopes("hvp", f, inputs)
        products = derived(slopes, inputs, directions, create_graph, retain_graph=create_graph)
    return value_of(y, create_graph), products[0] if isinstance(xs, Tensor) else tuple(products)


def jacobian(f: Callable[..., Tensor], xs: Tensors, create_graph: bool = False, *, batched: bool = False) -> Any:
    """The derivative of each element of f(*xs) to each of xs: of the shape of the result and that of x, one after the other.

    One forward, and one walk backward for each element of the result. With `batched` the first axis of all tensors counts
    samples that f treats each by itself, as Batch Normalization in training does not: the walks are as many as one sample's
    result has elements, and the shape is (samples, those of a result, those of x). Of several xs a tuple.
    """
    inputs = points("jacobian", xs, create_graph)
    with Switch(grad_enabled=True):
        y = result_of("jacobian", f, inputs)
        samples = sample_count(y, inputs) if batched else None
        parts = rows_of(y, inputs, create_graph, samples)
    return parts[0] if isinstance(xs, Tensor) else tuple(parts)


def hessian(f: Callable[..., Tensor], xs: Tensors, create_graph: bool = False) -> Any:
    """The second derivatives of a function with one number as its result, to each pair of elements of xs.

    The Jacobian of the gradient, row by row: of one tensor xs of shape (*s, *s), of several a tuple of tuples. Where products
    with vectors do, `hvp` has them at the price of one row.
    """
    inputs = points("hessian", xs, create_graph)
    with Switch(grad_enabled=True):
        _, slopes = value_and_slopes("hessian", f, inputs)
        blocks = [tuple(rows_of(slope, inputs, create_graph, None)) for slope in slopes]
    return blocks[0][0] if isinstance(xs, Tensor) else tuple(blocks)


def points(name: str, xs: Tensors, create_graph: bool) -> list[Tensor]:
    """Where a function is derived: xs off the tape, or with create_graph as they are, as results that are their own."""
    inputs = []
    for x in sequence(f"{name}: xs", xs):
        if x.dtype not in FLOATS:
            raise TypeError(
                f"{name}: xs must be float32 or float64 tensors, not {x.dtype}; convert with .to('float32')"
            )
        if create_graph and x.requires_grad:
            inputs.append(Reshape.apply(x, shape=x.shape))
        else:
            inputs.append(x.detach())
            inputs[-1].requires_grad = True
    return inputs


def directions_of(name: str, inputs: Sequence[Tensor], vs: Tensors) -> list[Tensor]:
    """A vector for each input, checked."""
    directions = sequence(f"{name}: vs", vs)
    if len(directions) != len(inputs):
        raise ValueError(f"{name}: there are {len(directions)} vs for {len(inputs)} xs")
    for i, (x, v) in enumerate(zip(inputs, directions, strict=True)):
        if v.shape != x.shape or v.dtype != x.dtype:
            raise ValueError(
                f"{name}: vs[{i}] is {v.dtype}{list(v.shape)}, where {x.dtype}{list(x.shape)} is expected, as xs[{i}] is"
            )
    return directions


def result_of(name: str, f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """f of the inputs, one tensor of floats."""
    if not callable(f):
        raise TypeError(
            f"{name}: f must be a function of tensors, not {type(f).__name__}; of results there is mg.grad(y, xs)"
        )
    y = f(*inputs)
    if not isinstance(y, Tensor) or y.dtype not in FLOATS:
        came = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name}: f must return one float32 or float64 Tensor, not {came}")
    return y


def value_and_slopes(name: str, f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(f of the inputs, its gradients, on the tape)."""
    y = result_of(name, f, inputs)
    if y.size != 1:
        raise ValueError(f"{name}: f must return one number, not shape {y.shape}; reduce it, or use mg.jacobian")
    return y, derived([y], inputs, [ones_like(y)], create_graph=True)


def derived(
    ys: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    create_graph: bool,
    retain_graph: bool = True,
) -> list[Tensor]:
    """The gradients of ys to the inputs, zeros where there are none."""
    pairs = [(y, w) for y, w in zip(ys, weights, strict=True) if y.requires_grad]
    if not pairs:
        return [zeros_like(x) for x in inputs]
    on_tape, starts = [y for y, _ in pairs], [w for _, w in pairs]
    found = grad(on_tape, inputs, starts, create_graph, True, retain_graph=retain_graph)
    return [zeros_like(x) if dx is None else dx for x, dx in zip(inputs, found, strict=True)]


def rows_of(y: Tensor, inputs: Sequence[Tensor], create_graph: bool, samples: int | None) -> list[Tensor]:
    """The Jacobian to each input, by a walk for each element of y, or, of so many samples, for each of one sample's."""
    count = y.size if samples is None else y.size // samples if samples else 0
    units = eye(count, dtype=y.dtype, device=y._device)
    parts: list[list[Tensor]] = [[] for _ in inputs]
    for i in range(count):
        unit = units[i] if samples is None else BroadcastTo.apply(units[i], shape=(samples, count))
        for part, dx in zip(parts, derived([y], inputs, [reshape(unit, y.shape)], create_graph), strict=True):
            part.append(dx)
    lead, place = (y.shape, 0) if samples is None else (y.shape, 1)
    results = []
    for x, part in zip(inputs, parts, strict=True):
        shape = (*lead, *(x.shape if samples is None else x.shape[1:]))
        results.append(reshape(stack(part, place), shape) if part else zeros(shape, y.dtype, y._device))
    return results


def sample_count(y: Tensor, inputs: Sequence[Tensor]) -> int:
    """How many samples there are; ValueError where the first axes differ."""
    lengths = [t.shape[0] if t.ndim else None for t in (*inputs, y)]
    if None in lengths or len(set(lengths)) != 1:
        shapes = ", ".join(str(t.shape) for t in inputs)
        raise ValueError(
            "jacobian: batched=True needs one length of the first axis, that of the samples; "
            f"xs are {shapes}, f's result {y.shape}"
        )
    return lengths[0]  # type: ignore[return-value]


def value_of(y: Tensor, create_graph: bool) -> Tensor:
    """A function's value as it is given back: off the tape if nothing is to be derived any more."""
    return y if create_graph else y.detach()
