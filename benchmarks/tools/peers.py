"""The training step of the MNIST network in further frameworks, as their users would write it; see tools/mlp.py.

MLX on its CPU backend, the step compiled by `mx.compile`; tinygrad on its CPU backend, which needs clang, under `TinyJit`;
MyGrad, whose arrays are NumPy's, line by line. All are pinned to as many cores as there are threads; only BLAS, where they use
it, is told the number by the environment.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tools import mlp
from benchmarks.tools.mlp import Contender, Parameters


def initial_statistics(parameters: Parameters) -> Parameters:
    """Running means and variances before the first step."""
    if "gamma0" not in parameters:
        return {}
    means = {f"mean{i}": np.zeros(mlp.WIDTHS[i + 1], np.float32) for i in mlp.HIDDEN}
    return means | {f"var{i}": np.ones(mlp.WIDTHS[i + 1], np.float32) for i in mlp.HIDDEN}


def unbiased() -> float:
    """What a biased variance of a batch is multiplied by."""
    return mlp.BATCH / (mlp.BATCH - 1)


def mlx_compiled(parameters: Parameters) -> Contender:
    """MLX: the whole step one compiled function."""
    import mlx.core as mx
    from mlx.nn.losses import cross_entropy

    mx.set_default_device(mx.cpu)
    batch_norm = "gamma0" in parameters
    weights = {name: mx.array(value) for name, value in parameters.items()}
    running = {name: mx.array(value) for name, value in initial_statistics(parameters).items()}

    def mean_loss(weights: Any, running: Any, x: Any, labels: Any) -> Any:
        following = {}
        for i in mlp.HIDDEN:
            x = x @ weights[f"w{i}"]
            if batch_norm:
                mean, var = mx.mean(x, axis=0), mx.var(x, axis=0)
                x = (x - mean) * mx.rsqrt(var + mlp.EPS) * weights[f"gamma{i}"] + weights[f"beta{i}"]
                following[f"mean{i}"] = mlp.DECAY * running[f"mean{i}"] + (1 - mlp.DECAY) * mean
                following[f"var{i}"] = mlp.DECAY * running[f"var{i}"] + (1 - mlp.DECAY) * unbiased() * var
            else:
                x = x + weights[f"b{i}"]
            x = mx.sigmoid(x)
        return cross_entropy(x @ weights[f"w{mlp.LAST}"] + weights[f"b{mlp.LAST}"], labels, reduction="mean"), following

    @mx.compile
    def train(weights: Any, running: Any, x: Any, labels: Any) -> Any:
        (loss, running), grads = mx.value_and_grad(mean_loss)(weights, running, x, labels)
        return {name: w - mlp.LEARNING_RATE * grads[name] for name, w in weights.items()}, running, loss

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        nonlocal weights, running
        weights, running, loss = train(weights, running, mx.array(x), mx.array(labels))
        mx.eval(weights, running, loss)
        return loss

    return Contender(step, lambda loss: loss.item(), lambda: {n: np.array(v) for n, v in (weights | running).items()})


def tinygrad_jit(parameters: Parameters) -> Contender:
    """tinygrad: the whole step under TinyJit, on its CPU backend."""
    import tinygrad

    batch_norm = "gamma0" in parameters
    weights = {name: tinygrad.Tensor(value).realize() for name, value in parameters.items()}
    running = {name: tinygrad.Tensor(v).realize() for name, v in initial_statistics(parameters).items()}
    optimizer = tinygrad.nn.optim.SGD([*weights.values()], lr=mlp.LEARNING_RATE)

    @tinygrad.TinyJit
    def train(x: Any, labels: Any) -> Any:
        for i in mlp.HIDDEN:
            x = x @ weights[f"w{i}"]
            if batch_norm:
                mean, var = x.mean(axis=0), x.var(axis=0, correction=0)
                x = (x - mean) * (var + mlp.EPS).rsqrt() * weights[f"gamma{i}"] + weights[f"beta{i}"]
                old_mean, old_var = running[f"mean{i}"], running[f"var{i}"]
                old_mean.assign(mlp.DECAY * old_mean + (1 - mlp.DECAY) * mean.detach())
                old_var.assign(mlp.DECAY * old_var + (1 - mlp.DECAY) * unbiased() * var.detach())
            else:
                x = x + weights[f"b{i}"]
            x = x.sigmoid()
        loss = (x @ weights[f"w{mlp.LAST}"] + weights[f"b{mlp.LAST}"]).sparse_categorical_crossentropy(labels)
        optimizer.zero_grad()
        loss.backward()
        updated = optimizer.schedule_step()  # all at once, or the loss would be computed with the new weights
        return loss.realize(*updated, *running.values())

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        with tinygrad.Context(TRAINING=1):
            return train(tinygrad.Tensor(x).realize(), tinygrad.Tensor(labels).realize())

    return Contender(step, lambda loss: loss.item(), lambda: {n: v.numpy() for n, v in (weights | running).items()})


def mygrad_eager(parameters: Parameters) -> Contender:
    """MyGrad: a tape over NumPy, as it runs line by line."""
    import mygrad
    from mygrad.nnet.activations import sigmoid
    from mygrad.nnet.losses import softmax_crossentropy

    batch_norm = "gamma0" in parameters
    weights = {name: mygrad.tensor(value.copy()) for name, value in parameters.items()}
    running = initial_statistics(parameters)

    def step(x: Any, labels: np.ndarray) -> Any:
        for i in mlp.HIDDEN:
            x = x @ weights[f"w{i}"] if i else mygrad.matmul(x, weights["w0"])
            if batch_norm:
                mean, var = mygrad.mean(x, axis=0), mygrad.var(x, axis=0)
                x = (x - mean) / mygrad.sqrt(var + np.float32(mlp.EPS)) * weights[f"gamma{i}"] + weights[f"beta{i}"]
                running[f"mean{i}"] += (1 - mlp.DECAY) * (mean.data - running[f"mean{i}"])
                running[f"var{i}"] += (1 - mlp.DECAY) * (unbiased() * var.data - running[f"var{i}"])
            else:
                x = x + weights[f"b{i}"]
            x = sigmoid(x)
        loss = softmax_crossentropy(x @ weights[f"w{mlp.LAST}"] + weights[f"b{mlp.LAST}"], labels)
        loss.backward()
        for weight in weights.values():
            weight.data -= np.float32(mlp.LEARNING_RATE) * weight.grad  # which the next step begins anew
        return loss

    return Contender(step, lambda loss: loss.item(), lambda: {n: np.array(v) for n, v in weights.items()} | {**running})


CONTENDERS: dict[str, Callable[[Parameters, str], Contender]] = {
    "MLX compile": lambda parameters, device: mlx_compiled(parameters),
    "tinygrad TinyJit": lambda parameters, device: tinygrad_jit(parameters),
    "MyGrad eager": lambda parameters, device: mygrad_eager(parameters),
}
