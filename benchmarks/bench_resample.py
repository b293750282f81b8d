"""Images in other sizes: bilinear to twice the sides, and means over 7 x 7 windows."""

import numpy as np

from minigrad.ops.resample import Axis, made_of

from .measure import DEVICES, Benchmark, empty, normal

CASES = {"bilinear, twice": ("bilinear", 2.0), "means over 7 x 7": ("mean", 1 / 7)}


class Resample(Benchmark):
    """The kernel, which serves interpolation, means and their gradients."""

    timed = ("resample",)
    params = ([*CASES], DEVICES)
    param_names = ("case", "device")

    def setup(self, case, device):
        self.use(device)
        kind, factor = CASES[case]
        x = normal(32, 28, 28, 64)
        m = int(28 * factor)
        parts = made_of(Axis(kind, 28, m, 28 / m), np.dtype(np.float32))
        places = np.cumsum([0, *[len(weights) for _, weights in parts]])
        table = np.array([(first, len(w), at) for (first, w), at in zip(parts, places[:-1], strict=True)], np.int64)
        weights = np.array([weight for _, weights in parts for weight in weights], np.float32)
        y = empty(32, m, m, 64)
        self.works["resample"] = self.kernel_call(
            "resample", "resample", x, table, weights, table, weights, y, images=1
        )
