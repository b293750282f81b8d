"""Normalization of rows by themselves: features of a small transformer, and of a large one."""

import numpy as np

from .measure import DEVICES, Benchmark, empty, normal


class LayerNorm(Benchmark):
    """Forward and backward, with gamma and beta."""

    timed = ("forward", "backward")
    params = (["layer_norm", "rms_norm"], ["2048x128", "4096x1024"], DEVICES)
    param_names = ("norm", "rows x features", "device")

    def setup(self, norm, shape, device):
        self.use(device)
        m, n = map(int, shape.split("x"))
        x, gamma, centered = normal(m, n), normal(n), norm == "layer_norm"
        mean, scale = np.zeros(m), np.ones(m)
        self.works["forward"] = self.kernel_call(
            "layer_norm", "layer_norm_forward", x, gamma, normal(n), 1e-5, centered, empty(m, n), mean, scale
        )
        self.works["backward"] = self.kernel_call(
            "layer_norm",
            "layer_norm_backward",
            normal(m, n),
            x,
            gamma,
            mean,
            scale,
            centered,
            empty(m, n),
            empty(n),
            empty(n),
        )
