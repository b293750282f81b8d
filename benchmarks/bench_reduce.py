"""Sums and maxima along one axis of three: of a bias's gradient, along rows, along columns, over everything."""

import numpy as np

from .measure import Benchmark, empty, kernel_call, normal

# name: outer, reduced and inner lengths
SHAPES = {
    "bias_60x100": (1, 60, 100),
    "rows_1024x1024": (1024, 1024, 1),
    "columns_1024x1024": (1, 1024, 1024),
    "all_1048576": (1, 1 << 20, 1),
}


class Reduce(Benchmark):
    """The middle axis goes."""

    params = (list(SHAPES),)
    param_names = ("shape",)

    def setup(self, shape):
        outer, reduced, inner = SHAPES[shape]
        x, y, index = normal(outer, reduced, inner), empty(outer, inner), np.zeros((outer, inner), np.int64)
        self.sum = kernel_call("reduce", "sum_forward", x, y)
        self.max = kernel_call("reduce", "max_forward", x, y, index)
        self.max_backward = kernel_call("reduce", "max_backward", y, index, empty(outer, reduced, inner))

    def time_sum(self, shape):
        self.sample(self.sum)

    def time_max(self, shape):
        self.sample(self.max)

    def time_max_backward(self, shape):
        self.sample(self.max_backward)
