"""Every op, the network of section 4.1 and the optimizers beside PyTorch, on the same numbers. Skipped without PyTorch."""

import itertools

import numpy as np
import pytest
from targets import slow

import minigrad as mg

torch = pytest.importorskip("torch")
F = torch.nn.functional

DTYPES = ["float32", "float64"]
ROUNDING = {"float32": 2e-6, "float64": 1e-13}  # of one op, relative to the largest element of what is compared

TRAINED = {"float32": 1e-5, "float64": 1e-12}  # after 200 steps, of losses and parameters

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape):
    return lambda rng: rng.standard_normal(shape)


def positive(*shape):
    return lambda rng: 0.5 + rng.random(shape)


LABELS = np.random.default_rng(0).integers(0, 10, 60)

# name: (ours, PyTorch's, what makes the inputs)
OPS = {
    "add": (mg.add, torch.add, [normal(3, 1, 5), normal(4, 1)]),
    "sub": (mg.sub, torch.sub, [normal(3, 1, 5), normal(4, 1)]),
    "mul": (mg.mul, torch.mul, [normal(3, 1, 5), normal(4, 1)]),
    "div": (mg.div, torch.div, [normal(3, 1, 5), positive(4, 1)]),
    "exp": (mg.exp, torch.exp, [normal(257)]),
    "log": (mg.log, torch.log, [positive(257)]),
    "sqrt": (mg.sqrt, torch.sqrt, [positive(257)]),
    "tanh": (mg.tanh, torch.tanh, [normal(257)]),
    "sigmoid": (mg.sigmoid, torch.sigmoid, [normal(257)]),
    "relu": (mg.relu, torch.relu, [normal(257)]),
    "power": (lambda x: x**3, lambda x: x**3, [normal(257)]),
    "reshape": (lambda x: x.reshape(6, 2), lambda x: x.reshape(6, 2), [normal(3, 4)]),
    "transpose": (lambda x: x.transpose(2, 0, 1), lambda x: x.permute(2, 0, 1), [normal(3, 4, 5)]),
    "slice": (lambda x: x[1:, None, ::2], lambda x: x[1:, None, ::2], [normal(3, 4, 5)]),
    "take": (lambda x: x[[2, 0, 2]], lambda x: x[[2, 0, 2]], [normal(3, 4)]),
    "concat": (lambda *x: mg.concat(x, 1), lambda *x: torch.cat(x, 1), [normal(3, 4), normal(3, 1), normal(3, 2)]),
    "sum": (lambda x: x.sum((0, 2)), lambda x: x.sum((0, 2)), [normal(3, 4, 5)]),
    "mean": (lambda x: x.mean(1, keepdims=True), lambda x: x.mean(1, keepdim=True), [normal(3, 4, 5)]),
    "max": (lambda x: x.max(1), lambda x: x.max(1).values, [normal(3, 4, 5)]),
    "matmul": (mg.matmul, torch.matmul, [normal(17, 33), normal(33, 9)]),
    "matmul of stacks": (mg.matmul, torch.matmul, [normal(3, 1, 4, 5), normal(2, 5, 6)]),
    "matmul by a vector": (mg.matmul, torch.matmul, [normal(3, 4, 5), normal(5)]),
    "linear": (mg.linear, lambda x, w, b: F.linear(x, w.T, b), [normal(60, 33), normal(33, 9), normal(9)]),
    "softmax": (mg.softmax, lambda x: torch.softmax(x, -1), [normal(5, 17)]),
    "softmax on axis 0": (lambda x: mg.softmax(x, 0), lambda x: torch.softmax(x, 0), [normal(5, 17)]),
    "log_softmax": (mg.log_softmax, lambda x: torch.log_softmax(x, -1), [normal(5, 17)]),
    "cross_entropy": (
        lambda x: mg.cross_entropy(x, LABELS),
        lambda x: F.cross_entropy(x, torch.tensor(LABELS)),
        [normal(60, 10)],
    ),
    "batch_norm": (
        lambda x, g, b: mg.batch_norm(x, g, b, None, None, training=True),
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True),
        [normal(60, 7), positive(7), normal(7)],
    ),
    "batch_norm of images": (
        lambda x, g, b: mg.batch_norm(x, g, b, None, None, training=True),
        lambda x, g, b: F.batch_norm(x.permute(0, 3, 1, 2), None, None, g, b, training=True).permute(0, 2, 3, 1),
        [normal(2, 5, 6, 3), positive(3), normal(3)],
    ),
    "conversion": (
        lambda x: x.to("float64") * 2.0,
        lambda x: x.double() * 2.0,
        [normal(17)],
    ),
}


def assert_close(ours, theirs, bound, what=""):
    """Within `bound` of the largest element."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound * np.abs(theirs).max(initial=1e-30), err_msg=what)


@pytest.mark.parametrize("name", OPS)
@every_dtype
def test_op_and_its_gradients(name, dtype, device, rng):
    ours, theirs, makers = OPS[name]
    arrays = [make(rng).astype(dtype) for make in makers]
    xs = [mg.tensor(a, device=device, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, t = ours(*xs), theirs(*ts)
    dy = rng.standard_normal(y.shape).astype(y.dtype)
    y.backward(dy)
    t.backward(torch.tensor(dy))
    assert_close(y.numpy(), t, ROUNDING[dtype])
    for i, (x, t) in enumerate(zip(xs, ts, strict=True)):
        assert_close(x.grad.numpy(), t.grad, ROUNDING[dtype], f"gradient of input {i}")


@every_dtype
def test_batch_norm_running_statistics_and_inference(dtype, device, rng):
    mean, var = (mg.tensor(made(7, dtype), device=device) for made in (np.zeros, np.ones))
    norm = torch.nn.BatchNorm1d(7, eps=1e-3, momentum=1 - 0.9, dtype=getattr(torch, dtype))
    for _ in range(5):
        x = (2 + 3 * rng.standard_normal((60, 7))).astype(dtype)
        mg.batch_norm(mg.tensor(x, device=device), None, None, mean, var, training=True, decay=0.9, eps=1e-3)
        norm(torch.tensor(x))
    assert_close(mean.numpy(), norm.running_mean, ROUNDING[dtype])
    assert_close(var.numpy(), norm.running_var, ROUNDING[dtype])
    y = mg.batch_norm(mg.tensor(x, device=device), None, None, mean, var, training=False, eps=1e-3)
    assert_close(y.numpy(), norm.eval()(torch.tensor(x)), ROUNDING[dtype])


def twin_of(model, dtype):
    """The same network in PyTorch, with the same weights (its Linear holds them transposed)."""
    layers = []
    for layer in model:
        kind = type(layer).__name__
        if kind == "Linear":
            twin = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            with torch.no_grad():
                twin.weight.copy_(torch.tensor(layer.weight.numpy().T.copy()))
                if layer.bias is not None:
                    twin.bias.copy_(torch.tensor(layer.bias.numpy()))
        elif kind == "BatchNorm":
            twin = torch.nn.BatchNorm1d(layer.features, eps=layer.eps, momentum=1 - layer.decay)
        else:
            twin = getattr(torch.nn, kind)()
        layers.append(twin)
    return torch.nn.Sequential(*layers).to(getattr(torch, dtype))


def named_arrays(model, twin, what):
    """(name, our array, PyTorch's tensor) of every parameter, or of what `what` finds in it."""
    for i, (layer, other) in enumerate(zip(model, twin, strict=True)):
        for ours, theirs in (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias")):
            parameter = getattr(layer, ours, None)
            if parameter is not None:
                array, tensor = what(parameter), what(getattr(other, theirs))
                yield f"{i}.{ours}", array.numpy(), tensor.T if (ours, theirs) == ("weight", "weight") else tensor
        for name in ("running_mean", "running_var"):
            if hasattr(layer, name) and what is itself:
                yield f"{i}.{name}", getattr(layer, name).numpy(), getattr(other, name)


def itself(parameter):
    return parameter


def gradient(parameter):
    return parameter.grad


def batches(rng, count, inputs, classes, dtype):
    """Batches of 60 binary images that have something to learn in them."""
    prototypes = rng.random((classes, inputs))
    result = []
    for _ in range(count):
        labels = rng.integers(0, classes, 60)
        result.append(((prototypes[labels] + 0.5 * rng.standard_normal((60, inputs)) > 0.5).astype(dtype), labels))
    return result


def paper_network(dtype, device, batch_norm):
    mg.manual_seed(0)
    return mg.models.MLP(batch_norm=batch_norm, sigma=0.1).to(dtype).to(device)


@every_dtype
@pytest.mark.parametrize("batch_norm", [True, False])
def test_paper_network_forward_and_every_gradient(batch_norm, dtype, device, rng):
    model = paper_network(dtype, device, batch_norm)
    twin = twin_of(model, dtype)
    ((x, labels),) = batches(rng, 1, 784, 10, dtype)
    logits, expected = model(mg.tensor(x, device=device)), twin(torch.tensor(x))
    assert_close(logits.numpy(), expected, 10 * ROUNDING[dtype])
    mg.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected, torch.tensor(labels)).backward()
    for name, ours, theirs in named_arrays(model, twin, gradient):
        # BN before a sigmoid takes the mean out of the gradient: what is left is small beside what was added up
        assert_close(ours, theirs, 50 * ROUNDING[dtype], name)
    model.eval(), twin.eval()
    assert_close(model(mg.tensor(x, device=device)).numpy(), twin(torch.tensor(x)), 10 * ROUNDING[dtype])


def train_both(model, twin, optimizer, other, data, steps, device):
    """The losses of both, step by step."""
    losses = []
    for x, labels in itertools.islice(itertools.cycle(data), steps):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(mg.tensor(x, device=device)), labels)
        loss.backward()
        optimizer.step()
        other.zero_grad()
        expected = F.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
        expected.backward()
        other.step()
        losses.append((loss.item(), expected.item()))
    return np.array(losses).T


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.wide)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_200_steps_of_the_paper_network(batch_norm, dtype, rng):
    model = paper_network(dtype, "cpu", batch_norm)
    twin = twin_of(model, dtype)
    optimizer, other = mg.optim.SGD(model.parameters(), lr=0.5), torch.optim.SGD(twin.parameters(), lr=0.5)
    ours, theirs = train_both(model, twin, optimizer, other, batches(rng, 10, 784, 10, dtype), 200, "cpu")
    assert theirs[-1] < 0.5 * theirs[0]  # it learns, so that there is something to compare
    np.testing.assert_allclose(ours, theirs, rtol=TRAINED[dtype])
    for name, array, tensor in named_arrays(model, twin, itself):
        assert_close(array, tensor, TRAINED[dtype], name)


OPTIMIZERS = {
    "SGD": {"lr": 0.3},
    "SGD, momentum": {"lr": 0.1, "momentum": 0.9},
    "SGD, Nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "SGD, weight decay": {"lr": 0.3, "weight_decay": 0.01},
    "SGD, everything": {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    "AdaGrad": {"lr": 0.05},
    "AdaGrad, weight decay": {"lr": 0.05, "eps": 1e-6, "weight_decay": 0.01},
    "Adam": {"lr": 0.01},
    "Adam, everything": {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.01},
}


@every_dtype
@pytest.mark.parametrize(
    "name", ["SGD, momentum", "Adam", *slow(*[name for name in OPTIMIZERS if name not in ("SGD, momentum", "Adam")])]
)
def test_200_steps_of_every_optimizer(name, dtype, device, rng):
    mg.manual_seed(1)
    model = mg.models.MLP(20, (16, 12), 5, sigma=0.3).to(dtype).to(device)
    twin = twin_of(model, dtype)
    kind = name.partition(",")[0]
    theirs_kind = {"AdaGrad": "Adagrad"}.get(kind, kind)
    optimizer = getattr(mg.optim, kind)(model.parameters(), **OPTIMIZERS[name])
    other = getattr(torch.optim, theirs_kind)(twin.parameters(), **OPTIMIZERS[name])
    ours, theirs = train_both(model, twin, optimizer, other, batches(rng, 10, 20, 5, dtype), 200, device)
    assert theirs[-1] < 0.8 * theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=TRAINED[dtype])
    # dividing by the size of small gradients, AdaGrad and Adam take rounding errors for a direction
    bound = TRAINED[dtype] if kind == "SGD" else 50 * TRAINED[dtype]
    for which, array, tensor in named_arrays(model, twin, itself):
        assert_close(array, tensor, bound, which)
