"""The order of features that PyTorch has where images are flattened, found by tracing an example.

An image (H, W, C) flattened here has its channels together at each pixel; PyTorch's (C, H, W) has each channel's pixels
together. The layers that read flattened images, up to and including the next Linear, have their features in another order
there. A permutation p says of an axis: PyTorch's feature j is our feature p[j].
"""

import warnings
from typing import Any

import numpy as np

from minigrad.interop.tracing import Trace, TracedOp, as_examples, traced
from minigrad.nn import Flatten, Linear, Module

Orders = dict[int, np.ndarray]  # of features, by id of the array whose axis 0 has them, or axis -2 of a Linear's weight

FIRST = "channels first"  # what is known of an array (N, C, H, W), made by a transpose
SAME_PLACES = {
    *("Add", "Sub", "Mul", "Div", "Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "ReLU", "Power", "Convert", "Dropout"),
    *("BatchNormInference",),
}
"""Ops whose result has its features in the places of the input's; more of them are known by `keeps_places`."""


def flattened_orders(model: Module, example: Any) -> Orders:
    """The orders of features that differ from PyTorch's, by the arrays of the model that they concern.

    Raises ValueError where flattened features are used by an op through which their order cannot be followed.
    """
    if example is None:
        check_no_example_needed(model)
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics that are only about to come
        trace = traced(model, as_examples(example))
    return Followed(trace).orders


class Followed:
    """A trace, followed from the inputs on: what is known of the order of each array's features."""

    def __init__(self, trace: Trace) -> None:
        self.known: dict[int, Any] = {}  # by id: a permutation, or FIRST
        self.orders: Orders = {}
        for step in trace.steps:
            self.follow(step)

    def follow(self, step: TracedOp) -> None:
        """Note what is known of the result."""
        kind = type(step.op).__name__
        found = [None if x is None else self.known.get(id(x)) for x in step.inputs]
        if kind == "Reshape":
            result = reshaped(step, found[0])
        elif kind == "Transpose" and len(step.parameters["axes"]) == 4:
            result = transposed(step, found[0])
        elif kind == "Concat":
            result = concatenated(step, found)
        elif all(order is None for order in found):
            return
        elif kind == "Linear" and isinstance(found[0], np.ndarray):
            self.concerns(step, step.inputs[1], found[0])
            return
        elif keeps_places(step):
            result = next(order for order in found if order is not None)
            if isinstance(result, np.ndarray):
                self.share(step, found, result)
        else:
            raise lost(step)
        if result is not None:
            self.known[id(step.result)] = result

    def share(self, step: TracedOp, found: list[Any], order: np.ndarray) -> None:
        """The other inputs of an op that goes feature by feature have the order too, or are vectors that concern it."""
        for x, other in zip(step.inputs, found, strict=True):
            if x is None or x.ndim == 0 or x.shape[-1] == 1:
                continue
            if other is None and x.ndim == 1:
                self.concerns(step, x, order)
            elif other is None or not np.array_equal(other, order):
                raise lost(step)

    def concerns(self, step: TracedOp, array: Any, order: np.ndarray) -> None:
        """Note the order of an array of the model."""
        before = self.orders.setdefault(id(array), order)
        if not np.array_equal(before, order):
            raise lost(step)


def keeps_places(step: TracedOp) -> bool:
    """Whether each feature of the result is made of the input's feature at the same place."""
    return type(step.op).__name__ in SAME_PLACES


def reshaped(step: TracedOp, order: Any) -> Any:
    """What is known of the result of a reshape."""
    (x, *_), y = step.inputs, step.result
    if isinstance(order, np.ndarray):
        if y.shape[-1:] != x.shape[-1:]:
            raise lost(step)
        return order
    if x.ndim != 4 or y.ndim != 2 or y.shape[0] != x.shape[0]:
        if order is FIRST and y.shape != x.shape:
            raise lost(step)
        return order
    if order is FIRST:
        return None
    places = np.arange(y.shape[1]).reshape(x.shape[1:])
    order = places.transpose(2, 0, 1).reshape(-1)
    return None if np.array_equal(order, np.arange(order.size)) else order


def transposed(step: TracedOp, order: Any) -> Any:
    """What is known of an image whose axes were put in another order."""
    axes = step.parameters["axes"]
    if order is None and axes == (0, 3, 1, 2):
        return FIRST
    if order is FIRST and axes != (0, 2, 3, 1):
        raise lost(step)
    return None


def concatenated(step: TracedOp, found: list[Any]) -> Any:
    """What is known of several tensors one after another."""
    if all(order is None for order in found):
        return None
    if any(order is FIRST for order in found):
        if all(order is FIRST for order in found):
            return FIRST
        raise lost(step)
    if step.parameters["axis"] != step.result.ndim - 1:
        if all(np.array_equal(order, found[0]) for order in found):
            return found[0]
        raise lost(step)
    parts, start = [], 0
    for x, order in zip(step.inputs, found, strict=True):
        parts.append(start + (np.arange(x.shape[-1]) if order is None else order))
        start += x.shape[-1]
    return np.concatenate(parts)


def lost(step: TracedOp) -> ValueError:
    """The error for an op that order cannot be followed through."""
    return ValueError(
        f"features of flattened images, whose order is another in PyTorch, go through {step.name}, after which their order is "
        "not known; flatten just before the Linear that reads them, or convert these weights by hand"
    )


def check_no_example_needed(model: Module) -> None:
    """Raise ValueError if the model may flatten images before a Linear, which only an example shows."""
    modules = list(model.modules())
    if not any(isinstance(module, Linear) for _, module in modules):
        return
    for name, module in modules:
        own = type(module).forward.__module__.startswith("minigrad.nn.") and "forward" not in vars(module)
        if isinstance(module, Flatten) or not own:
            what = f"{name or 'the model'} is a {type(module).__name__}"
            raise ValueError(
                f"{what}, which may flatten images (H, W, C), and PyTorch flattens (C, H, W): the Linear that follows has its "
                "inputs in another order there. Pass example=x, an input of the model, for it to be found out; of inputs that "
                "are no images, (N, features), too"
            )
