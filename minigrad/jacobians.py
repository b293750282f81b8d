"""Derivatives of functions, made of gradients: Jacobians and Hessians, and their products with vectors."""

from collections.abc import Callable, Sequence
from typing import Any

from minigrad.derivatives import Tensors, grad, sequence
from minigrad.modes import Switch
from minigrad.ops import eye, ones_like, reshape, stack, zeros, zeros_like
from minigrad.ops.movement import Reshape
from minigrad.ops.shape_functions import BroadcastTo
from minigrad.tensor import FLOATS, Tensor


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
