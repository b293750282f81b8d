"""Elements in other places, of ONNX here."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.onnx.held import Held, constant
from minigrad.onnx.layout import plain
from minigrad.onnx.source import Run, Source
from minigrad.tensor import Tensor


def concat(node: Source) -> Run:
    """Arrays, or numbers, one after another."""
    axis = node.attribute("axis")
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        if all(isinstance(x, np.ndarray) for x in xs):
            return np.concatenate(xs, axis)
        ndim, home = xs[0].ndim, next(x.device for x in xs if isinstance(x, Held))
        held = [Held(constant(x, home)) if isinstance(x, np.ndarray) else x for x in xs]
        axes = next((x.axes for x in held if x.axes != plain(ndim)), plain(ndim))
        return Held(ops.concat([x.laid(axes) for x in held], axis=axes.index(node.axis(axis, ndim))), axes)

    return run


def reshape(node: Source) -> Run:
    """Another shape, where 0 copies a length and -1 follows from the others."""
    copies = not node.attribute("allowzero", 0)
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, want = xs
        lengths = known(node, want, "shape").tolist()
        shape = [x.shape[i] if n == 0 and copies and i < x.ndim else int(n) for i, n in enumerate(lengths)]
        return x.reshape(shape) if isinstance(x, np.ndarray) else x.reshaped(shape)

    return run


def flatten(node: Source) -> Run:
    """A matrix: the axes before one, and those from it on."""
    axis = node.attribute("axis", 1)
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        shape = xs[0].shape
        at = axis if axis == len(shape) else node.axis(axis, len(shape))
        return xs[0].reshaped((math.prod(shape[:at]), math.prod(shape[at:])))

    return run


def transpose(node: Source) -> Run:
    """Axes in another order: only what order they are in is another."""
    perm = node.attribute("perm")
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        order = tuple(perm) if perm is not None else plain(x.ndim)[::-1]
        if isinstance(x, np.ndarray):
            return x.transpose(order)
        return Held(x.tensor, tuple(order.index(a) for a in x.axes))

    return run


def squeeze(node: Source) -> Run:
    """Without axes of length 1."""
    axes = axes_of(node)
    node.of_numbers = True

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        gone = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [node.axis(a, x.ndim) for a in axes]
        if any(x.shape[a] != 1 for a in gone):
            raise node.error(f"it drops the axes {gone} of an array of shape {x.shape}, which must be of length 1")
        return reshaped(x, [n for i, n in enumerate(x.shape) if i not in gone])

    return run


def unsqueeze(node: Source) -> Run:
    """With new axes of length 1."""
    axes = axes_of(node)
    if axes is None:
        raise node.error("its axes are missing")
    node.of_numbers = True

    def run(xs: list[Any], training: bool) -> Any:
        shape = list(xs[0].shape)
        for a in sorted(node.axis(a, len(shape) + len(axes)) for a in axes):
            shape.insert(a, 1)
        return reshaped(xs[0], shape)

    return run


def axes_of(node: Source) -> list[int] | None:
    """The axes of squeeze and unsqueeze: an input since opset 13, an attribute before."""
    axes = node.attribute("axes")
    if axes is None and node.has(1):
        axes = node.number(1).reshape(-1).tolist()
    node.only(1)
    return axes


def reshaped(x: Any, shape: Sequence[int]) -> Any:
    """Numbers or a tensor in another shape."""
    return x.reshape(shape) if isinstance(x, np.ndarray) else x.reshaped(shape)


def known(node: Source, x: Any, what: str) -> np.ndarray:
    """Numbers; ValueError for a tensor, whose values are not looked at while a model runs."""
    if not isinstance(x, np.ndarray):
        raise node.error(f"its {what} must be computed from numbers, not from the model's values")
    return x


def expand(node: Source) -> Run:
    """Repeated to a shape, with which it is broadcast."""
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, want = xs
        shape = np.broadcast_shapes(x.shape, tuple(known(node, want, "shape").tolist()))
        if isinstance(x, np.ndarray):
            return np.broadcast_to(x, shape)
        if len(shape) == x.ndim:
            return Held(ops.broadcast_to(x.tensor, [shape[a] for a in x.axes]), x.axes)
        return Held(ops.broadcast_to(x.plain, shape))

    return run


def tile(node: Source) -> Run:
    """Beside itself, so many times along each axis."""
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, times = xs[0], known(node, xs[1], "repeats").tolist()
        return np.tile(x, times) if isinstance(x, np.ndarray) else Held(ops.tile(x.plain, times))

    return run


def pad(node: Source) -> Run:
    """Amid a number, or what lies at the edges; widths below 0 take away."""
    mode = node.must("mode", "constant", "reflect", "edge", "wrap")
    value = float(node.number(2).item()) if node.has(2) else 0.0
    node.inputs = [*node.inputs[:2], *node.inputs[3:4]]
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, pads = xs[0], known(node, xs[1], "pads").tolist()
        given = (
            [*range(x.ndim)]
            if len(xs) < 3 or xs[2] is None
            else [node.axis(a, x.ndim) for a in known(node, xs[2], "axes")]
        )
        widths = [(0, 0)] * x.ndim
        for i, axis in enumerate(given):
            widths[axis] = int(pads[i]), int(pads[len(given) + i])
        if isinstance(x, np.ndarray):
            return padded_numbers(x, widths, mode, value)
        order = [widths[a] for a in x.axes]
        return Held(padded(x.tensor, order, mode, value), x.axes)

    return run


def padded(x: Tensor, widths: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    """A tensor padded, by widths of its axes in their order."""
    less = tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True))
    more = [(max(a, 0), max(b, 0)) for a, b in widths]
    x = x[less] if any(part != slice(0, n) for part, n in zip(less, x.shape, strict=True)) else x
    if mode == "constant":
        return ops.pad(x, more, value)
    for axis, sides in enumerate(more):
        if any(sides):
            places = np.pad(np.arange(x.shape[axis]), sides, mode)  # type: ignore[call-overload]  # of a mode by name
            x = ops.take(x, constant(places, x._device), axis)
    return x


def padded_numbers(x: np.ndarray, widths: Sequence[tuple[int, int]], mode: str, value: float) -> np.ndarray:
    """Numbers padded."""
    x = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True))]
    more = [(max(a, 0), max(b, 0)) for a, b in widths]
    if mode == "constant":
        return np.pad(x, more, constant_values=x.dtype.type(value))
    return np.pad(x, more, mode)  # type: ignore[call-overload]  # of a mode by name


def triangle(node: Source) -> Run:
    """The elements on one side of a diagonal of each matrix, zeros elsewhere."""
    upper = node.must("upper", 1, 0)
    k = int(node.number(1).item()) if node.has(1) else 0
    node.of_numbers = True
    node.only(1)

    def run(xs: list[Any], training: bool) -> Any:
        if isinstance(xs[0], np.ndarray):
            return (np.triu if upper else np.tril)(xs[0], k)
        return Held((ops.triu if upper else ops.tril)(xs[0].plain, k))

    return run
