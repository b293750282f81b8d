"""Weights from PyTorch and back: parameters of one's own, tied ones, float64, a GPU, padding="same", networks of full size."""

import numpy as np
import pytest

import minigrad as mg

torch = pytest.importorskip("torch")

from torch_twins import OurResNet18, ResNet18, Same, logits, our_logits, randomize  # noqa: E402

nn = torch.nn


def images(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def images_of(module, x):
    """What a torch module makes of images, with the channels last."""
    return logits(module, x).transpose(0, 2, 3, 1)


def assert_round_trip(model, theirs, **options):
    back = mg.interop.to_torch(model, num_batches_tracked=7, **options)
    for name, value in theirs.state_dict().items():
        assert back[name].dtype == value.dtype, name
        assert torch.equal(back[name], value), name
    assert len(back) == len(theirs.state_dict())


class Mixed(nn.Module):
    """Weights that no layer of minigrad has: a product by hand, and one number for each pair of channels."""

    def __init__(self):
        super().__init__()
        self.mix, self.pairs = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(2, 3, 5))

    def forward(self, x):
        return torch.einsum("no,abo->nab", x @ self.mix.T, self.pairs)


class OurMixed(mg.nn.Module):
    def __init__(self):
        self.mix = mg.nn.Parameter(np.zeros((4, 5), np.float32))
        self.pairs = mg.nn.Parameter(np.zeros((5, 2, 3), np.float32))

    def forward(self, x):
        return (x @ self.mix @ self.pairs.reshape(5, 6)).reshape(x.shape[0], 2, 3)


AXES = {"mix": (1, 0), "pairs": (2, 0, 1)}


def test_axes_of_parameters_of_ones_own(rng):
    theirs, model, x = Mixed(), OurMixed().to("reference"), images(rng, 3, 4)
    mg.interop.from_torch(model, theirs.state_dict(), axes=AXES)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(our_logits(model, x), expected, rtol=1e-5, atol=1e-5)
    assert_round_trip(model, theirs, axes=AXES)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (None, r"mix \(4, 5\) belongs to a OurMixed, of which it is not known how PyTorch lays it out; pass axes="),
        ({"mix": (1, 0)}, r"pairs \(5, 2, 3\) belongs to"),
        ({**AXES, "mix": (0, 0)}, "mix .* belongs to"),
        ({**AXES, "mix": (0, 1)}, r"mix: shape \(5, 4\), expected \(4, 5\)"),
        ({**AXES, "mis": (0, 1)}, "axes names mis, and the model has no other parameters of these names"),
    ],
)
def test_axes_that_are_missing_or_wrong(axes, message):
    model = OurMixed()
    with pytest.raises(ValueError, match=message):
        mg.interop.from_torch(model, Mixed().state_dict(), axes=axes)
    assert not model.mix.numpy().any()


def tied():
    """A Linear that is used twice, under two names, on both sides."""
    theirs = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    theirs[2] = theirs[0]
    layer = mg.nn.Linear(4, 4)
    return randomize(theirs), mg.nn.Sequential(layer, mg.nn.Tanh(), layer).to("reference")


def test_tied_weights(rng):
    theirs, model = tied()
    x = images(rng, 3, 4)
    mg.interop.from_torch(model, theirs)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(our_logits(model, x), expected, rtol=1e-5, atol=1e-5)
    assert_round_trip(model, theirs)


def test_tied_weights_that_came_once(rng):
    theirs, model = tied()
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("2.")}
    mg.interop.from_torch(model, state)
    assert torch.equal(torch.from_numpy(model[2].weight.numpy().T), state["0.weight"])


def test_tied_weights_that_differ_are_refused():
    _, model = tied()
    state = {**nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).state_dict()}
    before = model[0].weight.numpy().copy()
    with pytest.raises(ValueError, match=r"0.weight and 2.weight differ, which are one tensor here, 0.weight"):
        mg.interop.from_torch(model, state)
    np.testing.assert_array_equal(model[0].weight.numpy(), before)


def convolutions():
    """Both sides, with a BatchNorm, a Flatten and a BatchNorm of gamma alone."""
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 6, 5), nn.BatchNorm1d(5)
    )  # fmt: skip
    ours = mg.nn.Sequential(
        mg.nn.Conv2d(3, 4, 3, padding=1), mg.nn.BatchNorm(4), mg.nn.ReLU(), mg.nn.Flatten(), mg.nn.Linear(4 * 4 * 6, 5),
        mg.nn.BatchNorm(5, beta=False),
    )  # fmt: skip
    randomize(theirs)
    theirs[5].bias.data.zero_()
    return theirs, ours


def test_float64(rng):
    theirs, model = convolutions()
    theirs, model = theirs.double(), model.to("reference").to("float64")
    x = images(rng, 2, 4, 6, 3, dtype=np.float64)
    mg.interop.from_torch(model, theirs, example=x)
    np.testing.assert_allclose(our_logits(model, x), logits(theirs, x), rtol=1e-12, atol=1e-12)
    assert_round_trip(model, theirs, example=x)


def test_float64_is_not_rounded_in_silence(rng):
    theirs, model = convolutions()
    with pytest.raises(
        ValueError, match=r"0.weight: dtype float64, expected float32; convert the model by .to\('float64'\)"
    ):
        mg.interop.from_torch(model.to("reference"), theirs.double(), example=images(rng, 2, 4, 6, 3))


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU as the device "cuda"."""
    pytest.importorskip("greenlet")
    pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)
    from minigrad.devices.cuda import CudaDevice
    from minigrad.devices.registry import DEVICES
    from minigrad.kernels.cuda.tools.launch import context
    from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver

    for name in ("driver", "stream", "empty", "tables", "matmul_precision"):
        monkeypatch.setattr(context, name, getattr(context, name))
    context.tables = {}
    device = CudaDevice(SimulatedDriver(memory=1 << 24))
    monkeypatch.setitem(DEVICES, "cuda", device)
    return device


def test_weights_of_a_model_on_a_gpu(gpu, rng):
    theirs, model = convolutions()
    x = images(rng, 1, 4, 6, 3)
    model.to("cuda")
    mg.interop.from_torch(model, theirs, example=x)
    assert {t.device for t in model.parameters()} == {"cuda"}
    np.testing.assert_allclose(our_logits(model, x), logits(theirs, x), rtol=1e-5, atol=1e-5)
    assert_round_trip(model, theirs, example=x)


@pytest.mark.parametrize(
    ("size", "dilation", "ours", "there"),
    [
        (3, 1, "same", "same"),
        (3, 2, "same", "same"),
        ((2, 5), 2, "same", "same"),
        (4, 2, ((3, 3), (3, 3)), "same"),
        (3, 2, "same", 2),
        ((2, 5), 2, ((1, 1), (4, 4)), "same"),
    ],
)
def test_padding_same_is_that_of_pytorch(size, dilation, ours, there, rng):
    theirs = randomize(nn.Sequential(nn.Conv2d(3, 4, size, dilation=dilation, padding=there)))
    model = mg.nn.Sequential(mg.nn.Conv2d(3, 4, size, dilation=dilation, padding=ours)).to("reference")
    mg.interop.from_torch(model, theirs)
    x = images(rng, 2, 7, 6, 3)
    np.testing.assert_allclose(our_logits(model, x), images_of(theirs, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(6, 6, 6), (3, 6, 3), (4, 6, 2)])
def test_groups(inputs, outputs, groups, rng):
    theirs = randomize(nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)))
    model = mg.nn.Sequential(mg.nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)).to("reference")
    x = images(rng, 2, 7, 6, inputs)
    mg.interop.from_torch(model, theirs)
    np.testing.assert_allclose(our_logits(model, x), images_of(theirs, x), rtol=1e-5, atol=1e-5)
    back = randomize(nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)))
    back.load_state_dict(mg.interop.to_torch(model))
    np.testing.assert_allclose(our_logits(model, x), images_of(back, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolution(groups, rng):
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": groups}
    theirs = randomize(nn.Sequential(nn.ConvTranspose2d(4, 8, 3, **options)))
    model = mg.nn.Sequential(mg.nn.ConvTranspose2d(4, 8, 3, **options)).to("reference")
    x = images(rng, 2, 4, 5, 4)
    mg.interop.from_torch(model, theirs)
    np.testing.assert_allclose(our_logits(model, x), images_of(theirs, x), rtol=1e-5, atol=1e-5)
    assert_round_trip(model, theirs)


def test_convolution_of_sequences(rng):
    theirs = randomize(nn.Sequential(nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2)))
    model = mg.nn.Sequential(mg.nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2)).to("reference")
    x = images(rng, 2, 9, 4)
    mg.interop.from_torch(model, theirs)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x).permute(0, 2, 1)).permute(0, 2, 1).numpy()
    np.testing.assert_allclose(our_logits(model, x), expected, rtol=1e-5, atol=1e-5)
    assert_round_trip(model, theirs)


def test_other_settings_are_a_misfit():
    theirs = nn.Sequential(nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1), nn.Conv1d(8, 6, 3, padding=1))
    model = mg.nn.Sequential(mg.nn.ConvTranspose2d(4, 8, 3, stride=2), mg.nn.Conv1d(8, 6, 3, padding=(2, 0)))
    with pytest.raises(ValueError, match="nothing was changed") as raised:
        mg.interop.from_torch(model, theirs)
    assert "0: output_padding (0, 0) here, (1, 1) in PyTorch" in str(raised.value)
    assert "1: padding ((2, 0),) here, ((1, 1),) in PyTorch" in str(raised.value)


def test_other_groups_are_a_misfit():
    theirs = nn.Sequential(nn.Conv2d(4, 8, 1, groups=2))
    model = mg.nn.Sequential(mg.nn.Conv2d(2, 8, 1))  # a weight of the same shape
    with pytest.raises(ValueError, match="0: groups 1 here, 2 in PyTorch"):
        mg.interop.from_torch(model, theirs)


@pytest.mark.parametrize("stride", [1, 2, 3])  # 1: an odd pixel of padding, which both put at the end
def test_padding_same_with_a_stride_is_padding_by_hand_in_pytorch(stride, rng):
    inner = randomize(nn.Sequential(nn.Conv2d(3, 4, 4, stride=stride)))
    model = mg.nn.Sequential(mg.nn.Conv2d(3, 4, 4, stride=stride, padding="same")).to("reference")
    mg.interop.from_torch(model, inner.state_dict())
    for height in (5, 6, 7):
        x = images(rng, 2, height, 8, 3)
        np.testing.assert_allclose(our_logits(model, x), images_of(Same(inner, 4, stride), x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_resnet18_at_full_width(rng):
    x = images(rng, 1, 224, 224, 3)
    theirs, model = randomize(ResNet18()), OurResNet18()
    mg.interop.from_torch(model, theirs, example=x)
    np.testing.assert_allclose(our_logits(model, x), logits(theirs, x), rtol=0, atol=1e-5)
    assert_round_trip(model, theirs, example=x)
