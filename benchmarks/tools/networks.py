"""One training step of the small Inception on CIFAR-10's shapes, as users of each framework would write it.

Nine modules without a stem, as `mg.models.Inception` describes them, on 32 x 32 images: convolutions without bias, each
followed by [Batch Normalization with gamma and beta and] ReLU; mean cross-entropy; SGD with momentum. All start from the
same parameters, keep running statistics with a decay of 0.9 and the unbiased variance, and take their batch as NumPy
arrays (N, H, W, C).

Parameters and running statistics are a dict of float32 arrays in minigrad's layout: "3a 5x5 reduce weight" (kh, kw, in,
out), with BN also "... gamma", "... beta", "... mean" and "... var"; "dense weight" (in, out) and "dense bias".
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tools import training

# channels of: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection; None halves the image
MODULES: dict[str, tuple[int, ...] | None] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "pool3": None,
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "pool4": None,
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
CLASSES = 10
LEARNING_RATE = 0.01
MOMENTUM = 0.9
DECAY = 0.9
EPS = 1e-5

Arrays = dict[str, np.ndarray]


class Network(NamedTuple):
    """Which Inception, and on how much."""

    width: float
    batch: int
    batch_norm: bool
    side: int = 32

    def channels(self, module: str) -> tuple[int, ...]:
        """Of the six convolutions of a module: rounded down, at least 8."""
        return tuple(max(8, int(n * self.width)) for n in MODULES[module] or ())

    def convolutions(self) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        """(name, shape of the weight) of all convolutions, in the order in which `mg.models.Inception` has them."""
        inputs = 3
        for module, shape in MODULES.items():
            if shape is not None:
                one, reduce3, three, reduce5, five, pool = self.channels(module)
                yield f"{module} 1x1", (1, 1, inputs, one)
                yield f"{module} 3x3 reduce", (1, 1, inputs, reduce3)
                yield f"{module} 3x3", (3, 3, reduce3, three)
                yield f"{module} 5x5 reduce", (1, 1, inputs, reduce5)
                yield f"{module} 5x5", (5, 5, reduce5, five)
                yield f"{module} pool", (1, 1, inputs, pool)
                inputs = one + three + five + pool

    def last_channels(self) -> int:
        """Of the last module, which the dense layer reads."""
        one, _, three, _, five, pool = self.channels("5b")
        return one + three + five + pool


class Contender(NamedTuple):
    """A network in training."""

    step: Callable[[np.ndarray, np.ndarray], Any]  # train on float32 images and int64 labels; what comes holds the loss
    loss: Callable[[Any], float]  # the loss as a number: waits until the step is done
    value: Callable[[str], np.ndarray]  # a parameter or a running statistic by its name
    parameters: int  # numbers that are trained


def initial_arrays(network: Network) -> Arrays:
    """The same for every contender: weights uniform by Glorot and Bengio, gamma 1, beta 0."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        window = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (window * (shape[-2] + shape[-1])))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    arrays = {}
    for name, shape in network.convolutions():
        arrays[f"{name} weight"] = weight(*shape)
        if network.batch_norm:
            for kind, value in (("gamma", 1), ("beta", 0), ("mean", 0), ("var", 1)):
                arrays[f"{name} {kind}"] = np.full(shape[3], value, np.float32)
    arrays["dense weight"] = weight(network.last_channels(), CLASSES)
    arrays["dense bias"] = np.zeros(CLASSES, np.float32)
    return arrays


def is_statistic(name: str) -> bool:
    """Whether an array is a running statistic, and so not trained."""
    return name.endswith((" mean", " var"))


def batches(network: Network, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Different batches of images and labels at random; the work does not depend on what they show."""
    rng = np.random.default_rng(1)
    shape = (network.batch, network.side, network.side, 3)
    return [(rng.random(shape, np.float32), rng.integers(0, CLASSES, network.batch)) for _ in range(count)]


def minigrad_model(network: Network, arrays: Arrays, device: str) -> Any:
    """The model in the arrays' precision, its optimizer, and its tensors by name."""
    import minigrad as mg

    model = mg.models.Inception(CLASSES, network.width, network.batch_norm, decay=DECAY, eps=EPS)
    model.to(arrays["dense weight"].dtype.name)
    names = [name for name in arrays if not is_statistic(name)]
    tensors = dict(zip(names, model.parameters(), strict=True))
    norms = [module for _, module in model.modules() if isinstance(module, mg.nn.BatchNorm)]
    if network.batch_norm:
        for (name, _), norm in zip(network.convolutions(), norms, strict=True):
            tensors |= {f"{name} mean": norm.running_mean, f"{name} var": norm.running_var}
    for name, tensor in tensors.items():
        if tensor.shape != arrays[name].shape:
            raise RuntimeError(f"mg.models.Inception has {tensor.shape} where {name} {arrays[name].shape} was expected")
        tensor.data = arrays[name].copy()
    model.to(device)
    return model, mg.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM), tensors


def minigrad_step(network: Network, arrays: Arrays, device: str = "cpu", *, captured: bool) -> Contender:
    """minigrad as it runs line by line, or with the step recorded and replayed."""
    model, optimizer, tensors = minigrad_model(network, arrays, device)
    step = training.minigrad_step(model, optimizer, device, captured=captured)
    count = sum(p.size for p in model.parameters())
    return Contender(step, lambda loss: loss.item(), lambda name: tensors[name].numpy(), count)


def torch_model(network: Network, arrays: Arrays, layout: Any, device: str) -> Any:
    """The model, its optimizer, and its tensors by name."""
    import torch
    from torch import nn

    class Branches(nn.Module):
        def __init__(self, *branches: Any) -> None:
            super().__init__()
            self.branches = nn.ModuleList(branches)

        def forward(self, x: Any) -> Any:
            return torch.cat([branch(x) for branch in self.branches], dim=1)

    tensors: dict[str, Any] = {}
    dtype = getattr(torch, arrays["dense weight"].dtype.name)

    def unit(name: str, inputs: int, outputs: int, size: int) -> list[Any]:
        conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, device=device, dtype=dtype)
        tensors[f"{name} weight"] = conv.weight
        if not network.batch_norm:
            return [conv, nn.ReLU(inplace=True)]
        norm = nn.BatchNorm2d(outputs, eps=EPS, momentum=1 - DECAY, device=device, dtype=dtype)
        kinds = {"gamma": norm.weight, "beta": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        tensors.update({f"{name} {kind}": tensor for kind, tensor in kinds.items()})
        return [conv, norm, nn.ReLU(inplace=True)]

    layers: list[Any] = []
    channels = 3
    for name, shape in MODULES.items():
        if shape is None:
            layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            continue
        one, reduce3, three, reduce5, five, pool = network.channels(name)
        layers.append(
            Branches(
                nn.Sequential(*unit(f"{name} 1x1", channels, one, 1)),
                nn.Sequential(
                    *unit(f"{name} 3x3 reduce", channels, reduce3, 1), *unit(f"{name} 3x3", reduce3, three, 3)
                ),
                nn.Sequential(
                    *unit(f"{name} 5x5 reduce", channels, reduce5, 1), *unit(f"{name} 5x5", reduce5, five, 5)
                ),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *unit(f"{name} pool", channels, pool, 1)),
            )
        )
        channels = one + three + five + pool
    dense = nn.Linear(channels, CLASSES, device=device, dtype=dtype)
    tensors |= {"dense weight": dense.weight, "dense bias": dense.bias}
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense)
    model = model.to(memory_format=layout)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.transpose(arrays[name], to_torch(arrays[name].ndim))))
    return model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM), tensors


def to_torch(axes: int) -> tuple[int, ...]:
    """The order of the axes of an array in PyTorch: (kh, kw, in, out) to (out, in, kh, kw), (in, out) to (out, in)."""
    return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[axes]


def from_torch(axes: int) -> tuple[int, ...]:
    """The way back."""
    return {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[axes]


def torch_step(
    network: Network, arrays: Arrays, device: str = "cpu", *, channels_last: bool = True, compiled: bool = False
) -> Contender:
    """PyTorch as it runs line by line, or with forward, loss and their backward compiled."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model, optimizer, tensors = torch_model(network, arrays, layout, device)

    def laid_out(images: Any) -> Any:
        return images.permute(0, 3, 1, 2).contiguous(memory_format=layout)

    step = training.torch_step(model, optimizer, device, compiled=compiled, laid_out=laid_out)

    def value(name: str) -> np.ndarray:
        array = tensors[name].detach().cpu().numpy()
        return array.transpose(from_torch(array.ndim))

    return Contender(step, lambda loss: loss.item(), value, sum(p.numel() for p in model.parameters()))


def jax_logits(network: Network, weights: Any, x: Any) -> Any:
    """(logits, mean and biased variance of every normalized batch by name)."""
    import jax
    import jax.numpy as jnp

    statistics = {}

    def unit(name: str, x: Any) -> Any:
        x = jax.lax.conv_general_dilated(
            x, weights[f"{name} weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if network.batch_norm:
            mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
            x = (x - mean) * jax.lax.rsqrt(var + EPS) * weights[f"{name} gamma"] + weights[f"{name} beta"]
            statistics[name] = mean, var, x.size // x.shape[3]
        return jax.nn.relu(x)

    def max_pool(x: Any, stride: int) -> Any:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), "SAME")

    for name, shape in MODULES.items():
        if shape is None:
            x = max_pool(x, 2)
            continue
        branches = [
            unit(f"{name} 1x1", x),
            unit(f"{name} 3x3", unit(f"{name} 3x3 reduce", x)),
            unit(f"{name} 5x5", unit(f"{name} 5x5 reduce", x)),
            unit(f"{name} pool", max_pool(x, 1)),
        ]
        x = jnp.concatenate(branches, axis=3)
    return x.mean(axis=(1, 2)) @ weights["dense weight"] + weights["dense bias"], statistics


def jax_step(network: Network, arrays: Arrays) -> Contender:
    """JAX: the whole step one compiled function, which may overwrite the parameters it is given."""
    import jax
    import jax.numpy as jnp

    weights = {name: jnp.asarray(array) for name, array in arrays.items() if not is_statistic(name)}
    running = {name: jnp.asarray(array) for name, array in arrays.items() if is_statistic(name)}
    velocities = {name: jnp.zeros_like(array) for name, array in weights.items()}

    def mean_loss(weights: Any, x: Any, labels: Any) -> Any:
        logits, statistics = jax_logits(network, weights, x)
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean(), statistics

    def train(weights: Any, velocities: Any, running: Any, x: Any, labels: Any) -> Any:
        (loss, statistics), grads = jax.value_and_grad(mean_loss, has_aux=True)(weights, x, labels)
        velocities = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocities, grads)
        weights = jax.tree.map(lambda w, v: w - LEARNING_RATE * v, weights, velocities)
        following = {}
        for name, (mean, var, m) in statistics.items():
            following[f"{name} mean"] = DECAY * running[f"{name} mean"] + (1 - DECAY) * mean
            following[f"{name} var"] = DECAY * running[f"{name} var"] + (1 - DECAY) * var * (m / (m - 1))
        return weights, velocities, following, loss

    compiled = jax.jit(train, donate_argnums=(0, 1, 2))

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        nonlocal weights, velocities, running
        weights, velocities, running, loss = compiled(weights, velocities, running, x, labels)
        return loss

    count = sum(array.size for array in weights.values())
    return Contender(step, float, lambda name: np.asarray((weights | running)[name]), count)


CONTENDERS: dict[str, Callable[[Network, Arrays, str], Contender]] = {
    "minigrad captured": lambda *given: minigrad_step(*given, captured=True),
    "minigrad eager": lambda *given: minigrad_step(*given, captured=False),
    "PyTorch channels_last": torch_step,
    "PyTorch NCHW": lambda *given: torch_step(*given, channels_last=False),
    "PyTorch torch.compile": lambda *given: torch_step(*given, compiled=True),
    "JAX jit": lambda network, arrays, device: jax_step(network, arrays),
}
