import copy
import pickle
import warnings

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

KINDS = ["RNN", "LSTM", "GRU"]
each = pytest.mark.parametrize("kind", KINDS)
OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "bias": False, "batch_first": False},
    {"bidirectional": True, "batch_first": False},
]


def theirs_with_our_weights(torch, ours, kind, sizes, options):
    """PyTorch's layer with the same weights, in float64."""
    theirs = getattr(torch.nn, kind)(*sizes, **{"batch_first": True, **options}).double()
    theirs.load_state_dict(mg.interop.to_torch(ours))
    return theirs


@pytest.mark.wide
@each
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("started", [False, True])
def test_numbers_and_gradients_are_those_of_pytorch(kind, options, started, device, rng):
    torch = pytest.importorskip("torch")
    ours = getattr(nn, kind)(3, 5, **options).to("float64").to(device)
    theirs = theirs_with_our_weights(torch, ours, kind, (3, 5), options)
    x = rng.standard_normal((2, 4, 3) if options.get("batch_first", True) else (4, 2, 3))
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    states = [rng.standard_normal((layers, 2, 5)) for _ in range(2 if kind == "LSTM" else 1)]
    mine = [mg.tensor(a, device=device, requires_grad=True) for a in (x, *states)]
    other = [torch.tensor(a, requires_grad=True) for a in (x, *states)]

    def run(layer, x, *states):
        y, last = layer(x, *([states if kind == "LSTM" else states[0]] if started else []))
        return [y, *(last if kind == "LSTM" else [last])]

    results, expected = run(ours, *mine), run(theirs, *other)
    weights = [rng.standard_normal(y.shape) for y in results]
    sum((y * mg.tensor(w, device=device)).sum() for y, w in zip(results, weights, strict=True)).backward()
    sum((y * torch.tensor(w)).sum() for y, w in zip(expected, weights, strict=True)).backward()
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    for a, b in zip(mine[: 3 if started else 1], other, strict=False):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-11)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        grad = gradients[name].grad.numpy()
        np.testing.assert_allclose(parameter.grad.numpy(), grad.T, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.wide
def test_relu_is_that_of_pytorch(device, rng):
    torch = pytest.importorskip("torch")
    ours = nn.RNN(3, 5, nonlinearity="relu").to("float64").to(device)
    theirs = theirs_with_our_weights(torch, ours, "RNN", (3, 5), {"nonlinearity": "relu"})
    x = rng.standard_normal((2, 4, 3))
    y = ours(mg.tensor(x, device=device))[0]
    np.testing.assert_allclose(y.numpy(), theirs(torch.tensor(x))[0].detach().numpy(), atol=1e-12)


@pytest.mark.wide
@each
def test_a_penalty_on_gradients_is_that_of_pytorch(kind, device, rng):
    torch = pytest.importorskip("torch")
    options = {"num_layers": 2, "bidirectional": True}
    ours = getattr(nn, kind)(3, 5, **options).to("float64").to(device)
    theirs = theirs_with_our_weights(torch, ours, kind, (3, 5), options)
    array = rng.standard_normal((2, 4, 3))
    x, other = mg.tensor(array, device=device, requires_grad=True), torch.tensor(array, requires_grad=True)
    (dx,) = mg.grad(mg.tanh(ours(x)[0]).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(torch.tanh(theirs(other)[0]).sum(), other, create_graph=True)
    np.testing.assert_allclose(dx.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    ((dx * dx).sum() - 1.0).backward()
    ((expected * expected).sum() - 1.0).backward()
    np.testing.assert_allclose(x.grad.numpy(), other.grad.numpy(), rtol=1e-9, atol=1e-11)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        grad = gradients[name].grad.numpy()
        np.testing.assert_allclose(parameter.grad.numpy(), grad.T, rtol=1e-9, atol=1e-11, err_msg=name)


@each
def test_weights_from_pytorch_and_back(kind):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, kind)(3, 5, num_layers=2, bidirectional=True)
    ours = mg.interop.from_torch(getattr(nn, kind)(3, 5, 2, bidirectional=True), theirs)
    back = mg.interop.to_torch(ours)
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())


@each
def test_parameters(kind):
    mg.manual_seed(3)
    layer = getattr(nn, kind)(3, 16)
    columns = {"RNN": 16, "LSTM": 64, "GRU": 48}[kind]
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert shapes == {
        "weight_ih_l0": (3, columns),
        "weight_hh_l0": (16, columns),
        "bias_ih_l0": (columns,),
        "bias_hh_l0": (columns,),
    }
    for p in layer.parameters():
        assert np.abs(p.numpy()).max() <= 0.25
        assert p.numpy().std() > 0.1


@each
def test_a_sequence_in_two_halves(kind, device, rng):
    layer = getattr(nn, kind)(3, 5, 2).to(device)
    x = mg.tensor(rng.standard_normal((2, 6, 3)), dtype="float32", device=device)
    whole, last = layer(x)
    first, state = layer(x[:, :4])
    second, end = layer(x[:, 4:], state)
    np.testing.assert_allclose(mg.concat([first, second], axis=1).numpy(), whole.numpy(), atol=1e-6)
    for a, b in zip((last, end)[0] if kind == "LSTM" else [last], end if kind == "LSTM" else [end], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


def test_dropout_acts_between_layers_in_training(rng):
    mg.manual_seed(0)
    layer = nn.GRU(3, 40, 2, dropout=0.5)
    x = mg.tensor(rng.standard_normal((2, 3, 3)), dtype="float32")
    first, second = layer(x)[0].numpy(), layer(x)[0].numpy()
    assert not np.array_equal(first, second)
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    with pytest.warns(UserWarning, match="acts between layers, and there is one"):
        assert nn.GRU(3, 4, dropout=0.5).dropout is None


@each
def test_copies_and_captured_training(kind, rng):
    mg.manual_seed(1)
    layer = getattr(nn, kind)(3, 5)
    x, target = (rng.standard_normal(s).astype(np.float32) for s in ((4, 6, 3), (4, 6, 5)))
    losses = []
    for model, captured in ((copy.deepcopy(layer), False), (pickle.loads(pickle.dumps(layer)), True)):
        optimizer = mg.optim.SGD(model.parameters(), lr=0.5)

        def step(x, target, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = mg.mse_loss(model(x)[0], target)
            loss.backward()
            optimizer.step()
            return loss

        run = mg.capture(step) if captured else lambda x, target, step=step: step(mg.tensor(x), mg.tensor(target))
        losses.append([run(x, target).item() for _ in range(10)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: nn.LSTM(0, 4), ValueError, "input_size must be at least 1"),
        (lambda x: nn.GRU(3, 4.0), TypeError, "hidden_size must be an integer"),
        (lambda x: nn.LSTM(3, 4, 0), ValueError, "num_layers must be at least 1"),
        (lambda x: nn.LSTM(3, 4, 2, dropout=1.5), ValueError, "dropout must be from 0"),
        (lambda x: nn.RNN(3, 4, nonlinearity="elu"), ValueError, "nonlinearity must be"),
        (lambda x: nn.LSTM(5, 4)(x), ValueError, r"needs x \(N, steps, 5\), not shape \(2, 6, 3\)"),
        (lambda x: nn.LSTM(3, 4)(x, x), TypeError, r"a state is a pair of Tensors \(h, c\) or None, not Tensor"),
        (lambda x: nn.GRU(3, 4)(x, (x, x)), TypeError, "a state is a Tensor or None, not tuple"),
        (lambda x: nn.GRU(3, 4)(x, x), ValueError, r"the state h must be \(1, N, 4\), not \(2, 6, 3\)"),
        (lambda x: nn.GRU(3, 4)(x[0]), ValueError, r"needs x \(N, steps, 3\), not shape \(6, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(use, error, message):
    with warnings.catch_warnings(), pytest.raises(error, match=message):
        use(mg.tensor(np.ones((2, 6, 3), np.float32)))


def test_repr():
    assert repr(nn.LSTM(3, 4)) == "LSTM(3, 4)"
    assert (
        repr(nn.RNN(3, 4, 2, nonlinearity="relu", bias=False))
        == "RNN(3, 4, num_layers=2, bias=False, nonlinearity='relu')"
    )
    full = nn.GRU(3, 4, 2, batch_first=False, dropout=0.1, bidirectional=True)
    assert repr(full) == "GRU(3, 4, num_layers=2, batch_first=False, dropout=0.1, bidirectional=True)"
