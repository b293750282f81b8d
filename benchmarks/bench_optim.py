"""Optimizers: one step on the parameters of the MNIST network with BN, and on four million."""

import numpy as np

from .measure import DEVICES, Benchmark, empty, normal

NETWORKS = {
    "mnist": [(784, 100), (100,), (100,), (100, 100), (100,), (100,), (100, 100), (100,), (100,), (100, 10), (10,)],
    "large": [(2048, 1024), (2048, 1024)],
}
RATE = 1e-7  # so small that thousands of repetitions leave the numbers ordinary


class Optim(Benchmark):
    """All parameters in one launch."""

    timed = ("step",)
    params = (
        ["sgd", "sgd_momentum", "adagrad", "rmsprop", "adam", "average", "grad_total", "clip_norm"],
        list(NETWORKS),
        DEVICES,
    )
    param_names = ("optimizer", "network", "device")

    def setup(self, optimizer, network, device):
        self.use(device)
        shapes = NETWORKS[network]
        params, grads = [normal(*s) for s in shapes], [normal(*s) for s in shapes]
        first, second = [empty(*s) for s in shapes], [empty(*s) for s in shapes]
        counts, groups = [np.ones(1) for _ in shapes], [0] * len(shapes)
        arguments = {
            "sgd": (params, grads, [], groups, np.array([[RATE, 0, 0, 1e-4]])),
            "sgd_momentum": (params, grads, first, groups, np.array([[RATE, 0.9, 0, 1e-4]])),
            "adagrad": (params, grads, first, groups, np.array([[RATE, 1e-10, 1e-4]])),
            "rmsprop": (params, grads, first, [], [], groups, np.array([[RATE, 0.99, 1e-8, 1e-4, 0, 0]])),
            "adam": (params, grads, first, second, counts, groups, True, np.array([[RATE, 0.9, 0.999, 1e-8, 1e-4]])),
            "average": (params, first, counts, 0.999),
            "grad_total": (grads, 2, np.zeros(1)),
            "clip_norm": (grads, np.ones(1), 2, 1e6, grads, np.zeros(1)),
        }[optimizer]
        self.works["step"] = self.kernel_call("optim", optimizer.removesuffix("_momentum"), *arguments)
