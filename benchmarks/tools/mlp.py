"""One training step of the network of Ioffe & Szegedy 2015, section 4.1, as users of each framework would write it.

784 binary pixels, three hidden layers of 100 sigmoid units with Batch Normalization (Linear without bias, BN, sigmoid) or
without, 10 classes, mean cross-entropy, plain SGD. All start from the same parameters, keep running statistics with a
decay of 0.9 and the unbiased variance, and take their batch as NumPy arrays: what it costs to hand those over is part
of the step.

A contender is a function of the initial parameters that returns a `Contender`. Parameters are a dict of float32 arrays:
w0 to w3 (in, out); b0 to b2 or gamma0 to gamma2 and beta0 to beta2; b3. Running statistics are mean0 to var2.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tools import training
from benchmarks.tools.frameworks import Torch, no_collection

WIDTHS = (784, 100, 100, 100, 10)
HIDDEN = range(len(WIDTHS) - 2)
LAST = len(WIDTHS) - 2
BATCH = 60
LEARNING_RATE = 0.1
SIGMA = 0.05  # of the initial weights
DECAY = 0.9
EPS = 1e-5
INK = 0.13  # share of ones in the input, as in binary MNIST

Parameters = dict[str, np.ndarray]


class Contender(NamedTuple):
    """A network in training."""

    step: Callable[[Any, Any], Any]  # train on (60, 784) float32 and (60,) int64; what comes holds the loss
    loss: Callable[[Any], float]  # the loss as a number: waits until the step is done
    state: Callable[[], Parameters]  # parameters and running statistics


def initial_parameters(batch_norm: bool) -> Parameters:
    """The same for every contender."""
    rng = np.random.default_rng(0)
    parameters = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        parameters[f"w{i}"] = SIGMA * rng.standard_normal((inputs, outputs), np.float32)
        if batch_norm and i != LAST:
            parameters[f"gamma{i}"] = np.ones(outputs, np.float32)
            parameters[f"beta{i}"] = np.zeros(outputs, np.float32)
        else:
            parameters[f"b{i}"] = np.zeros(outputs, np.float32)
    return parameters


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Different batches of binary images and labels at random; the work does not depend on what they show."""
    rng = np.random.default_rng(1)
    return [
        ((rng.random((BATCH, WIDTHS[0])) < INK).astype(np.float32), rng.integers(0, WIDTHS[-1], BATCH))
        for _ in range(count)
    ]


def minigrad_model(parameters: Parameters, device: str) -> Any:
    """The model, its optimizer, and a function that gives its state."""
    import minigrad as mg

    model = mg.models.MLP(WIDTHS[0], WIDTHS[1:-1], WIDTHS[-1], batch_norm="gamma0" in parameters)
    linears = [layer for layer in model if isinstance(layer, mg.nn.Linear)]
    norms = [layer for layer in model if isinstance(layer, mg.nn.BatchNorm)]
    tensors = {f"w{i}": layer.weight for i, layer in enumerate(linears)}
    tensors |= {f"b{i}": layer.bias for i, layer in enumerate(linears) if layer.bias is not None}
    for i, layer in enumerate(norms):
        tensors |= {f"gamma{i}": layer.gamma, f"beta{i}": layer.beta}
    for name, value in parameters.items():
        tensors[name].data = value.copy()
    for i, layer in enumerate(norms):
        tensors |= {f"mean{i}": layer.running_mean, f"var{i}": layer.running_var}
    model.to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    return model, optimizer, lambda: {name: t.numpy().copy() for name, t in tensors.items()}


def minigrad_eager(parameters: Parameters, device: str = "cpu", *, captured: bool = False) -> Contender:
    """minigrad as it runs line by line."""
    model, optimizer, state = minigrad_model(parameters, device)
    step = training.minigrad_step(model, optimizer, device, captured=captured)
    return Contender(step, lambda loss: loss.item(), state)


minigrad_captured = functools.partial(minigrad_eager, captured=True)  # with the step recorded and replayed


def torch_model(parameters: Parameters, device: str) -> Any:
    """The model, its optimizer, and a function that gives its state."""
    import torch
    from torch import nn

    batch_norm = "gamma0" in parameters
    layers, tensors = [], {}
    for i in range(LAST + 1):
        with_norm = batch_norm and i != LAST
        linear = nn.Linear(WIDTHS[i], WIDTHS[i + 1], bias=not with_norm, device=device)
        layers.append(linear)
        tensors[f"w{i}"] = linear.weight
        if with_norm:
            norm = nn.BatchNorm1d(WIDTHS[i + 1], eps=EPS, momentum=1 - DECAY, device=device)
            layers.append(norm)
            tensors |= {f"gamma{i}": norm.weight, f"beta{i}": norm.bias}
            tensors |= {f"mean{i}": norm.running_mean, f"var{i}": norm.running_var}
        else:
            tensors[f"b{i}"] = linear.bias
        if i != LAST:
            layers.append(nn.Sigmoid())
    with torch.no_grad():
        for name, value in parameters.items():
            tensors[name].copy_(torch.from_numpy(value.T.copy()))
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    return model, optimizer, lambda: {name: t.detach().cpu().numpy().T.copy() for name, t in tensors.items()}


def torch_step(parameters: Parameters, device: str = "cpu", *, compiled: bool = False) -> Contender:
    """PyTorch as it runs line by line, or with forward and backward compiled together."""
    model, optimizer, state = torch_model(parameters, device)
    step = training.torch_step(model, optimizer, device, compiled=compiled)
    return Contender(step, lambda loss: loss.item(), state)


def torch_graphed(parameters: Parameters, device: str) -> Contender:
    """PyTorch with the whole step in a CUDA graph, as its documentation shows it."""
    import torch

    model, optimizer, state = torch_model(parameters, device)
    x = torch.zeros((BATCH, WIDTHS[0]), device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def train() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    tensors = [*model.parameters(), *model.buffers()]
    before = [t.detach().clone() for t in tensors]
    Torch(device=device).aside(lambda: [train() for _ in range(3)])
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with no_collection(), torch.cuda.graph(graph):
        loss = train()

    def step(images: Any, targets: Any) -> Any:
        x.copy_(training.on_device(images, device))
        labels.copy_(training.on_device(targets, device))
        graph.replay()
        return loss

    return Contender(step, lambda loss: loss.item(), state)


def jax_jit(parameters: Parameters) -> Contender:
    """JAX: the whole step one compiled function, which may overwrite the parameters it is given."""
    import jax
    import jax.numpy as jnp

    batch_norm = "gamma0" in parameters
    weights = {name: jnp.asarray(value) for name, value in parameters.items()}
    running = {}
    if batch_norm:
        for i in HIDDEN:
            running |= {f"mean{i}": jnp.zeros(WIDTHS[i + 1]), f"var{i}": jnp.ones(WIDTHS[i + 1])}

    def mean_loss(weights: Any, running: Any, x: Any, labels: Any) -> Any:
        following = {}
        for i in HIDDEN:
            x = x @ weights[f"w{i}"]
            if batch_norm:
                mean, var = x.mean(axis=0), x.var(axis=0)
                x = (x - mean) * jax.lax.rsqrt(var + EPS) * weights[f"gamma{i}"] + weights[f"beta{i}"]
                unbiased = var * (BATCH / (BATCH - 1))
                following[f"mean{i}"] = DECAY * running[f"mean{i}"] + (1 - DECAY) * mean
                following[f"var{i}"] = DECAY * running[f"var{i}"] + (1 - DECAY) * unbiased
            else:
                x = x + weights[f"b{i}"]
            x = jax.nn.sigmoid(x)
        log_probs = jax.nn.log_softmax(x @ weights[f"w{LAST}"] + weights[f"b{LAST}"])
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean(), following

    def train(weights: Any, running: Any, x: Any, labels: Any) -> Any:
        (loss, running), grads = jax.value_and_grad(mean_loss, has_aux=True)(weights, running, x, labels)
        return jax.tree.map(lambda w, g: w - LEARNING_RATE * g, weights, grads), running, loss

    compiled = jax.jit(train, donate_argnums=(0, 1))

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        nonlocal weights, running
        weights, running, loss = compiled(weights, running, x, labels)
        return loss

    return Contender(step, float, lambda: {name: np.array(v) for name, v in (weights | running).items()})


def numpy_by_hand(parameters: Parameters, dtype: Any = np.float32) -> Contender:
    """The formulas written down in NumPy, backward too, without a framework."""
    batch_norm = "gamma0" in parameters
    p = {name: value.astype(dtype) for name, value in parameters.items()}
    running = {}
    if batch_norm:
        for i in HIDDEN:
            running |= {f"mean{i}": np.zeros(WIDTHS[i + 1], dtype), f"var{i}": np.ones(WIDTHS[i + 1], dtype)}

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        rows = np.arange(len(x))
        inputs, saved, y = [], [], x
        for i in HIDDEN:
            inputs.append(y)
            z = y @ p[f"w{i}"]
            if batch_norm:
                mean = z.mean(axis=0)
                centred = z - mean
                var = (centred * centred).mean(axis=0)
                scale = 1 / np.sqrt(var + EPS)
                normal = centred * scale
                z = normal * p[f"gamma{i}"] + p[f"beta{i}"]
                running[f"mean{i}"] += (1 - DECAY) * (mean - running[f"mean{i}"])
                running[f"var{i}"] += (1 - DECAY) * (var * (len(x) / (len(x) - 1)) - running[f"var{i}"])
                saved.append((normal, scale))
            else:
                z += p[f"b{i}"]
            y = 1 / (1 + np.exp(-z))
        inputs.append(y)
        logits = y @ p[f"w{LAST}"] + p[f"b{LAST}"]
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        loss = -np.log(probs[rows, labels]).mean()

        grads = {}
        probs[rows, labels] -= 1
        dz = probs / len(x)
        for i in reversed(range(LAST + 1)):
            y = inputs[i]
            if f"b{i}" in p:
                grads[f"b{i}"] = dz.sum(axis=0)
            grads[f"w{i}"] = y.T @ dz
            if i == 0:
                break
            dz = (dz @ p[f"w{i}"].T) * y * (1 - y)
            if batch_norm:
                normal, scale = saved[i - 1]
                dbeta, dgamma = dz.sum(axis=0), (dz * normal).sum(axis=0)
                dz = p[f"gamma{i - 1}"] * scale * (dz - (dbeta + normal * dgamma) / len(x))
                grads |= {f"beta{i - 1}": dbeta, f"gamma{i - 1}": dgamma}
        for name, grad in grads.items():
            p[name] -= LEARNING_RATE * grad
        return loss

    return Contender(step, float, lambda: {name: value.copy() for name, value in (p | running).items()})


CONTENDERS: dict[str, Callable[[Parameters, str], Contender]] = {
    "minigrad captured": minigrad_captured,
    "minigrad eager": minigrad_eager,
    "PyTorch eager": torch_step,
    "PyTorch torch.compile": lambda parameters, device: torch_step(parameters, device, compiled=True),
    "PyTorch CUDA graph": torch_graphed,
    "JAX jit": lambda parameters, device: jax_jit(parameters),
    "NumPy by hand": lambda parameters, device: numpy_by_hand(parameters),
}


def largest_difference(state: Parameters, expected: Parameters) -> float:
    """The largest difference of any parameter or running statistic; infinite if names or shapes differ or one is NaN."""
    if state.keys() != expected.keys() or any(state[name].shape != expected[name].shape for name in state):
        return math.inf
    worst = max(float(np.max(np.abs(state[name] - expected[name]))) for name in state)
    return math.inf if math.isnan(worst) else worst
