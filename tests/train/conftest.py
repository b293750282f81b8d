from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader


@pytest.fixture
def parts():
    """A function that gives the parts of a small run, the same each time: 50 rows, so 7 steps of 8 an epoch, the last of 2."""

    def make(device="reference", batch_size=8, lr=0.1, dropout=0.2, features=5, hidden=6):
        mg.manual_seed(3)
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 50)
        images = (rng.standard_normal((50, features)) + labels[:, None]).astype(np.float32)
        layers = [mg.nn.Linear(features, hidden), mg.nn.BatchNorm(hidden), mg.nn.ReLU(), mg.nn.Dropout(dropout)]
        model = mg.nn.Sequential(*layers, mg.nn.Linear(hidden, 3)).to(device)
        optimizer = mg.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        loader = Loader(images, labels, batch_size=batch_size, seed=1)
        validation = [(images[:30], labels[:30]), (images[30:], labels[30:])]
        return SimpleNamespace(
            model=model, optimizer=optimizer, loader=loader, validation=validation, images=images, labels=labels
        )

    return make


@pytest.fixture
def net(parts):
    """A trained net of a few steps."""
    p = parts()
    mg.train.fit(p.model, p.optimizer, p.loader, epochs=1)
    return p


@pytest.fixture
def arrays():
    """A function that gives all numbers of a model and an optimizer, by name."""

    def of(parts):
        tensors = {name: t.numpy() for name, t in parts.model.state_dict().items()}
        return tensors | parts.optimizer.state_dict()

    return of


@pytest.fixture
def same_bits(arrays):
    """A function that checks that two runs have come to the same numbers, to the bit."""

    def check(one, other):
        left, right = arrays(one), arrays(other)
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].tobytes() == right[name].tobytes(), name

    return check
