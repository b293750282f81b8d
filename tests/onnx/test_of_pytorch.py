"""Files that PyTorch's exporters write, the older one and the newer one, become models that compute the same."""

import logging
import warnings

import numpy as np
import pytest

import minigrad as mg

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch_twins import ResNet18, randomize  # noqa: E402

nn = torch.nn
NEWER = pytest.param("newer", marks=pytest.mark.slow)


class Attention(nn.Module):
    """Two heads, written with views, permutations and chunks."""

    def __init__(self):
        super().__init__()
        self.project, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        rows, length, width = x.shape
        q, k, v = self.project(x).view(rows, length, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width)
        return self.head(self.out(y).mean(1))


class Excited(nn.Module):
    """Channels weighed by what a small network makes of their means, then split and concatenated."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))[:, :, None, None]
        left, right = x.chunk(2, 1)
        return torch.cat([left, right * 2, x[:, :1]], 1).flatten(1)


class Recurrent(nn.Module):
    """Sequences through recurrent layers, then what they give at the last step and their states."""

    def __init__(self, kind, **options):
        super().__init__()
        self.layer = kind(4, 3, batch_first=True, **options)

    def forward(self, x):
        y, states = self.layer(x)
        states = states if isinstance(states, tuple) else (states,)
        return torch.cat([y[:, -1], *[s.transpose(0, 1).flatten(1) for s in states]], 1)


NETS = {
    "MLP": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3, bias=False)),
        (2, 8),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 6, 3, padding="same", dilation=2), nn.Flatten(), nn.Linear(6 * 25, 5),
            nn.LogSoftmax(1),
        ),
        (2, 3, 8, 8),
    ),
    "ResNet-18": (lambda: ResNet18(8, 10), (2, 3, 64, 64)),
    "attention": (Attention, (2, 5, 8)),
    "squeeze and excite": (Excited, (2, 3, 6, 6)),
    "RNN": (lambda: Recurrent(nn.RNN, nonlinearity="relu", bidirectional=True), (2, 5, 4)),
    "LSTM": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (2, 5, 4)),
    "GRU": (lambda: Recurrent(nn.GRU, bias=False, num_layers=2), (2, 5, 4)),
}  # fmt: skip


def exported(model, x, path, exporter):
    if exporter == "newer":
        pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "newer":
            batch = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=batch, verbose=False)
        else:
            torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})


@pytest.fixture(autouse=True)
def quiet():
    """What the newer exporter has to say of packages that are not there."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize("exporter", ["older", NEWER])
@pytest.mark.parametrize("name", NETS)
def test_nets_of_pytorch_compute_the_same(name, exporter, tmp_path):
    make, shape = NETS[name]
    theirs = randomize(make())
    exported(theirs, torch.randn(shape), tmp_path / "model.onnx", exporter)
    ours = mg.onnx.import_model(tmp_path / "model.onnx").to("reference")
    for rows in (2, 3):
        x = torch.randn(rows, *shape[1:])
        with torch.no_grad():
            expected = theirs(x).numpy()
        came = ours(mg.tensor(x.numpy(), device="reference")).numpy()
        np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-5)


def test_names_and_layouts_of_weights(tmp_path):
    theirs = randomize(nn.Sequential(nn.Conv2d(3, 4, (3, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)))
    exported(theirs, torch.randn(2, 3, 6, 4)[:, :, :, :4], tmp_path / "model.onnx", "older")
    state = mg.onnx.import_model(tmp_path / "model.onnx").state_dict()
    wanted = theirs.state_dict()
    assert state.keys() == wanted.keys()
    np.testing.assert_array_equal(state["0.weight"].numpy(), wanted["0.weight"].numpy().transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(state["3.weight"].numpy(), wanted["3.weight"].numpy().T)
