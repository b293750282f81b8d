"""Batch Normalization over rows: a layer of the MNIST network, one of 10 MB, and pixels of images of an Inception network."""

import numpy as np

from .measure import Benchmark, empty, kernel_call, normal

EPS = 1e-5


class BatchNorm(Benchmark):
    """Training and inference, forward and backward."""

    params = (["60x100", "10000x256", "131072x16", "3200x384"],)  # the last two: 128 x 32x32x16, 50 x 8x8x384
    param_names = ("rows x features",)

    def setup(self, shape):
        m, c = map(int, shape.split("x"))
        x, dy = normal(m, c), normal(m, c)[::-1].copy()
        gamma, beta = np.abs(normal(c)) + np.float32(0.5), normal(c)
        mean, var = x.mean(axis=0, dtype=float), x.var(axis=0, dtype=float)
        narrow_mean, narrow_var = mean.astype(np.float32), var.astype(np.float32)
        room = np.zeros(c), np.zeros(c)
        gradients = empty(m, c), empty(c), empty(c)
        self.works = {
            "forward": kernel_call("norm", "batch_norm_forward", x, gamma, beta, EPS, empty(m, c), *room),
            "backward": kernel_call("norm", "batch_norm_backward", dy, x, gamma, mean, var, EPS, *gradients),
            "inference": kernel_call(
                "norm", "batch_norm_inference", x, gamma, beta, narrow_mean, narrow_var, EPS, empty(m, c)
            ),
            "inference_backward": kernel_call(
                "norm", "batch_norm_inference_backward", dy, x, gamma, narrow_mean, narrow_var, EPS, *gradients
            ),
            "running": kernel_call("norm", "running_update", mean, var, m, 0.9, empty(c), empty(c)),
        }

    def time_forward(self, shape):
        self.sample(self.works["forward"])

    def time_backward(self, shape):
        self.sample(self.works["backward"])

    def time_inference(self, shape):
        self.sample(self.works["inference"])

    def time_inference_backward(self, shape):
        self.sample(self.works["inference_backward"])

    def time_running_update(self, shape):
        self.sample(self.works["running"])
