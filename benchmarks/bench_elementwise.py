"""Functions of one element or two, at the size of a layer of the MNIST network and at a million."""

import numpy as np

from minigrad.kernels import reference
from minigrad.kernels.axes import broadcast_layout

from .measure import DEVICES, Benchmark, empty, normal

SIZES = [6_000, 1 << 20]


class Unary(Benchmark):
    """y = f(x), and dx from dy and what the forward kernel saved."""

    timed = ("forward", "backward")
    params = (["exp", "log", "sqrt", "tanh", "sigmoid", "relu"], SIZES, DEVICES)
    param_names = ("function", "elements", "device")

    def setup(self, function, n, device):
        self.use(device)
        x = normal(n)
        if function in ("log", "sqrt"):
            x = np.abs(x) + np.float32(0.1)
        self.works["forward"] = self.kernel_call("elementwise", f"{function}_forward", x, empty(n))
        saved = empty(n)
        if function == "log":
            saved = x
        else:
            getattr(reference.elementwise, f"{function}_forward")(x, saved)
        self.works["backward"] = self.kernel_call("elementwise", f"{function}_backward", normal(n), saved, empty(n))


class Power(Benchmark):
    """x^p, for 2 and for another number."""

    timed = ("forward", "backward")
    params = ([2.0, 2.5], SIZES, DEVICES)
    param_names = ("p", "elements", "device")

    def setup(self, p, n, device):
        self.use(device)
        x = np.abs(normal(n)) + np.float32(0.1)
        self.works["forward"] = self.kernel_call("elementwise", "power_forward", x, p, empty(n))
        self.works["backward"] = self.kernel_call("elementwise", "power_backward", normal(n), x, p, empty(n))


SHAPE = (1024, 1024)


def broadcast(b_is):
    """(shape of b, layouts) for an a of SHAPE."""
    b = {"equal": SHAPE, "row": (1024,), "column": (1024, 1)}[b_is]
    _, *layout = broadcast_layout(SHAPE, b)
    return b, layout


class Binary(Benchmark):
    """a op b of equal shapes, a matrix and a row, a matrix and a column."""

    timed = ("forward",)
    params = (["add", "sub", "mul", "div"], ["equal", "row", "column"], DEVICES)
    param_names = ("function", "b", "device")

    def setup(self, function, b_is, device):
        self.use(device)
        b, layout = broadcast(b_is)
        x, y = normal(*SHAPE).ravel(), np.abs(normal(*b)).ravel() + np.float32(0.1)
        self.works["forward"] = self.kernel_call("elementwise", f"{function}_forward", x, y, empty(1 << 20), *layout)


class Comparison(Benchmark):
    """Whether a op b, of equal shapes, a matrix and a row, a matrix and a column."""

    timed = ("forward",)
    params = (["equal", "not_equal", "less", "less_equal"], ["equal", "row", "column"], DEVICES)
    param_names = ("function", "b", "device")

    def setup(self, function, b_is, device):
        self.use(device)
        b, layout = broadcast(b_is)
        y = np.empty(1 << 20, bool)
        self.works["forward"] = self.kernel_call(
            "elementwise", function, normal(*SHAPE).ravel(), normal(*b).ravel(), y, *layout
        )
