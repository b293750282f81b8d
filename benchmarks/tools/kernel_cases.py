"""Kernels that only move memory, on minigrad's side and PyTorch's: what the section `kernels` times.

A case is made when its turn comes, since its arrays are large. What it counts as moved is what the kernel itself says
(minigrad.kernels.work). In Batch Normalization the statistics need all of x before the first y can be written, and the sums of
the gradients all of dy and x: where no cache holds them, they are read twice, and count twice.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tools import networks
from benchmarks.tools.frameworks import OURS
from benchmarks.tools.timing import Case, Work
from minigrad.kernels import reference
from minigrad.kernels.activations import RELU
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.work import work_of

ELEMENTWISE, NORM, OPTIMIZER, OTHER = "element-wise", "batch norm", "optimizer", "other"
ELEMENTS = 1 << 26
BATCH = 250
ROWS, CLASSES = 1 << 15, 1000
LAYERS = ((32, 128), (32, 16), (16, 320), (8, 384))  # side and channels of normalized images of the Inception
POOLS = ((32, 256, 1), (32, 480, 2), (8, 832, 1))  # side, channels and stride of its pools
NETWORK = networks.Network(1.0, 1, True)  # whose parameters the optimizer updates
RATE, MOMENTUM, EPS = 1e-3, 0.9, 1e-5

Inputs = list[np.ndarray]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def some(array: np.ndarray) -> np.ndarray:
    """Of a long array every 1009th element or row (a prime, so that all places in a block have their turn)."""
    return array[:: 1009 if len(array) > 1 << 17 else 1]


def wide(*arrays: np.ndarray) -> Inputs:
    """In float64."""
    return [array.astype(float) for array in arrays]


def case_of(
    name: str,
    kernel: str,
    arguments: list,
    outputs: tuple[int, ...],
    expected: Inputs,
    theirs: Callable[[Any], Work],
    *,
    part: Callable[[np.ndarray], np.ndarray] = some,
    twice: int = 0,
    before: Callable[[Any, list], None] | None = None,
) -> Case:
    """A kernel "family.name" on arguments that are NumPy's, of which those of the indices `outputs` are its results.

    `part` of the results is expected; `twice` are bytes that have to be moved once more; `before(home, arguments)` computes
    arguments on the device.
    """

    def put(framework: Any, i: int, argument: Any) -> Any:
        if isinstance(argument, list):
            return [framework.put(a) for a in argument]
        if not isinstance(argument, np.ndarray):
            return argument
        return framework.room(*argument.shape, dtype=argument.dtype) if i in outputs else framework.put(argument)

    def ours(framework: Any) -> Work:
        family, _, function = kernel.partition(".")
        given = [put(framework, i, argument) for i, argument in enumerate(arguments)]
        if before is not None:
            before(framework.home, given)
        results = [a for i in outputs for a in (given[i] if isinstance(given[i], list) else [given[i]])]
        call = functools.partial(getattr(getattr(framework.home.kernels, family), function), *given)
        return Work(call, lambda _: [part(framework.get(array)) for array in results])

    return Case(name, 0, work_of(kernel, arguments).bytes + twice, expected, {OURS: ours, "PyTorch": theirs})


def elementwise(name: str, kernel: str, inputs: int, formula: Callable, call: Callable) -> Case:
    """y = f(x) or f(a, b); `formula` in NumPy, `call(torch, out, *inputs)` in PyTorch."""
    n = ELEMENTS
    arrays, y = [normal(n, seed=i) for i in range(inputs)], np.empty(n, np.float32)
    layout = broadcast_layout((n,), (n,))[1:] if kernel == "elementwise.add_forward" else ()

    def theirs(framework: Any) -> Work:
        given, found = [*map(framework.put, arrays)], framework.room(n)
        return Work(lambda: call(framework.torch, found, *given), lambda _: [some(framework.get(found))])

    expected = [formula(*wide(*map(some, arrays)))]
    return case_of(name, kernel, [*arrays, y, *layout], (inputs,), expected, theirs)


def converted(name: str) -> Case:
    """float32 to float64."""
    x = normal(ELEMENTS)

    def theirs(framework: Any) -> Work:
        given, found = framework.put(x), framework.room(x.size, dtype=np.float64)
        return Work(lambda: found.copy_(given), lambda _: [some(framework.get(found))])

    return case_of(name, "movement.copy", [x, np.empty(x.size)], (1,), wide(some(x)), theirs)


def transposed(name: str) -> Case:
    """A square matrix of about as many elements."""
    length = math.isqrt(ELEMENTS)
    x, y = normal(length, length), np.empty(length * length, np.float32)
    layout = (1, 1, 1, 1, length, length), (0, 0, 0, 0, 1, length), 0

    def theirs(framework: Any) -> Work:
        given, found = framework.put(x), framework.room(length, length)
        return Work(lambda: found.copy_(given.T), lambda _: [some(framework.get(found).ravel())])

    return case_of(name, "movement.strided_read", [x.ravel(), *layout, y], (4,), wide(some(x.T.ravel())), theirs)


def max_pool(name: str, length: int, c: int, stride: int, backward: bool) -> Case:
    """3 x 3 windows, forward with the place of each maximum, or backward."""
    out = -(-length // stride)
    padding = max((out - 1) * stride + 3 - length, 0) // 2
    window = (3, 3), (stride, stride), (padding, padding)
    x, dy = normal(BATCH, length, length, c), normal(BATCH, out, out, c, seed=1)
    places = np.empty(dy.shape, np.uint8)
    few = slice(None, None, max(1, BATCH // 3))
    y, winner, dx = np.empty(dy[few].shape), np.empty(dy[few].shape, np.uint8), np.empty(x[few].shape)
    reference.pool.max_pool_forward(*wide(x[few]), *window, y, winner)
    reference.pool.max_pool_backward(*wide(dy[few]), winner, *window, dx)
    how = [3, 3], [stride, stride], [padding, padding], [1, 1], stride > 1  # the last is ceil_mode

    def forward_by_torch(framework: Any) -> Work:
        aten, image = framework.torch.ops.aten, framework.images(x)
        return Work(
            lambda: aten.max_pool2d_with_indices(image, *how),
            lambda got: [framework.get_images(got[0])[few], winner],
        )

    def backward_by_torch(framework: Any) -> Work:
        aten, image, gradient = framework.torch.ops.aten, framework.images(x), framework.images(dy)
        indices = aten.max_pool2d_with_indices(image, *how)[1]
        return Work(
            lambda: aten.max_pool2d_with_indices_backward(gradient, image, *how, indices),
            lambda got: [framework.get_images(got)[few]],
        )

    def winners(home: Any, given: list) -> None:
        home.kernels.pool.max_pool_forward(home.from_host(x), *window, home.empty(dy.shape, dy.dtype), given[1])

    def part(array: np.ndarray) -> np.ndarray:
        return array[few]

    if backward:
        arguments = [dy, places, *window, np.empty_like(x)]
        theirs, how_to = backward_by_torch, {"part": part, "before": winners}
        return case_of(name, "pool.max_pool_backward", arguments, (5,), [dx], theirs, **how_to)
    arguments = [x, *window, np.empty_like(dy), places]
    return case_of(name, "pool.max_pool_forward", arguments, (4, 5), [y, winner], forward_by_torch, part=part)


def softmax(name: str) -> Case:
    """Of rows."""
    x = normal(ROWS, CLASSES)
    y = np.empty(some(x).shape)
    reference.loss.softmax_forward(*wide(some(x)), y)

    def theirs(framework: Any) -> Work:
        given = framework.put(x)
        return Work(lambda: framework.torch.softmax(given, 1), lambda got: [some(framework.get(got))])

    return case_of(name, "loss.softmax_forward", [x, np.empty_like(x)], (1,), [y], theirs)


def cross_entropy(name: str, backward: bool) -> Case:
    """Forward with the probabilities that backward needs, or backward."""
    x, labels = normal(ROWS, CLASSES), np.random.default_rng(1).integers(0, CLASSES, ROWS)
    probs, loss, seed = np.empty(x.shape), np.empty(1), np.ones(1, np.float32)
    reference.loss.cross_entropy_forward(*wide(x), labels, probs, loss)
    dx = np.empty(x.shape)
    reference.loss.cross_entropy_backward(seed, probs, labels, dx)

    def forward_by_torch(framework: Any) -> Work:
        given, targets = framework.put(x), framework.put(labels)
        return Work(
            lambda: framework.torch.nn.functional.cross_entropy(given, targets),
            lambda got: [some(probs), framework.get(got).reshape(1)],
        )

    def backward_by_torch(framework: Any) -> Work:
        torch, targets = framework.torch, framework.put(labels)
        logs, one = torch.log_softmax(framework.put(x), 1), framework.put(np.float32(1))
        total = torch.ops.aten.nll_loss_forward(logs, targets, None, 1, -100)[1]

        def call() -> Any:
            d = torch.ops.aten.nll_loss_backward(one, logs, targets, None, 1, -100, total)
            return torch.ops.aten._log_softmax_backward_data(d, logs, 1, torch.float32)

        return Work(call, lambda got: [some(framework.get(got))])

    if backward:
        arguments = [seed, probs.astype(np.float32), labels, np.empty_like(x)]
        return case_of(name, "loss.cross_entropy_backward", arguments, (3,), [some(dx)], backward_by_torch)
    arguments = [x, labels, np.empty_like(x), np.empty(1, np.float32)]
    expected = [some(probs), loss]
    return case_of(name, "loss.cross_entropy_forward", arguments, (2, 3), expected, forward_by_torch)


def batch_norm(name: str, cache: int, length: int, c: int, backward: bool) -> Case:
    """With ReLU and the statistics of the batch, or the gradients of it; of the results some columns are compared."""
    m = BATCH * length * length
    x, dy, gamma, beta = normal(m, c), normal(m, c, seed=2), np.abs(normal(c)) + np.float32(0.5), normal(c, seed=1)
    columns = slice(None, None, max(1, c // 8))
    x64, dy64, gamma64, beta64 = wide(*(a[..., columns] for a in (x, dy, gamma, beta)))
    y, mean, var = np.empty(x64.shape), np.empty(gamma64.shape), np.empty(gamma64.shape)
    reference.norm.batch_norm_forward(x64, gamma64, beta64, EPS, RELU, y, 0, mean, var)

    def part(array: np.ndarray) -> np.ndarray:
        return array[..., columns]

    def on_torch(framework: Any) -> tuple:
        images = (framework.images(a.reshape(BATCH, length, length, c)) for a in (x, dy))
        return framework.torch.ops.aten, *images, framework.put(gamma), framework.put(beta)

    def forward_by_torch(framework: Any) -> Work:
        _, image, _, weight, bias = on_torch(framework)
        functions = framework.torch.nn.functional

        def call() -> Any:
            with framework.torch.no_grad():
                return functions.batch_norm(image, None, None, weight, bias, training=True, eps=EPS).relu_()

        return Work(call, lambda out: [part(framework.get_images(out).reshape(m, c)), mean, var])

    def backward_by_torch(framework: Any) -> Work:
        aten, image, gradient, weight, bias = on_torch(framework)
        out, kept_mean, kept_scale = aten.native_batch_norm(image, weight, bias, None, None, True, 0.1, EPS)
        out.relu_()

        def call() -> Any:
            dz = aten.threshold_backward(gradient, out, 0)
            return aten.native_batch_norm_backward(
                dz, image, weight, None, None, kept_mean, kept_scale, True, EPS, [True, True, True]
            )

        return Work(
            call,
            lambda got: [part(framework.get_images(got[0]).reshape(m, c)), *(part(framework.get(a)) for a in got[1:])],
        )

    if not backward:
        results = np.empty_like(x), np.empty(c), np.empty(c)
        arguments = [x, gamma, beta, EPS, RELU, results[0], 0, *results[1:]]
        how = {"part": part, "twice": 0 if x.nbytes <= cache else x.nbytes}
        return case_of(name, "norm.batch_norm_forward", arguments, (5, 7, 8), [y, mean, var], forward_by_torch, **how)
    expected = [np.empty(x64.shape), np.empty(gamma64.shape), np.empty(gamma64.shape)]
    reference.norm.batch_norm_backward(dy64, x64, y, 0, gamma64, beta64, mean, var, EPS, RELU, *expected)
    statistics = x.mean(axis=0, dtype=float), x.var(axis=0, dtype=float)
    results = np.empty_like(x), np.empty_like(gamma), np.empty_like(beta)
    arguments = [dy, x, x, 0, gamma, beta, *statistics, EPS, RELU, *results]
    how = {"part": part, "twice": 0 if 2 * x.nbytes <= cache else 2 * x.nbytes}
    return case_of(name, "norm.batch_norm_backward", arguments, (10, 11, 12), expected, backward_by_torch, **how)


def sgd(name: str) -> Case:
    """SGD with momentum over the parameters of the Inception, in PyTorch by its fused optimizer."""
    shapes = [a.shape for name, a in networks.initial_arrays(NETWORK).items() if not networks.is_statistic(name)]
    params, grads, velocities = ([normal(*s, seed=k) for s in shapes] for k in range(3))
    hyper = np.array([RATE, MOMENTUM, 0, 0])
    expected = [wide(*arrays) for arrays in (params, grads, velocities)]
    reference.optim.sgd(*expected, hyper)

    def theirs(framework: Any) -> Work:
        torch = framework.torch
        tensors = [torch.nn.Parameter(framework.put(a)) for a in params]
        optimizer = torch.optim.SGD(tensors, lr=RATE, momentum=MOMENTUM, fused=True)
        for tensor, grad, velocity in zip(tensors, grads, velocities, strict=True):
            tensor.grad = framework.put(grad)
            optimizer.state[tensor]["momentum_buffer"] = framework.put(velocity)
        return Work(
            optimizer.step,
            lambda _: [framework.get(a) for a in (*tensors, *(optimizer.state[t]["momentum_buffer"] for t in tensors))],
        )

    arguments, expected = [params, grads, velocities, hyper], [*expected[0], *expected[2]]
    return case_of(name, "optim.sgd", arguments, (0, 2), expected, theirs, part=lambda array: array)


def positive(x: np.ndarray) -> np.ndarray:
    """ReLU."""
    return np.maximum(x, 0)


def relu_backward(torch: Any, y: Any, gradient: Any, saved: Any) -> Any:
    """PyTorch's, which takes the place of its result by name."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, saved, 0, grad_input=y)


def cases(cache: int) -> dict[str, tuple[str, Callable[[str], Case]]]:
    """Group and maker of each case by its name, which the maker is given; `cache` are the bytes of the GPU's cache."""

    def both(name: str, group: str, make: Callable) -> dict[str, tuple[str, Callable]]:
        passes = {"forward": False, "backward": True}
        return {f"{name}, {p}": (group, functools.partial(make, backward=b)) for p, b in passes.items()}

    def simple(*given: Any) -> tuple[str, Callable]:
        return ELEMENTWISE, lambda name: elementwise(name, *given)

    found = {
        "add": simple("elementwise.add_forward", 2, np.add, lambda torch, y, a, b: torch.add(a, b, out=y)),
        "relu": simple("elementwise.relu_forward", 1, positive, lambda torch, y, x: torch.clamp_min(x, 0, out=y)),
        "relu, backward": simple("elementwise.relu_backward", 2, lambda dy, y: dy * (y > 0), relu_backward),
        "exp": simple("elementwise.exp_forward", 1, np.exp, lambda torch, y, x: torch.exp(x, out=y)),
        "float32 to float64": (OTHER, converted),
        "transpose": (OTHER, transposed),
    }
    for length, c in LAYERS:
        name = f"BN + ReLU {BATCH} x {length}x{length}x{c}"
        found |= both(name, NORM, functools.partial(batch_norm, cache=cache, length=length, c=c))
    for length, c, stride in POOLS:
        name = f"max pool 3x3/{stride} {BATCH} x {length}x{length}x{c}"
        found |= both(name, OTHER, functools.partial(max_pool, length=length, c=c, stride=stride))
    found[f"softmax {ROWS} x {CLASSES}"] = OTHER, softmax
    found |= both(f"cross entropy {ROWS} x {CLASSES}", OTHER, cross_entropy)
    found["SGD with momentum on the Inception's parameters"] = OPTIMIZER, sgd
    return found
