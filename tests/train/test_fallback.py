"""fit and evaluate with ops that cannot be captured: eager, the same bits, and one warning."""

import warnings

import numpy as np
import pytest

import minigrad as mg


class Softplus(mg.Op):
    """The documentation's."""

    def forward(self, x):
        self.save(x)
        return np.logaddexp(0, x)

    def backward(self, dy):
        (x,) = self.saved
        return (dy / (1 + np.exp(-x)),)


class ForwardOnly(Softplus):
    """Forward by launches, backward by NumPy: the recording fails after running statistics were changed."""

    def forward(self, x):
        self.save(x)
        y = self.empty_like(x)
        self.launch(np.logaddexp, np.float32(0), x, y)
        return y


class Activation(mg.nn.Module):
    def __init__(self, op):
        self.op = op

    def forward(self, x):
        return self.op.apply(x)


@pytest.fixture
def data(rng):
    return rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 3, 40)


def trained(op, data, **options):
    """The bits of a model after training, and what was warned of."""
    mg.manual_seed(0)
    model = mg.nn.Sequential(
        mg.nn.Linear(6, 8), mg.nn.BatchNorm(8), mg.nn.Dropout(0.5), Activation(op), mg.nn.Linear(8, 3)
    )
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = mg.data.Loader(*data, batch_size=16)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        mg.train.fit(model, optimizer, loader, epochs=2, validation=[data], **options)
    return {name: t.numpy().tobytes() for name, t in model.state_dict().items()}, told


@pytest.mark.parametrize("op", [Softplus, ForwardOnly])
def test_fit_runs_eagerly_to_the_same_bits_and_says_so_once(op, data):
    expected, told = trained(op, data, capture=False)
    assert told == []
    found, told = trained(op, data)
    assert found == expected
    (warning,) = told
    assert f"{op.__name__} computes by NumPy" in str(warning.message)
    assert "capture=False" in str(warning.message)
    assert warning.filename == __file__


def test_evaluate_falls_back_too(data):
    model = mg.nn.Sequential(mg.nn.Linear(6, 3), Activation(Softplus))
    with pytest.warns(RuntimeWarning, match="Softplus computes by NumPy, so this runs without capture"):
        found = mg.train.evaluate(model, [data])
    assert found == mg.train.evaluate(model, [data], capture=False)


def test_other_errors_of_a_recording_come_out(data):
    class Reads(mg.nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    model = mg.nn.Sequential(mg.nn.Linear(6, 3), Reads())
    with pytest.raises(mg.CaptureError, match=r"item\(\) inside a captured step"):
        mg.train.evaluate(model, [data])
