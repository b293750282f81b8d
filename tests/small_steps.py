"""Networks, batches and a training step for tests of the device "cuda": small, since the simulator runs every thread in Python."""

import numpy as np

import minigrad as mg


def network():
    mg.manual_seed(3)
    return mg.nn.Sequential(mg.nn.Linear(5, 4, bias=False), mg.nn.BatchNorm(4), mg.nn.Sigmoid(), mg.nn.Linear(4, 3))


def one_product():
    """A network with one matrix product: the simulator takes seconds for the six of a step of the one above."""
    mg.manual_seed(3)
    return mg.nn.Sequential(mg.nn.Linear(5, 4, bias=False), mg.nn.BatchNorm(4), mg.nn.Sigmoid())


def no_product():
    """A network without matrix products."""
    return mg.nn.Sequential(mg.nn.BatchNorm(5), mg.nn.Sigmoid())


def data(rows=6):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 5)).astype(np.float32), rng.integers(0, 3, rows)


def step_of(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step
