"""What `minigrad verify` holds against plain NumPy, and how."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.cli.steps import eager, experiment_step
from minigrad.devices import get_device

OpCase = tuple[Callable[..., mg.Tensor], tuple[np.ndarray, ...]]  # a function of tensors, and its inputs


def op_cases() -> dict[str, OpCase]:
    """By family and op, what is computed of what."""
    rng = np.random.default_rng(0)
    x, w, g = rng.standard_normal((7, 19)), rng.standard_normal((19, 5)), rng.standard_normal(19)
    images, windows = rng.standard_normal((2, 7, 6, 3)), rng.standard_normal((3, 3, 3, 5))
    apart = rng.permutation(images.size).reshape(images.shape) / images.size  # no two alike: maxima are no ties
    labels = rng.integers(0, 5, 7)
    fixed = [mg.tensor(np.full(19, 0.5)), mg.tensor(np.full(19, 2.0))]

    def normalized(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        mean, var = (t.to(a.dtype).to(a.device) for t in fixed)
        return mg.batch_norm(a, b, None, mean, var, training=False)

    def recurrent(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        a, c, parts = a.reshape(1, *a.shape), b[:5], []
        for count, op in (1, mg.rnn), (4, functools.partial(mg.lstm, c0=None)), (3, mg.gru):
            parts.append(op(a, None, w_ih=mg.concat([b] * count), w_hh=mg.concat([c] * count))[0])
        return mg.concat(parts)

    return {
        "gemm: linear": (mg.linear, (x, w)),
        "gemm: matmul in batches": (lambda a: a @ a.transpose(0, 2, 1), (images[0],)),
        "elementwise: arithmetic": (lambda a, b: (a * b + a / (b * b + 1) - b).tanh(), (x, g)),
        "elementwise: relu, exp, log, sqrt": (lambda a: (mg.relu(a).exp() + (a * a + 1).log()).sqrt(), (x,)),
        "elementwise: sigmoid": (mg.sigmoid, (x,)),
        "pointwise: gelu, silu, softplus, clip": (
            lambda a: mg.gelu(a) + mg.silu(a) * mg.softplus(a).clip(0.1, 0.9),
            (x,),
        ),
        "pointwise: a formula, broadcast": (mg.elementwise(lambda a, b: a * mg.tanh(a + b) / (1 + b * b)), (x, g)),
        "reduce: sum, mean, max": (lambda a: a.sum(0) + a.mean(0) + a.max(0), (apart[0],)),
        "movement: transpose, index, concat": (lambda a: mg.concat([a[1:, ::2].T, a.T[::2, :6]]), (x,)),
        "movement: split, unstack": (
            lambda a: mg.split(a, [2, 9], axis=1)[1] * mg.unstack(a, axis=1)[3][:, None],
            (x,),
        ),
        "loss: softmax": (mg.softmax, (x,)),
        "loss: cross_entropy": (lambda a, b: mg.cross_entropy(a @ b, labels), (x, w)),
        "loss: cross_entropy with options": (
            lambda a, b: mg.cross_entropy(a @ b, labels, weight=[0.5, 1, 2, 1, 3], ignore_index=2, label_smoothing=0.1),
            (x, w),
        ),
        "loss: huber, binary cross-entropy, divergence": (
            lambda a, b: (
                mg.huber_loss(a, a * b, delta=0.7)
                + mg.binary_cross_entropy_with_logits(a, mg.sigmoid(a * b), pos_weight=2.0)
                + mg.kl_div(a, mg.softmax(a * b), reduction="batchmean")
            ),
            (x, g),
        ),
        "norm: batch_norm": (lambda a, b: mg.batch_norm(a, b, None, None, None, training=True), (x, g)),
        "norm: batch_norm by fixed statistics": (normalized, (x, g)),
        "layer_norm: layer_norm, rms_norm": (lambda a, b: mg.layer_norm(a, b, b) + mg.rms_norm(a * b, b), (x, g)),
        "layer_norm: group_norm": (lambda a: mg.group_norm(a, 3), (images,)),
        "attention: scaled_dot_product_attention": (
            lambda a, b: mg.scaled_dot_product_attention(a, a * 0.5, a @ b, is_causal=True),
            (x, w),
        ),
        "recurrent: rnn, lstm, gru": (recurrent, (x, w)),
        "movement: embedding": (lambda a: mg.embedding([3, 0, 3, 6], a), (x,)),
        "conv: conv2d": (lambda a, b: mg.conv2d(a, b, padding=1), (images, windows)),
        "conv: conv2d, stride 2": (lambda a, b: mg.conv2d(a, b, stride=2), (images, windows)),
        "depthwise: conv2d of single channels": (
            lambda a, b: mg.conv2d(a, b[:, :, :1, :3], padding=1, groups=3),
            (images, windows),
        ),
        "depthwise: conv2d in groups": (
            lambda a, b: mg.conv2d(mg.concat([a, a]), b[..., :4], padding=1, groups=2),
            (images, windows),
        ),
        "conv: conv1d, conv_transpose2d": (
            lambda a, b: mg.conv_transpose2d(
                mg.conv1d(a[:, 0], b[0], padding=1)[:, :3, None], b.transpose(0, 1, 3, 2), stride=2
            ),
            (images, windows),
        ),
        "pool: max_pool2d": (lambda a: mg.max_pool2d(a, 3, stride=2, padding=1), (apart,)),
        "pool: avg_pool2d, global_avg_pool": (lambda a: mg.global_avg_pool(mg.avg_pool2d(a, 2)), (images,)),
        "resample: interpolate, adaptive_avg_pool2d": (
            lambda a: mg.adaptive_avg_pool2d(mg.interpolate(a, size=(9, 5), mode="bilinear"), (4, 3)),
            (images,),
        ),
        "lrn: local_response_norm": (mg.local_response_norm, (images,)),
        "dropout": (lambda a: mg.dropout(a, 0.5, training=True, seed=3), (x,)),
    }


def check_op(device: str, function: Callable[..., mg.Tensor], inputs: tuple[np.ndarray, ...]) -> None:
    """Hold gradients against finite differences, and results against plain NumPy in both precisions."""
    from minigrad.testing import check_grads

    check_grads(function, *inputs, device=device)
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
        ours, plain = (
            function(*[mg.tensor(a, dtype=dtype, device=home) for a in inputs]).numpy()
            for home in (device, "reference")
        )
        np.testing.assert_allclose(ours, plain, rtol=bound, atol=bound)


ERRORS = {"bf16_3x": 2**-15, "tf32": 2**-10, "bf16": 2**-7}  # of a product, relative, as mg.matmul_precision promises
SUMS = 2**-20  # what float32 sums add to that
PRODUCTS: dict[str, tuple[Callable[..., mg.Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (mg.linear, (128, 120), (120, 72)),  # just over a million multiply-adds, which stay in float32
    "conv2d": (functools.partial(mg.conv2d, padding=1), (3, 12, 12, 16), (3, 3, 16, 24)),
}


def check_precision(device: str, precision: str) -> None:
    """Hold products and convolutions in a precision, and their gradients, against float64.

    An element is a sum of products; it may be as wrong as the sum of what each of them may be.
    """
    rng = np.random.default_rng(0)
    for name, (function, *shapes) in PRODUCTS.items():
        x, w = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        y = function(mg.tensor(x, device="reference"), mg.tensor(w, device="reference"))
        dy = rng.standard_normal(y.shape).astype(np.float32)
        exact = with_gradients(function, "reference", np.float64, x, w, dy)
        sizes = with_gradients(function, "reference", np.float64, *map(np.abs, (x, w, dy)))
        with mg.matmul_precision(precision):
            found = with_gradients(function, device, np.float32, x, w, dy)
        for what, ours, right, size in zip(("result", "dx", "dw"), found, exact, sizes, strict=True):
            error, bound = (np.abs(ours - right) / size).max(), ERRORS[precision] + SUMS
            assert error <= bound, f"{what} of {name}: an error of {error:.1e}, {bound:.1e} is promised"


def with_gradients(
    function: Callable[..., mg.Tensor], device: str, dtype: Any, x: np.ndarray, w: np.ndarray, dy: np.ndarray
) -> list[np.ndarray]:
    """What a function of two tensors gives, and their gradients."""
    a, b = (mg.tensor(v, dtype=dtype, device=device, requires_grad=True) for v in (x, w))
    y = function(a, b)
    y.backward(mg.tensor(dy, dtype=dtype, device=device))
    return [t.numpy() for t in (y, a.grad, b.grad) if t is not None]


def check_optimizers(device: str) -> None:
    """Hold three steps of each optimizer against plain NumPy."""
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((9, 4)), rng.standard_normal((3, 9, 4))
    for make in (
        functools.partial(mg.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        mg.optim.AdaGrad,
        functools.partial(mg.optim.RMSprop, momentum=0.9, centered=True),
        mg.optim.Adam,
        functools.partial(mg.optim.AdamW, lr=0.1, weight_decay=0.1, ema=0.9),
    ):
        results = []
        for home in (device, "reference"):
            w = mg.tensor(start, dtype="float32", device=home, requires_grad=True)
            optimizer = make([w])
            for gradient in gradients:
                w.grad = mg.tensor(gradient, dtype="float32", device=home)
                mg.optim.clip_grad_norm([w], 3.0)
                mg.optim.clip_grad_value([w], 1.0)
                optimizer.step()
            with optimizer.averaged() if optimizer.ema else contextlib.nullcontext():
                results.append(w.numpy().copy())  # the average, which on the CPU is there only inside
        np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6, err_msg=repr(optimizer))


def check_augmentation(device: str) -> None:
    """Hold the kernels of augmentation against plain NumPy."""
    rng = np.random.default_rng(0)
    images = rng.random((3, 8, 7, 3), np.float32)
    maps = np.array([[1.0, 0, 0], [0, 1, 0]]) + rng.uniform(-0.3, 0.3, (3, 2, 3))
    shifts, flips = rng.integers(-2, 3, (3, 2)), np.array([True, False, True])
    each = rng.random(3).astype(np.float32)
    calls: dict[str, tuple[Any, ...]] = {
        "affine": (images, maps, 1.0),
        "shift_crop": (images, shifts, flips, True),
        "brightness_contrast": (images, each.astype(np.float64), each.astype(np.float64), 1.0),
        "normalize": (images, each, each),
    }
    for name, arguments in calls.items():
        results = []
        for home in map(get_device, (device, "reference")):
            y = home.zeros(images.shape, images.dtype)
            given = [home.from_host(a) if isinstance(a, np.ndarray) else a for a in arguments]
            getattr(home.kernels.augment, name)(*given, y)
            results.append(home.to_host(y))
        np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5, err_msg=name)


def check_capture(device: str) -> None:
    """Hold five captured steps of the MNIST experiment against eager ones."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((60, 784), np.float32), rng.integers(0, 10, 60)
    losses = []
    for captured in (False, True):
        mg.manual_seed(0)
        step = experiment_step(True, device)[1]
        run = step if captured else eager(step, device)
        losses.append([run(images, labels).item() for _ in range(5)])
    assert losses[0] == losses[1], f"losses of eager steps {losses[0]}, of captured ones {losses[1]}"
