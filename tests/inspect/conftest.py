from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg


@pytest.fixture
def net():
    """A function that gives a net of two layers, of six ops: its tensors by name, and `loss()`."""

    def make(dtype="float32", device="reference"):
        rng = np.random.default_rng(0)
        leaves = {
            name: mg.tensor(rng.standard_normal(shape), dtype, device, requires_grad=True)
            for name, shape in (("w1", (2, 3)), ("b1", (3,)), ("w2", (3, 2)), ("b2", (2,)))
        }
        x = mg.tensor(rng.standard_normal((4, 2)), dtype, device)
        labels = mg.tensor([0, 1, 1, 0], device=device)

        def loss():
            hidden = mg.sigmoid(x @ leaves["w1"] + leaves["b1"])
            return mg.cross_entropy(hidden @ leaves["w2"] + leaves["b2"], labels)

        return SimpleNamespace(leaves=leaves, x=x, labels=labels, loss=loss)

    return make
