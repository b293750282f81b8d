"""Softmax, its logarithm and the cross-entropy: ten classes, and a thousand."""

import numpy as np

from minigrad.kernels import reference

from .measure import DEVICES, Benchmark, empty, normal


class Loss(Benchmark):
    """Forward and backward over rows."""

    timed = ("forward", "backward")
    params = (["softmax", "log_softmax", "cross_entropy", "nll"], ["60x10", "10000x10", "1024x1000"], DEVICES)
    param_names = ("loss", "rows x classes", "device")

    def setup(self, loss, shape, device):
        self.use(device)
        m, n = map(int, shape.split("x"))
        x, y = normal(m, n), empty(m, n)
        if loss == "cross_entropy":
            labels = np.random.default_rng(0).integers(0, n, m)
            forward, backward = (x, labels, y, empty(1)), (normal(1), y, labels, empty(m, n))
        elif loss == "nll":
            labels, options = np.random.default_rng(0).integers(0, n, m), (normal(n), -1, 0.1)
            forward, backward = (x, labels, *options, empty(m)), (normal(m), labels, *options, y)
        else:
            forward, backward = (x, y), (normal(m, n), y, empty(m, n))
        self.works["forward"] = self.kernel_call("loss", f"{loss}_forward", *forward)
        getattr(reference.loss, f"{loss}_forward")(*forward)  # fills y for the other direction
        self.works["backward"] = self.kernel_call("loss", f"{loss}_backward", *backward)
