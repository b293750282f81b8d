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
from benchmarks.tools.timing import Case, Job
from minigrad.kernels import reference
from minigrad.kernels.activations import RELU
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.work import work_of
from minigrad.ops.window import resolve

ELEMENTWISE, NORM, OPTIMIZER, OTHER = "element-wise", "batch norm", "optimizer", "other"
ELEMENTS = 1 << 26
BATCH = 250
ROWS, CLASSES = 1 << 15, 1000
LAYERS = ((32, 128), (32, 16), (16, 320), (8, 384))  # side and channels of normalized images of the Inception
POOLS = ((32, 256, 1), (32, 480, 2), (8, 832, 1))  # side, channels and stride of its pools
NETWORK = networks.Network(1.0, 1, True)  # whose parameters the optimizer updates
RATE, MOMENTUM, EPS = 1e-3, 0.9, 1e-5

Arrays = list[np.ndarray]
Part = Callable[[np.ndarray], np.ndarray]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def some(array: np.ndarray) -> np.ndarray:
    """Of a long array every 1009th element or row (a prime, so that all places in a block have their turn)."""
    return array[:: 1009 if len(array) > 1 << 17 else 1]


def wide(*arrays: np.ndarray) -> Arrays:
    """In float64."""
    return [array.astype(float) for array in arrays]


def by_torch(
    call: Callable, *inputs: np.ndarray, first: Callable | None = None, part: Part = some, known: tuple = ()
) -> Any:
    """PyTorch's side of a case: `call(torch, *inputs)`, images of four axes on `channels_last`, returns its results.

    `first(torch, *inputs)` makes of the inputs what `call` is given; `known` are results that PyTorch does not hand out.
    """

    def put(framework: Any, array: np.ndarray) -> Any:
        return framework.images(array) if array.ndim == 4 else framework.put(array)

    def builder(framework: Any) -> Job:
        torch, given = framework.torch, [put(framework, array) for array in inputs]
        with torch.no_grad():
            given = given if first is None else first(torch, *given)

        def run() -> Any:
            with torch.no_grad():
                return call(torch, *given)

        def results(returned: Any) -> Arrays:
            tensors = returned if isinstance(returned, tuple | list) else [returned]
            return [part(framework.get_images(t) if t.ndim == 4 else framework.get(t)) for t in tensors] + [*known]

        return Job(run, results)

    return builder


def case_of(
    name: str,
    kernel: str,
    arguments: list,
    outputs: tuple[int, ...],
    expected: Arrays,
    theirs: Callable[[Any], Job],
    *,
    part: Part = some,
    twice: int = 0,
    before: Callable[[Any, list], None] | None = None,
) -> Case:
    """A kernel "family.name" on arguments that are NumPy's, of which those of the indices `outputs` are its results.

    `part` of each result is expected; `twice` are bytes that are moved once more; `before(home, arguments)` computes
    arguments on the device.
    """

    def put(framework: Any, i: int, argument: Any) -> Any:
        if isinstance(argument, list):
            return [framework.put(a) if isinstance(a, np.ndarray) else a for a in argument]
        if not isinstance(argument, np.ndarray):
            return argument
        return framework.room(*argument.shape, dtype=argument.dtype) if i in outputs else framework.put(argument)

    def ours(framework: Any) -> Job:
        family, _, function = kernel.partition(".")
        given = [put(framework, i, argument) for i, argument in enumerate(arguments)]
        if before is not None:
            before(framework.home, given)
        results = [a for i in outputs for a in (given[i] if isinstance(given[i], list) else [given[i]])]
        call = functools.partial(getattr(getattr(framework.home.kernels, family), function), *given)
        return Job(call, lambda _: [part(framework.get(array)) for array in results])

    return Case(name, 0, work_of(kernel, arguments).bytes + twice, expected, {OURS: ours, "PyTorch": theirs})


def elementwise(name: str, kernel: str, inputs: int, formula: Callable, call: Callable) -> Case:
    """y = f(x) or f(a, b); `formula` in NumPy, `call(torch, *inputs, out)` in PyTorch."""
    n = ELEMENTS
    arrays, y = [normal(n, seed=i) for i in range(inputs)], np.empty(n, np.float32)
    layout = broadcast_layout((n,), (n,))[1:] if kernel == "elementwise.add_forward" else ()
    expected = [formula(*wide(*map(some, arrays)))]
    return case_of(name, kernel, [*arrays, y, *layout], (inputs,), expected, by_torch(call, *arrays, y))


def converted(name: str) -> Case:
    """float32 to float64."""
    x, y = normal(ELEMENTS), np.empty(ELEMENTS)
    theirs = by_torch(lambda torch, x, y: y.copy_(x), x, y)
    return case_of(name, "movement.copy", [x, y], (1,), wide(some(x)), theirs)


def transposed(name: str) -> Case:
    """A square matrix of about as many elements."""
    length = math.isqrt(ELEMENTS)
    x, y = normal(length, length), np.empty((length, length), np.float32)
    layout = (1, 1, 1, 1, length, length), (0, 0, 0, 0, 1, length), 0
    theirs = by_torch(lambda torch, x, y: y.copy_(x.T).ravel(), x, y)
    arguments = [x.ravel(), *layout, y.ravel()]
    return case_of(name, "movement.strided_read", arguments, (4,), wide(some(x.T.ravel())), theirs)


def max_pool(name: str, length: int, c: int, stride: int, backward: bool) -> Case:
    """3 x 3 windows, forward with the place of each maximum, or backward."""
    window = resolve("pool", (length, length), 3, stride, "same")
    x, dy = normal(BATCH, length, length, c), normal(BATCH, window.oh, window.ow, c, seed=1)
    places = np.empty(dy.shape, np.uint8)
    few = slice(None, None, max(1, BATCH // 3))
    y, winner, dx = np.empty(dy[few].shape), np.empty(dy[few].shape, np.uint8), np.empty(x[few].shape)
    reference.pool.max_pool_forward(*wide(x[few]), window, y, winner)
    reference.pool.max_pool_backward(*wide(dy[few]), winner, window, dx)
    how = [3, 3], [stride, stride], [window.top, window.left], [1, 1], stride > 1  # the last is ceil_mode

    def forward(torch: Any, image: Any) -> Any:
        return torch.ops.aten.max_pool2d_with_indices(image, *how)

    def gradient(torch: Any, dy: Any, image: Any, indices: Any) -> Any:
        return torch.ops.aten.max_pool2d_with_indices_backward(dy, image, *how, indices)

    def winners(home: Any, given: list) -> None:
        home.kernels.pool.max_pool_forward(home.from_host(x), window, home.empty(dy.shape, dy.dtype), given[1])

    def part(array: np.ndarray) -> np.ndarray:
        return array[few]

    if backward:
        first = lambda torch, dy, image: (dy, image, forward(torch, image)[1])  # noqa: E731
        theirs = by_torch(gradient, dy, x, first=first, part=part)
        arguments, how_to = [dy, places, window, np.empty_like(x)], {"part": part, "before": winners}
        return case_of(name, "pool.max_pool_backward", arguments, (3,), [dx], theirs, **how_to)
    theirs = by_torch(lambda torch, image: forward(torch, image)[0], x, part=part, known=(winner,))
    arguments = [x, window, np.empty_like(dy), places]
    return case_of(name, "pool.max_pool_forward", arguments, (2, 3), [y, winner], theirs, part=part)


def softmax(name: str) -> Case:
    """Of rows."""
    x = normal(ROWS, CLASSES)
    y = np.empty(some(x).shape)
    reference.loss.softmax_forward(*wide(some(x)), y)
    theirs = by_torch(lambda torch, x: torch.softmax(x, 1), x)
    return case_of(name, "loss.softmax_forward", [x, np.empty_like(x)], (1,), [y], theirs)


def cross_entropy(name: str, backward: bool) -> Case:
    """Forward with the probabilities that backward needs, or backward."""
    x, labels = normal(ROWS, CLASSES), np.random.default_rng(1).integers(0, CLASSES, ROWS)
    probs, loss, seed, dx = np.empty(x.shape), np.empty(1), np.ones(1, np.float32), np.empty(x.shape)
    reference.loss.cross_entropy_forward(*wide(x), labels, probs, loss)
    reference.loss.cross_entropy_backward(seed, probs, labels, dx)

    def first(torch: Any, x: Any, labels: Any) -> tuple:
        logs, one = torch.log_softmax(x, 1), torch.ones((), device=x.device)
        return one, logs, labels, torch.ops.aten.nll_loss_forward(logs, labels, None, 1, -100)[1]

    def gradient(torch: Any, one: Any, logs: Any, labels: Any, total: Any) -> Any:
        d = torch.ops.aten.nll_loss_backward(one, logs, labels, None, 1, -100, total)
        return torch.ops.aten._log_softmax_backward_data(d, logs, 1, torch.float32)

    if backward:
        arguments = [seed, probs.astype(np.float32), labels, np.empty_like(x)]
        theirs = by_torch(gradient, x, labels, first=first)
        return case_of(name, "loss.cross_entropy_backward", arguments, (3,), [some(dx)], theirs)
    theirs = by_torch(
        lambda torch, x, labels: torch.nn.functional.cross_entropy(x, labels).reshape(1),
        x,
        labels,
        known=(some(probs),),
    )
    arguments = [x, labels, np.empty_like(x), np.empty(1, np.float32)]
    return case_of(name, "loss.cross_entropy_forward", arguments, (3, 2), [loss, some(probs)], theirs)


def batch_norm(name: str, cache: int, length: int, c: int, backward: bool) -> Case:
    """With ReLU and the statistics of the batch, or the gradients of it; of the results some columns are compared."""
    shape = BATCH, length, length, c
    x, dy = normal(*shape), normal(*shape, seed=2)
    rows = x.reshape(-1, c)
    gamma, beta = np.abs(normal(c)) + np.float32(0.5), normal(c, seed=1)
    columns = slice(None, None, max(1, c // 8))

    def part(array: np.ndarray) -> np.ndarray:
        few = array[..., columns]
        return few.reshape(-1, few.shape[-1]) if few.ndim > 1 else few

    x64, dy64, gamma64, beta64 = wide(*map(part, (x, dy, gamma, beta)))
    y, mean, var = np.empty(x64.shape), np.empty(gamma64.shape), np.empty(gamma64.shape)
    reference.norm.batch_norm_forward(x64, gamma64, beta64, EPS, RELU, y, 0, mean, var, 0.9, *np.empty((2, 0)))

    def forward(torch: Any, x: Any, gamma: Any, beta: Any) -> Any:
        return torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS).relu_()

    def first(torch: Any, dy: Any, x: Any, gamma: Any, beta: Any) -> tuple:
        out, mean, scale = torch.ops.aten.native_batch_norm(x, gamma, beta, None, None, True, 0.1, EPS)
        return dy, x, gamma, out.relu_(), mean, scale

    def gradients(torch: Any, dy: Any, x: Any, gamma: Any, out: Any, mean: Any, scale: Any) -> Any:
        dz = torch.ops.aten.threshold_backward(dy, out, 0)
        return torch.ops.aten.native_batch_norm_backward(
            dz, x, gamma, None, None, mean, scale, True, EPS, [True, True, True]
        )

    if not backward:
        results = np.empty_like(rows), np.empty(c), np.empty(c)
        arguments = [rows, gamma, beta, EPS, RELU, results[0], 0, *results[1:], 0.9, *np.empty((2, 0), np.float32)]
        theirs = by_torch(forward, x, gamma, beta, part=part, known=(mean, var))
        how = {"part": part, "twice": 0 if x.nbytes <= cache else x.nbytes}
        return case_of(name, "norm.batch_norm_forward", arguments, (5, 7, 8), [y, mean, var], theirs, **how)
    expected = [np.empty(x64.shape), np.empty(gamma64.shape), np.empty(gamma64.shape)]
    reference.norm.batch_norm_backward(dy64, x64, y, 0, gamma64, beta64, mean, var, EPS, RELU, *expected)
    statistics = rows.mean(axis=0, dtype=float), rows.var(axis=0, dtype=float)
    results = np.empty_like(rows), np.empty_like(gamma), np.empty_like(beta)
    arguments = [dy.reshape(-1, c), rows, rows, 0, gamma, beta, *statistics, EPS, RELU, *results]
    theirs = by_torch(gradients, dy, x, gamma, beta, first=first, part=part)
    how = {"part": part, "twice": 0 if 2 * x.nbytes <= cache else 2 * x.nbytes}
    return case_of(name, "norm.batch_norm_backward", arguments, (10, 11, 12), expected, theirs, **how)


def sgd(name: str) -> Case:
    """SGD with momentum over the parameters of the Inception, in PyTorch by its fused optimizer."""
    shapes = [a.shape for name, a in networks.initial_arrays(NETWORK).items() if not networks.is_statistic(name)]
    params, grads, velocities = ([normal(*s, seed=k) for s in shapes] for k in range(3))
    groups, hyper = [0] * len(params), np.array([[RATE, MOMENTUM, 0, 0]])
    expected = [wide(*arrays) for arrays in (params, grads, velocities)]
    reference.optim.sgd(*expected, groups, hyper)

    def theirs(framework: Any) -> Job:
        torch = framework.torch
        tensors = [torch.nn.Parameter(framework.put(a)) for a in params]
        optimizer = torch.optim.SGD(tensors, lr=RATE, momentum=MOMENTUM, fused=True)
        for tensor, grad, velocity in zip(tensors, grads, velocities, strict=True):
            tensor.grad = framework.put(grad)
            optimizer.state[tensor]["momentum_buffer"] = framework.put(velocity)
        state = [optimizer.state[t]["momentum_buffer"] for t in tensors]
        return Job(optimizer.step, lambda _: [framework.get(a) for a in (*tensors, *state)])

    arguments, expected = [params, grads, velocities, groups, hyper], [*expected[0], *expected[2]]
    return case_of(name, "optim.sgd", arguments, (0, 2), expected, theirs, part=lambda array: array)


def positive(x: np.ndarray) -> np.ndarray:
    """ReLU."""
    return np.maximum(x, 0)


def relu_backward(torch: Any, gradient: Any, saved: Any, y: Any) -> Any:
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
        "add": simple("elementwise.add_forward", 2, np.add, lambda torch, a, b, y: torch.add(a, b, out=y)),
        "relu": simple("elementwise.relu_forward", 1, positive, lambda torch, x, y: torch.clamp_min(x, 0, out=y)),
        "relu, backward": simple("elementwise.relu_backward", 2, lambda dy, y: dy * (y > 0), relu_backward),
        "exp": simple("elementwise.exp_forward", 1, np.exp, lambda torch, x, y: torch.exp(x, out=y)),
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
