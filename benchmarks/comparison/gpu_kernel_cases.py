"""Kernels that only move memory, on minigrad's side and PyTorch's: what `gpu_kernels` times.

A case is made when its turn comes, since its arrays are large. What it counts as moved is the fewest bytes there can be:
each array read or written once, but for Batch Normalization (gpu_norm_cases).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.comparison.gpu_norm_cases import norm_backward, norm_forward
from benchmarks.comparison.gpu_sides import OURS, THEIRS, Case, Ours, Theirs, Work, normal
from minigrad.kernels import reference
from minigrad.kernels.axes import broadcast_layout
from minigrad.ops.window import resolve

ELEMENTWISE, NORM, OPTIMIZER, OTHER = "element-wise", "batch norm", "optimizer", "other"
ELEMENTS = 1 << 26
BATCH = 250
ROWS, CLASSES = 1 << 15, 1000
LAYERS = ((32, 128), (32, 16), (16, 320), (8, 384))  # side and channels of normalized images of the Inception
POOLS = ((32, 256, 1), (32, 480, 2), (8, 832, 1))  # side, channels and stride of its pools
RATE, MOMENTUM = 1e-3, 0.9

Made = tuple[str, Callable[[], Case]]  # group, and what makes the case


def some(array: np.ndarray) -> np.ndarray:
    """Of a long array every 1009th element or row (a prime, so that all places in a block have their turn)."""
    return array[:: 1009 if len(array) > 1 << 17 else 1]


def ours_of(side: Ours, family: str, name: str, given: list, results: list) -> Work:
    """A call of a kernel, and the arrays that are its results."""
    kernel = getattr(getattr(side.device.kernels, family), name)
    return Work(lambda: kernel(*given), lambda _: [some(side.get(array)) for array in results])


def elementwise(name: str, family: str, kernel: str, inputs: int, formula: Callable, call: Callable, n: int) -> Case:
    """y = f(x) or f(a, b); `formula` in NumPy, `call(torch, out, *inputs)` in PyTorch."""
    arrays = [normal(n, seed=i) for i in range(inputs)]
    layout = broadcast_layout((n,), (n,))[1:] if inputs == 2 and kernel.endswith("_forward") else ()

    def ours(side: Ours) -> Work:
        y = side.room(n)
        return ours_of(side, family, kernel, [*map(side.put, arrays), y, *layout], [y])

    def theirs(side: Theirs) -> Work:
        given, y = [*map(side.put, arrays)], side.room(n)
        return Work(lambda: call(side.torch, y, *given), lambda _: [some(side.get(y))])

    expected = formula(*[some(array).astype(float) for array in arrays])
    return Case(name, 4 * n * (inputs + 1), 0, [expected], {OURS: ours, THEIRS: theirs})


def converted(n: int) -> Case:
    """float32 to float64."""
    x = normal(n)

    def ours(side: Ours) -> Work:
        y = side.room(n, dtype=np.float64)
        return ours_of(side, "movement", "copy", [side.put(x), y], [y])

    def theirs(side: Theirs) -> Work:
        given, y = side.put(x), side.room(n, dtype=np.float64)
        return Work(lambda: y.copy_(given), lambda _: [some(side.get(y))])

    return Case("float32 to float64", 12 * n, 0, [some(x).astype(float)], {OURS: ours, THEIRS: theirs})


def transposed(n: int) -> Case:
    """A square matrix of about n elements."""
    side_length = math.isqrt(n)
    x = normal(side_length, side_length)
    lengths, strides = [1] * 4 + [side_length] * 2, [0] * 4 + [1, side_length]

    def ours(side: Ours) -> Work:
        y = side.room(side_length * side_length)
        given = [side.put(x.ravel()), tuple(lengths), tuple(strides), 0, y]
        return ours_of(side, "movement", "strided_read", given, [y])

    def theirs(side: Theirs) -> Work:
        given, y = side.put(x), side.room(side_length, side_length)
        return Work(lambda: y.copy_(given.T), lambda _: [some(side.get(y).ravel())])

    return Case("transpose", 8 * x.size, 0, [some(x.T.ravel()).astype(float)], {OURS: ours, THEIRS: theirs})


def max_pool(batch: int, length: int, c: int, stride: int, backward: bool) -> Case:
    """3 x 3 windows, forward with the place of each maximum, or backward."""
    window = resolve("pool", (length, length), 3, stride, "same")
    x, dy = normal(batch, length, length, c), normal(batch, window.oh, window.ow, c, seed=1)
    few = slice(None, None, max(1, batch // 3))
    y, winner, dx = np.empty(dy[few].shape), np.empty(dy[few].shape, np.uint8), np.empty(x[few].shape)
    reference.pool.max_pool_forward(x[few].astype(float), window, y, winner)
    reference.pool.max_pool_backward(dy[few].astype(float), winner, window, dx)

    def ours(side: Ours) -> Work:
        kernels = side.device.kernels.pool
        image, found, places = side.put(x), side.room(*dy.shape), side.room(*dy.shape, dtype=np.uint8)
        if not backward:
            given = image, window, found, places
            return Work(lambda: kernels.max_pool_forward(*given), lambda _: [side.get(a)[few] for a in (found, places)])
        kernels.max_pool_forward(image, window, found, places)
        gradient, result = side.put(dy), side.room(*x.shape)
        return Work(
            lambda: kernels.max_pool_backward(gradient, places, window, result), lambda _: [side.get(result)[few]]
        )

    def theirs(side: Theirs) -> Work:
        aten, image, gradient = side.torch.ops.aten, side.images(x), side.images(dy)
        how = [3, 3], [stride, stride], [window.top, window.left], [1, 1], stride > 1  # the last is ceil_mode
        if not backward:
            return Work(
                lambda: aten.max_pool2d_with_indices(image, *how),
                lambda got: [side.get_images(got[0])[few], winner],
            )
        places = aten.max_pool2d_with_indices(image, *how)[1]
        return Work(
            lambda: aten.max_pool2d_with_indices_backward(gradient, image, *how, places),
            lambda got: [side.get_images(got)[few]],
        )

    name = f"max pool 3x3/{stride} {batch} x {length}x{length}x{c}, {'backward' if backward else 'forward'}"
    nbytes = x.nbytes + dy.nbytes + dy.size  # one byte for the place of each maximum
    return Case(name, nbytes, 0, [dx] if backward else [y, winner], {OURS: ours, THEIRS: theirs})


def softmax(rows: int, classes: int) -> Case:
    """Of rows."""
    x = normal(rows, classes)
    y = np.empty(some(x).shape)
    reference.loss.softmax_forward(some(x).astype(float), y)

    def ours(side: Ours) -> Work:
        found = side.room(rows, classes)
        return ours_of(side, "loss", "softmax_forward", [side.put(x), found], [found])

    def theirs(side: Theirs) -> Work:
        given = side.put(x)
        return Work(lambda: side.torch.softmax(given, 1), lambda got: [some(side.get(got))])

    return Case(f"softmax {rows} x {classes}", 2 * x.nbytes, 0, [y], {OURS: ours, THEIRS: theirs})


def cross_entropy(rows: int, classes: int, backward: bool) -> Case:
    """Forward with the probabilities that backward needs, or backward."""
    x, labels = normal(rows, classes), np.random.default_rng(1).integers(0, classes, rows)
    probs, loss, one = np.empty(x.shape), np.empty(1), np.ones(1, np.float32)
    reference.loss.cross_entropy_forward(x.astype(float), labels, probs, loss)
    dx = some(probs).copy()
    dx[np.arange(len(dx)), some(labels)] -= 1
    dx /= rows

    def ours(side: Ours) -> Work:
        kernels = side.device.kernels.loss
        given = side.put(x), side.put(labels), side.room(rows, classes), side.room(1)
        if not backward:
            return Work(
                lambda: kernels.cross_entropy_forward(*given), lambda _: [some(side.get(given[2])), side.get(given[3])]
            )
        kernels.cross_entropy_forward(*given)
        seed, found = side.put(one), side.room(rows, classes)
        return Work(
            lambda: kernels.cross_entropy_backward(seed, given[2], given[1], found), lambda _: [some(side.get(found))]
        )

    def theirs(side: Theirs) -> Work:
        torch, given, targets = side.torch, side.put(x), side.put(labels)
        if not backward:
            return Work(
                lambda: torch.nn.functional.cross_entropy(given, targets),
                lambda got: [some(probs), side.get(got).reshape(1)],
            )
        logs, seed = torch.log_softmax(given, 1), side.put(np.float32(1))
        total = torch.ops.aten.nll_loss_forward(logs, targets, None, 1, -100)[1]

        def call() -> Any:
            d = torch.ops.aten.nll_loss_backward(seed, logs, targets, None, 1, -100, total)
            return torch.ops.aten._log_softmax_backward_data(d, logs, 1, torch.float32)

        return Work(call, lambda got: [some(side.get(got))])

    name = f"cross entropy {rows} x {classes}, {'backward' if backward else 'forward'}"
    expected = [dx] if backward else [some(probs), loss]
    return Case(name, 2 * x.nbytes + labels.nbytes, 0, expected, {OURS: ours, THEIRS: theirs})


def sgd(shapes: list[tuple[int, ...]]) -> Case:
    """SGD with momentum over parameters of these shapes, in PyTorch by its fused optimizer."""
    params, grads, velocities = ([normal(*s, seed=k) for s in shapes] for k in range(3))
    expected = [[a.astype(float) for a in arrays] for arrays in (params, grads, velocities)]
    hyper = np.array([RATE, MOMENTUM, 0, 0])
    reference.optim.sgd(*expected, hyper)
    expected = [*expected[0], *expected[2]]

    def ours(side: Ours) -> Work:
        given = [[side.put(a) for a in arrays] for arrays in (params, grads, velocities)]
        numbers, kernel = side.put(hyper), side.device.kernels.optim.sgd
        return Work(lambda: kernel(*given, numbers), lambda _: [side.get(a) for a in (*given[0], *given[2])])

    def theirs(side: Theirs) -> Work:
        torch = side.torch
        tensors = [torch.nn.Parameter(side.put(a)) for a in params]
        optimizer = torch.optim.SGD(tensors, lr=RATE, momentum=MOMENTUM, fused=True)
        for tensor, grad, velocity in zip(tensors, grads, velocities, strict=True):
            tensor.grad = side.put(grad)
            optimizer.state[tensor]["momentum_buffer"] = side.put(velocity)
        return Work(
            optimizer.step,
            lambda _: [side.get(a) for a in (*tensors, *(optimizer.state[t]["momentum_buffer"] for t in tensors))],
        )

    numbers = sum(a.size for a in params)
    name = f"SGD with momentum, {len(shapes)} arrays, {numbers:,} numbers"
    return Case(name, 5 * 4 * numbers, 0, expected, {OURS: ours, THEIRS: theirs})


def cases(
    shapes: list[tuple[int, ...]],
    cache: int,
    *,
    elements: int = ELEMENTS,
    batch: int = BATCH,
    rows: int = ROWS,
    classes: int = CLASSES,
    layers: tuple = LAYERS,
    pools: tuple = POOLS,
) -> Iterator[Made]:
    """All of them; `shapes` are those of the parameters that the optimizer updates, `cache` the bytes of the cache."""
    for given in (
        ("add", "elementwise", "add_forward", 2, np.add, lambda torch, y, a, b: torch.add(a, b, out=y)),
        ("relu", "elementwise", "relu_forward", 1, positive, lambda torch, y, x: torch.clamp_min(x, 0, out=y)),
        ("relu, backward", "elementwise", "relu_backward", 2, lambda dy, y: dy * (y > 0), relu_backward),
        ("exp", "elementwise", "exp_forward", 1, np.exp, lambda torch, y, x: torch.exp(x, out=y)),
    ):
        yield ELEMENTWISE, lambda given=given: elementwise(*given, elements)
    yield OTHER, lambda: converted(elements)
    yield OTHER, lambda: transposed(elements)
    for layer in layers:
        yield NORM, lambda layer=layer: norm_forward(batch, *layer, cache)
        yield NORM, lambda layer=layer: norm_backward(batch, *layer, cache)
    for pool in pools:
        for backward in (False, True):
            yield OTHER, lambda pool=pool, backward=backward: max_pool(batch, *pool, backward)
    yield OTHER, lambda: softmax(rows, classes)
    for backward in (False, True):
        yield OTHER, lambda backward=backward: cross_entropy(rows, classes, backward)
    yield OPTIMIZER, lambda: sgd(shapes)


def positive(x: np.ndarray) -> np.ndarray:
    """ReLU."""
    return np.maximum(x, 0)


def relu_backward(torch: Any, y: Any, gradient: Any, saved: Any) -> Any:
    """PyTorch's, which takes the place of its result by name."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, saved, 0, grad_input=y)
