"""Kernels of formulas: every op of the table, and a chain of user's own, in the cache and in memory."""

import math

import numpy as np

from minigrad.kernels.axes import broadcast_layouts
from minigrad.kernels.expressions import gradient, tanh, trace
from minigrad.ops.table import TABLE

from .measure import DEVICES, Benchmark, empty, normal

SIZES = [6_000, 1 << 20]
FUNCTIONS = {name: op for name, op in TABLE.items() if not op.is_condition}


class Table(Benchmark):
    """An op and its gradient to all of its inputs, which are of one shape."""

    timed = ("forward", "backward")
    params = (list(FUNCTIONS), SIZES, DEVICES)
    param_names = ("op", "elements", "device")

    def setup(self, op, n, device):
        self.use(device)
        formula, partials = FUNCTIONS[op].traced, FUNCTIONS[op].partials
        wanted = tuple([i for i, kind in enumerate(formula.kinds) if kind == "float"])
        backward = gradient(formula, wanted, partials)
        x = np.abs(normal(n)) + np.float32(0.1)
        given = [x > 0.5 if kind == "bool" else x for kind in formula.kinds]
        self.works["forward"] = self.kernel_call("pointwise", "evaluate", *call(formula, given, (n,)))
        self.works["backward"] = self.kernel_call("pointwise", "evaluate", *call(backward, [normal(n), *given], (n,)))


def call(formula, inputs, shape):
    """The arguments of a kernel that evaluates a formula."""
    _, merged, strides = broadcast_layouts(*[x.shape for x in inputs])
    results = [empty(math.prod(shape)) for _ in formula.outputs]
    return formula, [x.ravel() for x in inputs], results, merged, strides


class Chain(Benchmark):
    """a x tanh(b + x), where b is a matrix as x, a row, a column or a number."""

    timed = ("forward",)
    params = (["matrix", "row", "column", "number"], DEVICES)
    param_names = ("b", "device")

    def setup(self, b_is, device):
        self.use(device)
        shape = 1024, 1024
        b = normal(*{"matrix": shape, "row": (1024,), "column": (1024, 1), "number": ()}[b_is])
        formula = trace(lambda a, x, b: a * x * tanh(b + x))
        given = [np.array(0.7, np.float32), normal(*shape), np.asarray(b)]
        self.works["forward"] = self.kernel_call("pointwise", "evaluate", *call(formula, given, shape))
