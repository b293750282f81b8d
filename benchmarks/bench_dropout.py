"""Dropout, whose random numbers cost more than the rest."""

import numpy as np

from .measure import Benchmark, empty, kernel_call, normal


class Dropout(Benchmark):
    """Forward; backward is the same kernel."""

    params = ([6_000, 1 << 20],)
    param_names = ("elements",)

    def setup(self, n):
        key = np.array([1, 2], np.uint64)
        self.work = kernel_call("dropout", "dropout", normal(n), 0.5, key, empty(n))

    def time_forward(self, n):
        self.sample(self.work)
