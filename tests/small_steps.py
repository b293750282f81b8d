"""Networks, batches and steps: of training, small, since the simulator runs every thread in Python; and captured beside eager ones."""

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


def captured_is_eager(loss, x, *parameters, scales=(1, 1, 1)):
    """Assert that a captured step gives the bits of the eager one, each time: the loss, and the parameters' gradients."""

    def step(x):
        for p in parameters:
            p.zero_grad()
        value = loss(x)
        value.backward()
        return value

    def bits(step, x):
        return [step(x).item(), *[p.grad.numpy().tobytes() for p in parameters]]

    inputs = [scale * x for scale in np.float32(scales)]
    eager = [bits(step, mg.tensor(x)) for x in inputs]
    captured = mg.capture(step)
    assert [bits(captured, x) for x in inputs] == eager
