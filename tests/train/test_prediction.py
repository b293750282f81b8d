from collections import namedtuple

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import predict


def whole(p):
    """The outputs in one batch, in evaluation mode."""
    p.model.eval()
    with mg.no_grad():
        outputs = p.model(mg.tensor(p.images, device="reference")).numpy()
    p.model.train()
    return outputs


@pytest.mark.parametrize("size", [None, 50, 20, 7, 1])
def test_array_in_batches(net, size):
    outputs = predict(net.model, net.images, batch_size=size)
    assert isinstance(outputs, np.ndarray)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, whole(net), rtol=1e-6)


def test_tensor(net):
    np.testing.assert_array_equal(predict(net.model, mg.tensor(net.images)), predict(net.model, net.images))


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"drop_last": True}, {"prefetch": 2}])
def test_samples_of_a_loader_come_in_their_order_and_all(net, options):
    loader = Loader(net.images, net.labels, batch_size=20, **options)
    loader.seek(2)
    np.testing.assert_allclose(predict(net.model, loader), whole(net), rtol=1e-6)
    assert loader.position == 2
    assert (loader.shuffle, loader.drop_last) == (options.get("shuffle", True), options.get("drop_last", False))


def test_transform_of_a_loader_is_applied(net):
    loader = Loader(net.images, batch_size=20, transform=lambda batch, epoch, step: (batch[0] * 0,))
    assert len(np.unique(predict(net.model, loader), axis=0)) == 1


@pytest.mark.parametrize("kind", [lambda x, y: x, lambda x, y: (x, y), lambda x, y: [x]])
def test_other_batches(net, kind):
    batches = [kind(net.images[i : i + 20], net.labels[i : i + 20]) for i in range(0, 50, 20)]
    np.testing.assert_allclose(predict(net.model, batches), whole(net), rtol=1e-6)
    np.testing.assert_allclose(predict(net.model, iter(batches)), whole(net), rtol=1e-6)


class Read:
    """Samples that are made when asked for."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def read_samples(self, rows):
        return self.array[rows]


def test_samples_that_are_read(net):
    np.testing.assert_allclose(predict(net.model, Read(net.images), batch_size=7), whole(net), rtol=1e-6)


def test_no_rows(net):
    assert predict(net.model, net.images[:0]).shape == (0, 3)


def test_training_flags_and_state_are_left_alone(net, arrays):
    net.model.layers[1].eval()
    flags, before = [m.training for _, m in net.model.modules()], arrays(net)
    predict(net.model, net.images)
    assert [m.training for _, m in net.model.modules()] == flags
    for name, array in arrays(net).items():
        np.testing.assert_array_equal(array, before[name])


def test_training_flags_are_put_back_after_an_error(net):
    with pytest.raises(ValueError, match="linear"):
        predict(net.model, net.images[:, :2])
    assert all(m.training for _, m in net.model.modules())


Pair = namedtuple("Pair", "scores, code")


@pytest.mark.parametrize("kind", ["dict", "tuple", "named", "list"])
def test_nests_of_outputs(net, kind):
    class Several(mg.nn.Module):
        def __init__(self):
            self.net = net.model

        def forward(self, x):
            y = self.net(x)
            pair = {"scores": y, "code": y + 1.0}
            return {"dict": pair, "tuple": tuple(pair.values()), "named": Pair(**pair), "list": list(pair.values())}[
                kind
            ]

    found = predict(Several(), net.images, batch_size=20)
    assert type(found).__name__ == {"named": "Pair"}.get(kind, kind)
    scores, code = found.values() if kind == "dict" else found
    np.testing.assert_allclose(scores, whole(net), rtol=1e-6)
    np.testing.assert_array_equal(code, scores + 1)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, ValueError, "no batches"),
        (iter([]), {}, ValueError, "no batches"),
        (np.float32(3), {}, TypeError, "array of inputs, or a Loader, not a float32"),
        (np.zeros((), np.float32), {}, ValueError, "single number"),
        ((np.zeros((2, 5)), np.zeros(2)), {}, TypeError, "array of inputs, or a Loader, not a tuple"),
        ([[1.0, 2.0]], {}, TypeError, "begin with one, not float"),
        ([np.zeros((2, 5), np.float32)], {"batch_size": 2}, ValueError, "have their sizes already"),
        (np.zeros((2, 5), np.float32), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        (np.zeros((2, 5)), {}, TypeError, r"inputs are float64.*inputs.astype\(np.float32\)"),
        (np.zeros((2, 5), np.uint8), {}, TypeError, r"Pass inputs.astype\(np.float32\) / 255"),
        (np.zeros((2, 1, 1, 5), np.uint8), {}, TypeError, r"Give the Loader transform=mg.data.Scale\(\)"),
    ],
)
def test_wrong_data(net, data, options, error, message):
    with pytest.raises(error, match=message):
        predict(net.model, data, **options)


def test_model_on_each_device(net, parts, device):
    p = parts(device)
    p.model.load_state_dict(net.model.state_dict())
    np.testing.assert_allclose(predict(p.model, p.images), predict(net.model, p.images), rtol=1e-5, atol=1e-6)
