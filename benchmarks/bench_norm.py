"""Batch Normalization over rows: a layer of the MNIST network, one of 10 MB, and pixels of images of an Inception network."""

import numpy as np

from minigrad.kernels.activations import RELU

from .measure import DEVICES, Benchmark, empty, normal

EPS = 1e-5


class BatchNorm(Benchmark):
    """Training and inference, forward and backward, each with ReLU in the same pass."""

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
            "batch_norm_forward": (x, gamma, beta, *into, *room),
            "batch_norm_backward": (dy, x, y, 0, gamma, beta, mean, var, EPS, RELU, *gradients),
            "batch_norm_inference": (x, gamma, beta, narrow_mean, narrow_var, *into),
            "batch_norm_inference_backward": (
                dy, x, y, 0, gamma, beta, narrow_mean, narrow_var, EPS, RELU, *gradients,
            ),
            "running_update": (mean, var, m, 0.9, empty(c), empty(c)),
        }  # fmt: skip
        self.works = {name: self.kernel_call("norm", name, *given) for name, given in arguments.items()}

    def time_forward(self, shape, device):
        self.sample(self.works["batch_norm_forward"])

    def time_backward(self, shape, device):
        self.sample(self.works["batch_norm_backward"])

    def time_inference(self, shape, device):
        self.sample(self.works["batch_norm_inference"])

    def time_inference_backward(self, shape, device):
        self.sample(self.works["batch_norm_inference_backward"])

    def time_running_update(self, shape, device):
        self.sample(self.works["running_update"])
