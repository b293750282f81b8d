"""Dropout, whose random numbers cost more than the rest."""

import numpy as np

from .measure import DEVICES, Benchmark, empty, normal


class Dropout(Benchmark):
    """Forward; backward is the same kernel."""

    timed = ("forward",)
    params = ([6_000, 1 << 20], DEVICES)
    param_names = ("elements", "device")

    def setup(self, n, device):
        self.use(device)
        key = np.array([1, 2], np.uint64)
        self.works["forward"] = self.kernel_call("dropout", "dropout", normal(n), 0.5, key, empty(n))


class Random(Benchmark):
    """Uniform and normal numbers."""

    timed = ("draw",)
    params = (["uniform", "normal"], [6_000, 1 << 20], DEVICES)
    param_names = ("distribution", "elements", "device")

    def setup(self, distribution, n, device):
        self.use(device)
        self.works["draw"] = self.kernel_call("dropout", distribution, 0.0, 1.0, np.array([1, 2], np.uint64), empty(n))
