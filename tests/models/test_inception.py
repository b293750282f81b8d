"""Both Inceptions: their parameters, the shapes of their modules, and a step of training."""

import numpy as np
import pytest

import minigrad as mg


def parameters(model):
    return sum(p.size for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "count"),
    [({"batch_norm": False}, 5_813_114), ({"gamma": False}, 5_820_074), ({}, 5_827_034)],
    ids=["without BN", "BN of beta only", "BN"],
)
def test_number_of_parameters_at_full_width(options, count):
    assert parameters(mg.models.Inception(**options)) == count


SHAPES = {
    "3a": (4, 4, 256),
    "3b": (4, 4, 480),
    "pool3": (2, 2, 480),
    "4a": (2, 2, 512),
    "4b": (2, 2, 512),
    "4c": (2, 2, 512),
    "4d": (2, 2, 528),
    "4e": (2, 2, 832),
    "pool4": (1, 1, 832),
    "5a": (1, 1, 832),
    "5b": (1, 1, 1024),
    "average": (1024,),
    "dense": (10,),
}


def test_shapes_of_modules_at_full_width():
    model = mg.models.Inception().to("reference")
    x = mg.tensor(np.zeros((2, 4, 4, 3), np.float32), device="reference")
    found = {}
    for name, layer in model.children():
        x = layer(x)
        found[name] = x.shape[1:]
    assert found == SHAPES


def test_width_is_rounded_down_and_at_least_8():
    branches = mg.models.Inception(width=0.25).layers[0].branches
    assert [b.layers[-3].weight.shape[3] for b in branches] == [16, 32, 8, 8]


def test_activation_and_dropout():
    model = mg.models.Inception(width=0.01, activation="sigmoid", dropout=0.4)
    kinds = [type(m).__name__ for _, m in model.modules()]
    assert kinds.count("Sigmoid") == 54
    assert kinds.count("Dropout") == 1
    with pytest.raises(ValueError, match="activation must be one of relu, sigmoid, tanh, not 'gelu'"):
        mg.models.Inception(activation="gelu")
    with pytest.raises(ValueError, match="width must be above 0"):
        mg.models.Inception(width=0)


def torch_twin(torch, model):
    """The same Inception in PyTorch, in float64 or float32, with the same weights."""

    def twin(layer):
        if isinstance(layer, mg.nn.Conv2d):
            kh, kw, c, k = layer.weight.shape
            other = torch.nn.Conv2d(c, k, (kh, kw), padding="same", bias=False)
            other.weight.data = torch.tensor(layer.weight.numpy().transpose(3, 2, 0, 1).copy())
        elif isinstance(layer, mg.nn.BatchNorm):
            other = torch.nn.BatchNorm2d(layer.features, eps=layer.eps, momentum=1 - layer.decay, dtype=torch.float64)
        elif isinstance(layer, mg.nn.ReLU):
            other = torch.nn.ReLU()
        elif isinstance(layer, mg.nn.MaxPool2d):
            stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
            pad = 1 if stride == 1 else 0
            other = torch.nn.Sequential(
                torch.nn.ZeroPad2d(0 if pad else (0, 1, 0, 1)), torch.nn.MaxPool2d(3, stride, padding=pad)
            )
        elif isinstance(layer, mg.nn.Linear):
            other = torch.nn.Linear(*layer.weight.shape)
            other.weight.data = torch.tensor(layer.weight.numpy().T.copy())
            other.bias.data = torch.tensor(layer.bias.numpy())
        elif isinstance(layer, mg.nn.GlobalAvgPool):
            other = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        elif isinstance(layer, mg.nn.Concat):
            other = Concat([twin(b) for b in layer.branches])
        else:
            other = torch.nn.Sequential(*[twin(part) for part in layer.layers])
        return other

    class Concat(torch.nn.Module):
        def __init__(self, branches):
            super().__init__()
            self.branches = torch.nn.ModuleList(branches)

        def forward(self, x):
            return torch.cat([b(x) for b in self.branches], dim=1)

    return twin(model).double()


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [True, False])
def test_twenty_steps_against_torch(batch_norm, rng):
    torch = pytest.importorskip("torch")
    mg.manual_seed(1)
    # images are not negative after the first ReLU, so that zeros at a pool's edge never win over the image
    model = mg.models.Inception(width=0.05, batch_norm=batch_norm).to("float64")
    other = torch_twin(torch, model)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    theirs = torch.optim.SGD(other.parameters(), lr=0.01, momentum=0.9)
    for _ in range(20):
        images, labels = rng.random((6, 8, 8, 3)), rng.integers(0, 10, 6)
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(mg.tensor(images)), labels)
        loss.backward()
        optimizer.step()
        theirs.zero_grad()
        expected = torch.nn.functional.cross_entropy(
            other(torch.tensor(images).permute(0, 3, 1, 2)), torch.tensor(labels)
        )
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    for ours, t in pairs:
        value = t.detach().numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        np.testing.assert_allclose(ours.numpy(), value, rtol=1e-7, atol=1e-9)


BN_SHAPES = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "reduce2": (56, 56, 64),
    "conv2": (56, 56, 192),
    "pool2": (28, 28, 192),
    "3a": (28, 28, 256),
    "3b": (28, 28, 320),
    "3c": (14, 14, 576),
    "4a": (14, 14, 576),
    "4b": (14, 14, 576),
    "4c": (14, 14, 576),
    "4d": (14, 14, 576),
    "4e": (7, 7, 1024),
    "5a": (7, 7, 1024),
    "5b": (7, 7, 1024),
    "average": (1024,),
    "dense": (1000,),
}


def outputs(model, x):
    """(the model's result, {name of a layer: shape of its result without the images})."""
    shapes = {}
    for name, layer in model.children():
        x = layer(x)
        shapes[name] = x.shape[1:]
    return x, shapes


@pytest.mark.slow
def test_bn_inception_shapes(rng):
    model = mg.models.BNInception()
    with mg.no_grad():
        _, shapes = outputs(model, mg.tensor(rng.random((1, 224, 224, 3), np.float32)))
    assert {name: shapes[name] for name in BN_SHAPES} == BN_SHAPES


@pytest.mark.slow
def test_bn_inception_takes_a_step(rng):
    mg.manual_seed(0)
    model = mg.models.BNInception()
    h, shapes = outputs(model, mg.tensor(rng.random((2, 224, 224, 3), np.float32)))
    assert {name: shapes[name] for name in BN_SHAPES} == BN_SHAPES
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1)
    before = model.layers[0].weight.numpy().copy()
    loss = mg.cross_entropy(h, np.array([1, 2]))
    loss.backward()
    optimizer.step()
    assert np.isfinite(loss.item())
    assert np.abs(model.layers[0].weight.numpy() - before).max() > 0


def test_bn_inception_parameters():
    model = mg.models.BNInception()
    weights = {name: sum(p.size for p in layer.parameters() if p.ndim == 4) for name, layer in model.children()}
    by_hand = {
        "3a": 192 * 64 + 192 * 64 + 9 * 64 * 64 + 192 * 64 + 9 * 64 * 96 + 9 * 96 * 96 + 192 * 32,
        "3b": 256 * 64 + 256 * 64 + 9 * 64 * 96 + 256 * 64 + 9 * 64 * 96 + 9 * 96 * 96 + 256 * 64,
        "3c": 320 * 128 + 9 * 128 * 160 + 320 * 64 + 9 * 64 * 96 + 9 * 96 * 96,
        "4a": 576 * 224 + 576 * 64 + 9 * 64 * 96 + 576 * 96 + 9 * 96 * 128 + 9 * 128 * 128 + 576 * 128,
        "4b": 576 * 192 + 576 * 96 + 9 * 96 * 128 + 576 * 96 + 9 * 96 * 128 + 9 * 128 * 128 + 576 * 128,
        "4c": 576 * 160 + 576 * 128 + 9 * 128 * 160 + 576 * 128 + 9 * 128 * 160 + 9 * 160 * 160 + 576 * 96,
        "4d": 576 * 96 + 576 * 128 + 9 * 128 * 192 + 576 * 160 + 9 * 160 * 192 + 9 * 192 * 192 + 576 * 96,
        "4e": 576 * 128 + 9 * 128 * 192 + 576 * 192 + 9 * 192 * 256 + 9 * 256 * 256,
        "5a": 1024 * 352 + 1024 * 192 + 9 * 192 * 320 + 1024 * 160 + 9 * 160 * 224 + 9 * 224 * 224 + 1024 * 128,
        "5b": 1024 * 352 + 1024 * 192 + 9 * 192 * 320 + 1024 * 192 + 9 * 192 * 224 + 9 * 224 * 224 + 1024 * 128,
    }
    assert {name: weights[name] for name in by_hand} == by_hand
    assert parameters(model.layers[-1]) == 1024 * 1000 + 1000
