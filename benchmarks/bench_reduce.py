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

    timed = ("sum", "max", "max_backward", "cumsum")
    params = (list(SHAPES), DEVICES)
    param_names = ("shape", "device")

    def setup(self, shape, device):
        self.use(device)
        outer, reduced, inner = SHAPES[shape]
        x, y, index = normal(outer, reduced, inner), empty(outer, inner), np.zeros((outer, inner), np.int64)
        self.works["sum"] = self.kernel_call("reduce", "sum_forward", x, y)
        self.works["max"] = self.kernel_call("reduce", "max_forward", x, y, index)
        self.works["cumsum"] = self.kernel_call("reduce", "cumsum", np.abs(x), False, empty(outer, reduced, inner))
        self.works["max_backward"] = self.kernel_call("reduce", "max_backward", y, index, empty(outer, reduced, inner))
