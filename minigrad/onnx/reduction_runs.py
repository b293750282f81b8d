"""Sums over axes, softmax and losses of ONNX here."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.onnx import numbers
from minigrad.onnx.held import Held
from minigrad.onnx.layout import without
from minigrad.onnx.source import Reader, Run, Source
from minigrad.tensor import Tensor


def along(function: Callable[[Tensor, int], Tensor]) -> Reader:
    """A softmax along one axis."""

    def reader(node: Source) -> Run:
        axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
        node.given()

        def run(xs: list[Any], training: bool) -> Held:
            x = xs[0]
            here = node.axis(axis, x.ndim)
            if node.opset < 13 and here != x.ndim - 1:
                raise node.error(
                    f"axis {axis} of {x.ndim}, before opset 13, means all axes from there on; not supported"
                )
            return Held(function(x.tensor, x.axes.index(here)), x.axes)

        return run

    return reader


def reduction(function: Callable[..., Tensor], on_numbers: Callable[..., Any], since: int) -> Reader:
    """A sum, mean or maximum over axes, which are an input `since` an opset, and an attribute before."""

    def reader(node: Source) -> Run:
        keepdims, empty_is_none = bool(node.attribute("keepdims", 1)), bool(node.attribute("noop_with_empty_axes", 0))
        axes = node.attribute("axes")
        if axes is None and node.opset >= since:
            axes = node.number(1, np.zeros(0, np.int64)).tolist()
        node.of_numbers = True
        node.only(1)

        def run(xs: list[Any], training: bool) -> Any:
            x = xs[0]
            if not axes and empty_is_none:
                return x
            gone = sorted(node.axis(a, x.ndim) for a in axes) if axes else list(range(x.ndim))
            if isinstance(x, np.ndarray):
                return numbers.kept(on_numbers(x, axis=tuple(gone), keepdims=keepdims), xs)
            y = function(x.tensor, axis=tuple(sorted(x.axes.index(a) for a in gone)), keepdims=keepdims)
            return Held(y, x.axes if keepdims else without(x.axes, gone))

        return run

    return reader


def place_of(function: Callable[..., Tensor]) -> Reader:
    """Where the largest or smallest element along an axis stands, the first of equals."""

    def reader(node: Source) -> Run:
        axis, keepdims = node.attribute("axis", 0), bool(node.attribute("keepdims", 1))
        node.must("select_last_index", 0)
        node.given()

        def run(xs: list[Any], training: bool) -> Held:
            x = xs[0]
            here = node.axis(axis, x.ndim)
            y = function(x.tensor, axis=x.axes.index(here), keepdims=keepdims)
            return Held(y, x.axes if keepdims else without(x.axes, [here]))

        return run

    return reader


def cumsum(node: Source) -> Run:
    """Running sums along an axis, from its end or without the element itself if the file says so."""
    axis = int(node.number(1).item())
    exclusive, reverse = node.must("exclusive", 0, 1), node.must("reverse", 0, 1)
    node.of_numbers = True
    node.only(1)

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        here = node.axis(axis, x.ndim)
        if isinstance(x, np.ndarray):
            if exclusive or reverse:
                raise node.error(
                    "exclusive and reverse sums of numbers that shapes are computed from are not supported"
                )
            return numbers.kept(np.cumsum(x, here), xs)
        along = x.axes.index(here)
        y = ops.flip(x.tensor, along) if reverse else x.tensor
        y = ops.cumsum(y, along)
        if exclusive:
            widths = [(1, 0) if a == along else (0, 0) for a in range(x.ndim)]
            y = ops.pad(y, widths)[(*(slice(None),) * along, slice(0, y.shape[along]))]
        return Held(ops.flip(y, along) if reverse else y, x.axes)

    return run


def of_labels(loss: Callable[..., Tensor]) -> Reader:
    """A loss of scores, with the classes on axis 1, by labels; of logits their log softmax may be a second result."""

    def reader(node: Source) -> Run:
        reduction, ignored = node.must("reduction", "mean", "sum", "none"), node.attribute("ignore_index")
        second = loss is ops.cross_entropy and len(node.outputs) > 1 and bool(node.outputs[1])
        node.given(None, None, "buffer")

        def run(xs: list[Any], training: bool) -> Any:
            scores, labels, *rest = xs
            axes = (0, *range(2, scores.ndim), 1)
            rows = scores.laid(axes)
            weight = rest[0].plain if rest and rest[0] is not None else None
            y = Held(loss(rows, labels.plain, weight=weight, ignore_index=ignored, reduction=reduction))
            return [y, Held(ops.log_softmax(rows), axes)] if second else y

        return run

    return reader
