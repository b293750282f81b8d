"""The training step of the MNIST network (Ioffe & Szegedy 2015, section 4.1), batch 60, and the memory it takes."""

import itertools

import numpy as np

from .measure import DEVICES, Benchmark
from .tools import mlp as contenders

CHECKED = 5
STEPS = 200
MODES = {"captured": contenders.minigrad_captured, "eager": contenders.minigrad_eager}


class Step(Benchmark):
    """Forward, backward and SGD, with the batch handed over as NumPy arrays; the loss is read after the sample."""

    timed = ("step",)
    params = (["captured", "eager"], [True, False], DEVICES)
    param_names = ("mode", "batch_norm", "device")

    def setup(self, mode, batch_norm, device):
        self.use(device)
        parameters = contenders.initial_parameters(batch_norm)
        data = contenders.batches(32)
        contender = MODES[mode](parameters, device)
        expected = contenders.numpy_by_hand(parameters, float)
        losses = [contender.loss(contender.step(*batch)) for batch in data[:CHECKED]]
        np.testing.assert_allclose(
            losses, [expected.loss(expected.step(*batch)) for batch in data[:CHECKED]], rtol=1e-5
        )
        batches = itertools.cycle(data)
        self.works["step"] = lambda: contender.step(*next(batches))


class Memory:
    """Peak resident memory of a process that trains for 200 steps, Python, NumPy and Numba included."""

    params = Step.params[:2]
    param_names = Step.param_names[:2]

    def peakmem_training(self, mode, batch_norm):
        contender = MODES[mode](contenders.initial_parameters(batch_norm))
        data = contenders.batches(8)
        for i in range(STEPS):
            loss = contender.step(*data[i % len(data)])
        if not np.isfinite(contender.loss(loss)):
            raise RuntimeError(f"the loss is {contender.loss(loss)} after {STEPS} steps")
