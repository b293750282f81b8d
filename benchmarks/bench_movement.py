"""Filling, copying, transposing, slicing and gathering a matrix of a million elements."""

import numpy as np

from minigrad.kernels.axes import DIMS

from .measure import DEVICES, Benchmark, empty, normal

SIDE = 1024


def layout(*values):
    """Lengths or strides of two axes, with those that are lacking."""
    return (0,) * (DIMS - 2) + values


def lengths(*values):
    """Lengths of two axes after axes of length 1."""
    return (1,) * (DIMS - 2) + values


class Movement(Benchmark):
    """Reading and writing every element once."""

    timed = (
        "fill",
        "copy",
        "transpose",
        "every_second_column",
        "into_every_second_column",
        "take_rows",
        "take_rows_backward",
        "take_along",
        "take_along_backward",
    )
    params = (DEVICES,)
    param_names = ("device",)

    def setup(self, device):
        self.use(device)
        n = SIDE * SIDE
        x, matrix = normal(n), normal(SIDE, SIDE)
        half = lengths(SIDE, SIDE // 2), layout(SIDE, 2)
        index = np.random.default_rng(0).integers(0, SIDE, SIDE)
        places = np.random.default_rng(0).integers(0, SIDE, (SIDE, SIDE))
        self.works = {
            "fill": self.kernel_call("movement", "fill", 1.5, empty(n)),
            "copy": self.kernel_call("movement", "copy", x, empty(n)),
            "transpose": self.kernel_call(
                "movement", "strided_read", x, lengths(SIDE, SIDE), layout(1, SIDE), 0, empty(n)
            ),
            "every_second_column": self.kernel_call("movement", "strided_read", x, *half, 1, empty(n // 2)),
            "into_every_second_column": self.kernel_call(
                "movement", "strided_write", normal(n // 2), *half, 1, empty(n)
            ),
            "take_rows": self.kernel_call("movement", "take_rows", matrix, index, empty(SIDE, SIDE)),
            "take_rows_backward": self.kernel_call("movement", "take_rows_backward", matrix, index, empty(SIDE, SIDE)),
            "take_along": self.kernel_call(
                "movement", "take_along", cube(matrix), cube(places), cube(empty(SIDE, SIDE))
            ),
            "take_along_backward": self.kernel_call(
                "movement", "take_along_backward", cube(matrix), cube(places), cube(empty(SIDE, SIDE))
            ),
        }


def cube(x):
    """A matrix as (rows, columns, 1)."""
    return x.reshape(*x.shape, 1)
