"""Parts of arrays, and places by number, of ONNX here."""

import math
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.onnx.held import Held, constant
from minigrad.onnx.layout import plain, without
from minigrad.onnx.movement_runs import known
from minigrad.onnx.source import Run, Source


def slice_(node: Source) -> Run:
    """Parts of some axes."""
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, starts, ends, *rest = xs
        for part in (starts, ends, *[part for part in rest if part is not None]):
            known(node, part, "bounds")
        axes = range(len(starts)) if not rest or rest[0] is None else [node.axis(a, x.ndim) for a in rest[0]]
        steps = [1] * len(starts) if len(rest) < 2 or rest[1] is None else rest[1].tolist()
        cut = {a: slice(int(s), int(e), int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}
        cut = {a: bounded(part, x.shape[a]) for a, part in cut.items()}
        order = plain(x.ndim) if isinstance(x, np.ndarray) else x.axes
        index = tuple(cut.get(a, slice(None)) for a in order)
        return x[index] if isinstance(x, np.ndarray) else Held(x.tensor[index], x.axes)

    return run


def bounded(part: slice, length: int) -> slice:
    """A slice in numbers that are not far beyond the axis."""
    start, stop, step = part.indices(length)
    return slice(start, None if stop < 0 else stop, step)


def split(node: Source) -> Run:
    """Several parts of one axis."""
    axis = node.attribute("axis", 0)
    lengths = node.attribute("split")
    if lengths is None and node.has(1):
        lengths = node.number(1).tolist()
    node.attribute("num_outputs")
    count = len(node.outputs)
    node.only(1)

    def run(xs: list[Any], training: bool) -> list[Any]:
        x = xs[0]
        here = node.axis(axis, x.ndim)
        most = -(-x.shape[here] // count)
        parts = lengths or [most] * (count - 1) + [x.shape[here] - most * (count - 1)]
        if min(parts) < 0 or sum(parts) != x.shape[here]:
            raise node.error(f"parts of {parts} are no split of an axis of {x.shape[here]}")
        ends = np.cumsum(parts).tolist()
        return [Held(part, x.axes) for part in ops.split(x.tensor, ends[:-1], x.axes.index(here))]

    return run


def gather(node: Source) -> Run:
    """Places of an axis by number."""
    axis = node.attribute("axis", 0)
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, index = xs
        here = node.axis(axis, max(x.ndim, 1))
        if isinstance(index, Held):
            if not isinstance(x, Held) or here:
                raise node.error("numbers that the model computes or is given can only index tensors, on axis 0")
            return Held(x.plain[index.plain])
        index = node.places(index, x.shape[here] if x.ndim else 1)
        if isinstance(x, np.ndarray):
            return np.take(x, index, axis=here)
        if index.ndim == 0:
            part = (slice(None),) * x.axes.index(here) + (int(index),)
            return Held(x.tensor[part], without(x.axes, [here]))
        return Held(ops.take(x.plain, constant(index, x.device), here))

    return run


def gather_elements(node: Source) -> Run:
    """Elements along an axis, by a number for each element of the result."""
    axis = node.attribute("axis", 0)
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, index = xs
        along = node.axis(axis, x.ndim)
        if isinstance(index, np.ndarray):
            index = node.places(index, x.shape[along])
        if isinstance(x, np.ndarray):
            return np.take_along_axis(x, known(node, index, "indices"), along)
        part = tuple(slice(None) if a == along else slice(n) for a, n in enumerate(index.shape))
        numbers = constant(index, x.device) if isinstance(index, np.ndarray) else index.plain
        return Held(ops.take_along_axis(x.plain[part], numbers, along))

    return run


def scatter_elements(node: Source) -> Run:
    """Elements set along an axis, or added, by a number for each."""
    axis, added = node.attribute("axis", 0), node.must("reduction", "none", "add") == "add"
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        x, index, values = xs
        places = indices_of(index)
        grid: list[np.ndarray] = [*np.indices(places.shape, sparse=True)]
        grid[node.axis(axis, x.ndim)] = places
        return put(node, x, tuple(np.broadcast_arrays(*grid)), values, added)

    return run


def scatter_nd(node: Source) -> Run:
    """Elements, or parts, set or added, by a number for each of the first axes."""
    added = node.must("reduction", "none", "add") == "add"
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        x, index, values = xs
        return put(node, x, tuple(np.moveaxis(indices_of(index), -1, 0)), values, added)

    return run


def gather_nd(node: Source) -> Run:
    """Elements, or parts, by a number for each of the first axes."""
    node.must("batch_dims", 0)
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, index = xs
        places = tuple(np.moveaxis(indices_of(index), -1, 0))
        if isinstance(x, np.ndarray):
            return x[places]
        lengths, rest = x.shape[: len(places)], x.shape[len(places) :]
        rows = np.arange(math.prod(lengths)).reshape(lengths)[places]
        return Held(ops.take(x.plain.reshape(-1, *rest), constant(rows, x.device), 0))

    return run


def indices_of(index: Any) -> np.ndarray:
    """Numbers of elements; those that the model computes are looked at, which no captured step can."""
    return index if isinstance(index, np.ndarray) else index.plain.numpy()


def put(node: Source, x: Any, index: tuple[np.ndarray, ...], values: Any, added: bool) -> Held:
    """A tensor with values at an index."""
    if not isinstance(x, Held):
        raise node.error("it sets numbers that a graph computes shapes from, which is not supported")
    value = values if isinstance(values, np.ndarray) else values.plain
    place = x.plain.at[index]
    return Held(place.add(value) if added else place.set(value))
