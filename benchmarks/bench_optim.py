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

    params = (["sgd", "sgd_momentum", "adagrad", "adam"], list(NETWORKS), DEVICES)
    param_names = ("optimizer", "network", "device")

    def setup(self, optimizer, network, device):
        self.use(device)
        shapes = NETWORKS[network]
        params, grads = [normal(*s) for s in shapes], [normal(*s) for s in shapes]
        first, second = [empty(*s) for s in shapes], [empty(*s) for s in shapes]
        arguments = {
            "sgd": ([], np.array([RATE, 0, 0, 1e-4])),
            "sgd_momentum": (first, np.array([RATE, 0.9, 0, 1e-4])),
            "adagrad": (first, np.array([RATE, 1e-10, 1e-4])),
            "adam": (first, second, np.zeros(1), np.array([RATE, 0.9, 0.999, 1e-8, 1e-4])),
        }[optimizer]
        self.work = self.kernel_call("optim", optimizer.partition("_")[0], params, grads, *arguments)

    def time_step(self, optimizer, network, device):
        self.sample(self.work)
