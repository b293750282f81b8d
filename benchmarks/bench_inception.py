"""The training step of the small Inception, width 0.25, batch 32, and the memory it takes."""

import itertools

import numpy as np

from .measure import DEVICES, Benchmark
from .tools import networks

MODES = {"captured": True, "eager": False}
CHECKED = 2
STEPS = 5


def training(mode, batch_norm, device="cpu", dtype=np.float32):
    """A network in training, on all threads, and its batches."""
    network = networks.Network(0.25, 32, batch_norm)
    arrays = {name: array.astype(dtype) for name, array in networks.initial_arrays(network).items()}
    contender = networks.minigrad_step(network, arrays, device, captured=MODES[mode])
    return contender, [(images.astype(dtype), labels) for images, labels in networks.batches(network, 4)]


def first_losses(contender, data):
    """Of the first steps."""
    return [contender.loss(contender.step(*batch)) for batch in data[:CHECKED]]


class Step(Benchmark):
    """Forward, backward and SGD with momentum, with the batch handed over as NumPy arrays."""

    timed = ("step",)
    params = (list(MODES), [True, False], DEVICES)
    param_names = ("mode", "batch_norm", "device")

    def setup(self, mode, batch_norm, device):
        self.use(device)
        contender, data = training(mode, batch_norm, device)
        expected = first_losses(*training("eager", batch_norm, dtype=np.float64))
        np.testing.assert_allclose(first_losses(contender, data), expected, rtol=1e-3)
        batches = itertools.cycle(data)
        self.works["step"] = lambda: contender.step(*next(batches))


class Memory:
    """Peak resident memory of a process that trains for a few steps, Python, NumPy and Numba included."""

    params = Step.params[:2]
    param_names = Step.param_names[:2]

    def peakmem_training(self, mode, batch_norm):
        contender, data = training(mode, batch_norm)
        for i in range(STEPS):
            loss = contender.step(*data[i % len(data)])
        if not np.isfinite(contender.loss(loss)):
            raise RuntimeError(f"the loss is {contender.loss(loss)} after {STEPS} steps")
