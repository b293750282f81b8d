"""Batch Normalization over rows: a layer of the MNIST network, one of 10 MB, and pixels of images of an Inception network."""

import numpy as np

from minigrad.kernels.activations import RELU

from .measure import DEVICES, Benchmark, empty, normal

EPS = 1e-5


class BatchNorm(Benchmark):
    """Training and inference, forward and backward, each with ReLU in the same pass."""

    timed = ("forward", "backward", "inference", "inference_backward", "running_update")
    params = (["60x100", "10000x256", "131072x16", "3200x384"], DEVICES)  # the last two: 128 x 32x32x16, 50 x 8x8x384
    param_names = ("rows x features", "device")

    def setup(self, shape, device):
        self.use(device)
        m, c = map(int, shape.split("x"))
        x, dy = normal(m, c), normal(m, c)[::-1].copy()
        gamma, beta = np.abs(normal(c)) + np.float32(0.5), normal(c)
        mean, var = x.mean(axis=0, dtype=float), x.var(axis=0, dtype=float)
        narrow_mean, narrow_var = mean.astype(np.float32), var.astype(np.float32)
        room = np.zeros(c), np.zeros(c)
        gradients = empty(m, c), empty(c), empty(c)
        y, into = empty(m, c), (EPS, RELU, empty(m, c), 0)
        arguments = {
            "forward": (x, gamma, beta, *into, *room, 0.9, empty(0), empty(0)),
            "backward": (dy, x, y, 0, gamma, beta, mean, var, EPS, RELU, *gradients),
            "inference": (x, gamma, beta, narrow_mean, narrow_var, *into),
            "inference_backward": (
                dy, x, y, 0, gamma, beta, narrow_mean, narrow_var, EPS, RELU, *gradients,
            ),
            "running_update": (mean, var, m, 0.9, empty(c), empty(c)),
        }  # fmt: skip
        for name, given in arguments.items():
            kernel = name if name == "running_update" else f"batch_norm_{name}"
            self.works[name] = self.kernel_call("norm", kernel, *given)
