"""Ops of single elements of ONNX here."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.devices import Device
from minigrad.onnx import numbers
from minigrad.onnx.held import Held, constant
from minigrad.onnx.layout import Axes, plain
from minigrad.onnx.library import library
from minigrad.onnx.reading import DTYPES
from minigrad.onnx.source import Reader, Run, Source
from minigrad.tensor import Tensor


def elementwise(function: Callable[[Tensor], Tensor], on_numbers: Callable[..., Any] | None = None) -> Reader:
    """An op of one input, element by element, in whatever order of axes it is."""

    def reader(node: Source) -> Run:
        node.of_numbers = on_numbers is not None
        node.given()

        def run(xs: list[Any], training: bool) -> Any:
            if on_numbers is not None and isinstance(xs[0], np.ndarray):
                return numbers.kept(on_numbers(xs[0]), xs)
            return Held(function(xs[0].tensor), xs[0].axes)

        return run

    return reader


def of_numbers(function: Callable[..., Any]) -> Reader:
    """What a graph computes lengths by, and minigrad has no op for."""

    def reader(node: Source) -> Run:
        node.of_numbers = True
        node.given()

        def run(xs: list[Any], training: bool) -> Any:
            if not all(isinstance(x, np.ndarray) for x in xs):
                raise node.error("minigrad has it for numbers that a graph computes shapes from, and not for tensors")
            return function(*xs)

        return run

    return reader


def arithmetic(function: Callable[[Any, Any], Tensor], on_numbers: Callable[..., Any], keeps: bool = True) -> Reader:
    """An op of two inputs that are broadcast; of numbers the result is of their dtype if it `keeps` it."""

    def reader(node: Source) -> Run:
        node.of_numbers = True
        node.given()

        def run(xs: list[Any], training: bool) -> Any:
            if all(isinstance(x, np.ndarray) for x in xs):
                result = on_numbers(*xs)
                return numbers.kept(result, xs) if keeps else result
            sides, axes = side_by_side(xs)
            return Held(function(*sides), axes)

        return run

    return reader


def side_by_side(xs: Sequence[Any]) -> tuple[list[Any], Axes]:
    """Inputs in one order of axes, and which: that of the first of full rank that is not as in the file."""
    ndim = max(x.ndim for x in xs)
    there = [x.axes for x in xs if isinstance(x, Held) and x.ndim == ndim]
    axes = next((a for a in there if a != plain(ndim)), plain(ndim))
    home = next(x.device for x in xs if isinstance(x, Held))
    sides = [beside(x, axes, ndim, home) for x in xs]
    if not any(isinstance(side, Tensor) and side.ndim == ndim for side in sides):  # a single number has no axes here
        first = next(i for i, side in enumerate(sides) if isinstance(side, Tensor))
        sides[first] = sides[first].reshape((1,) * (ndim - sides[first].ndim) + sides[first].shape)
    return sides, axes


def beside(x: Any, axes: Axes, ndim: int, home: Device) -> Any:
    """An input as others in an order of axes are broadcast with it: numbers of one element as such."""
    if isinstance(x, np.ndarray):
        if x.size == 1:
            return x.item()
        return constant(x.reshape((1,) * (ndim - x.ndim) + x.shape).transpose(axes), home)
    if x.ndim == ndim:
        return x.laid(axes)
    if x.ndim == 0 or axes == plain(ndim):
        return x.plain
    return x.reshaped((1,) * (ndim - x.ndim) + x.shape).laid(axes)


def several(function: Callable[[Any, Any], Tensor], on_numbers: Callable[..., Any]) -> Reader:
    """An op of any number of inputs, one after another."""

    def reader(node: Source) -> Run:
        node.of_numbers = True
        node.given()

        def run(xs: list[Any], training: bool) -> Any:
            if all(isinstance(x, np.ndarray) for x in xs):
                return numbers.kept(functools.reduce(on_numbers, xs), xs)
            sides, axes = side_by_side(xs)
            first = next(i for i, side in enumerate(sides) if isinstance(side, Tensor))
            sides.insert(0, sides.pop(first))  # a tensor with each of the others
            return Held(functools.reduce(function, sides), axes)

        return run

    return reader


def power(node: Source) -> Run:
    """x^p; for a number p that stands in the file, by the op for that."""
    exponent = node.constants.get(node.inputs[1])
    if exponent is None or exponent.size != 1:
        return arithmetic(ops.pow, np.power)(node)
    p, axes = exponent.item(), exponent.ndim
    node.of_numbers = True
    node.only(1)

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        if axes > x.ndim:
            x = x.reshape((1,) * (axes - x.ndim) + x.shape) if isinstance(x, np.ndarray) else widened(x, axes)
        if isinstance(x, np.ndarray):
            return numbers.kept(np.power(x, p), [x])
        return Held(ops.power(x.tensor, p), x.axes)

    return run


def widened(x: Held, ndim: int) -> Held:
    """With axes of length 1 before the others, so that it has so many."""
    return x.reshaped((1,) * (ndim - x.ndim) + x.shape)


def clip(node: Source) -> Run:
    """Held between two numbers, either of which may be missing; the upper one wins where they cross."""
    node.of_numbers = True
    known = [node.constants.get(name) if name else None for name in (*node.inputs[1:], "", "")[:2]]
    if all(bound is not None or not node.has(i) for i, bound in enumerate(known, 1)):
        node.only(1)
    else:
        node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        low, high = known if len(xs) == 1 else (*xs[1:], None)[:2]
        if isinstance(x, np.ndarray):
            return numbers.kept(np.clip(x, low, high) if low is not None or high is not None else x, [x])
        bounds = [bound.item() if isinstance(bound, np.ndarray) else bound and bound.plain for bound in (low, high)]
        if bounds == [None, None]:
            return x
        if isinstance(bounds[0], int | float) and isinstance(bounds[1], int | float):
            bounds[0] = min(bounds[0], bounds[1])
        return Held(ops.clip(x.tensor, *bounds), x.axes)

    return run


def scaled(function: Callable[[Tensor, float], Tensor], usual: float) -> Reader:
    """An activation with a number alpha."""

    def reader(node: Source) -> Run:
        alpha = node.attribute("alpha", usual)
        return elementwise(lambda x: function(x, alpha))(node)

    return reader


def prelu(node: Source) -> Run:
    """A slope of its own for each channel below 0."""
    return arithmetic(lambda x, slope: ops.where(x > 0, x, x * slope), lambda x, slope: np.where(x > 0, x, x * slope))(
        node
    )


def selu(node: Source) -> Run:
    """Selu with its own two numbers."""
    numbers_of = node.attribute("alpha", 1.6732632), node.attribute("gamma", 1.050701)
    if not np.allclose(numbers_of, (1.6732632, 1.050701), rtol=1e-5):
        raise node.error(f"alpha and gamma are {numbers_of}, not the numbers that selu was made with")
    return elementwise(ops.selu)(node)


def hard_sigmoid(node: Source) -> Run:
    """alpha x + beta, between 0 and 1."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return elementwise(lambda x: ops.clip(x * alpha + beta, 0, 1))(node)


def gelu(node: Source) -> Run:
    """x times the normal distribution function."""
    how = node.must("approximate", "none", "tanh")
    return elementwise(lambda x: ops.gelu(x, how))(node)


def where(node: Source) -> Run:
    """One of two by a condition."""
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        if all(isinstance(x, np.ndarray) for x in xs):
            return np.where(*xs)
        sides, axes = side_by_side(xs)
        return Held(ops.where(*sides), axes)

    return run


def cast(node: Source) -> Run:
    """Another dtype."""
    name = library().TensorProto.DataType.Name(node.attribute("to"))
    node.attribute("saturate")
    if name not in DTYPES:
        raise node.error(f"a cast to {name}, which minigrad has not")
    return converted(node, np.dtype(DTYPES[name][0]))


def converted(node: Source, dtype: np.dtype) -> Run:
    """What a cast gives."""
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        return x.astype(dtype) if isinstance(x, np.ndarray) else Held(ops.to(x.tensor, dtype), x.axes)

    return run
