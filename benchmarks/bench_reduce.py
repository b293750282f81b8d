"""Sums and maxima along one axis of three: of a bias's gradient, along rows, along columns, over everything."""

import numpy as np

from .measure import DEVICES, Benchmark, empty, normal

# name: outer, reduced and inner lengths
SHAPES = {
    "bias_60x100": (1, 60, 100),
    "rows_1024x1024": (1024, 1024, 1),
    "columns_1024x1024": (1, 1024, 1024),
    "all_1048576": (1, 1 << 20, 1),
}


class Reduce(Benchmark):
    """The middle axis goes."""

    params = (list(SHAPES), DEVICES)
    param_names = ("shape", "device")

    def setup(self, shape, device):
        self.use(device)
        outer, reduced, inner = SHAPES[shape]
        x, y, index = normal(outer, reduced, inner), empty(outer, inner), np.zeros((outer, inner), np.int64)
        self.sum = self.kernel_call("reduce", "sum_forward", x, y)
        self.max = self.kernel_call("reduce", "max_forward", x, y, index)
        self.cumsum = self.kernel_call("reduce", "cumsum", np.abs(x), False, empty(outer, reduced, inner))
        self.max_backward = self.kernel_call("reduce", "max_backward", y, index, empty(outer, reduced, inner))

    def time_sum(self, shape, device):
        self.sample(self.sum)

    def time_max(self, shape, device):
        self.sample(self.max)

    def time_max_backward(self, shape, device):
        self.sample(self.max_backward)

    def time_cumsum(self, shape, device):
        self.sample(self.cumsum)
