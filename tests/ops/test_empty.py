"""Axes of length zero, in all ops: what there is of results and gradients was computed, and where nothing was, it is zero."""

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device

LENGTHS = {"n": 2, "m": 3, "h": 4, "w": 5, "c": 3, "k": 4, "p": 3, "q": 2, "1": 1}
CASES = {  # a function, and the shapes of what it is given: a letter for each axis, of which each may be of length zero
    "add": (mg.add, "nm", "nm"),
    "add, broadcast": (mg.add, "nm", "m"),
    "add, broadcast to several": (mg.add, "n1m", "cm"),
    "sub": (mg.sub, "nm", "1m"),
    "mul": (mg.mul, "nm", "n1"),
    "div": (lambda a, b: a / (b + 10.0), "nm", "m"),
    "by a number": (lambda x: 2.0 / (x * 3.0 + 10.0), "nm"),
    "exp": (mg.exp, "nm"),
    "log": (lambda x: (x * x + 1.0).log(), "nm"),
    "sqrt": (lambda x: (x * x + 1.0).sqrt(), "nm"),
    "tanh": (mg.tanh, "nm"),
    "sigmoid": (mg.sigmoid, "nm"),
    "relu": (mg.relu, "nm"),
    "power": (lambda x: x**2, "nm"),
    "power, of a half": (lambda x: (x * x + 1.0) ** 0.5, "nm"),
    "gelu": (mg.gelu, "nm"),
    "where": (lambda a, b: mg.where(a > 0, a, b), "nm", "m"),
    "formula of three": (mg.elementwise(lambda a, b, c: a * b + mg.tanh(c)), "n1m", "cm", "m"),
    "flip": (mg.flip, "nm"),
    "pad": (lambda x: mg.pad(x, 1), "nm"),
    "broadcast_to": (lambda x: mg.broadcast_to(x, (2, *x.shape)), "nm"),
    "at set": (lambda x, v: x.at[:].set(v), "nm", "m"),
    "take_along_axis": (lambda x: mg.take_along_axis(x, np.zeros((x.shape[0], 2), int), 1), "nm"),
    "stack": (lambda *xs: mg.stack(xs), "nm", "nm"),
    "cumsum": (lambda x: mg.cumsum(x, 0), "nm"),
    "prod": (lambda x: mg.prod(x, 1), "nm"),
    "var": (lambda x: mg.var(x, 1), "nm"),
    "logsumexp": (lambda x: mg.logsumexp(x, 1), "nm"),
    "einsum": (lambda a, b: mg.einsum("ij,jk->ik", a, b), "nm", "mk"),
    "sum": (mg.sum, "nm"),
    "sum over the first axis": (lambda x: x.sum(0), "nmc"),
    "sum over the middle axis": (lambda x: x.sum(1, keepdims=True), "nmc"),
    "sum over two axes": (lambda x: x.sum((0, 2)), "nmc"),
    "mean": (lambda x: x.mean(1), "nm"),
    "max": (lambda x: x.max(1), "nm"),
    "max over two axes": (lambda x: x.max((0, 2)), "nmc"),
    "softmax": (mg.softmax, "nm"),
    "softmax over the first axis": (lambda x: mg.softmax(x, axis=0), "nmc"),
    "log_softmax": (mg.log_softmax, "nm"),
    "reshape": (lambda x: x.reshape(x.size), "nm"),
    "transpose": (lambda x: x.transpose(1, 2, 0), "nmc"),
    "slice": (lambda x: x[1:, ::-2], "nm"),
    "rows": (lambda x: x[np.zeros(3, int)], "nm"),
    "no rows": (lambda x: x[mg.tensor(np.zeros(0, np.int64), device=x.device)], "nm"),
    "concat": (lambda *xs: mg.concat(xs), "nm", "nc", "nm"),
    "concat on the first axis": (lambda *xs: mg.concat(xs, axis=0), "nm", "cm"),
    "split": (lambda x: mg.concat(mg.split(x, [1, 3], 1)[::-1], 1), "nm"),
    "unstack": (lambda x: sum(mg.unstack(x, 1), x[:, 0]), "nmc"),
    "to": (lambda x: x.to("float64"), "nm"),
    "matmul": (mg.matmul, "nm", "mk"),
    "matmul of a vector and a matrix": (mg.matmul, "m", "mk"),
    "matmul of a matrix and a vector": (mg.matmul, "nm", "m"),
    "matmul of vectors": (mg.matmul, "m", "m"),
    "matmul of a stack and a matrix": (mg.matmul, "cnm", "mk"),
    "matmul of stacks": (mg.matmul, "cnm", "cmk"),
    "matmul of a matrix and a stack": (mg.matmul, "nm", "cmk"),
    "linear": (mg.linear, "nm", "mk", "k"),
    "linear of several axes": (mg.linear, "hnm", "mk", "k"),
    "linear without bias": (mg.linear, "nm", "mk"),
    "conv2d": (lambda x, w, b: mg.conv2d(x, w, b, padding=1), "nhwc", "pqck", "k"),
    "conv2d with stride and dilation": (lambda x, w: mg.conv2d(x, w, stride=2, dilation=2, padding=2), "nhwc", "pqck"),
    "conv2d, depthwise": (lambda x, w, b: mg.conv2d(x, w, b, padding=1, groups=3), "nhwc", "pq1c", "c"),
    "conv2d in groups": (lambda x, w, b: mg.conv2d(x, w, b, padding=1, groups=2), "nhwk", "pqqk", "k"),
    "conv2d, as a product": (mg.conv2d, "nhwc", "11ck", "k"),
    "conv1d": (lambda x, w, b: mg.conv1d(x, w, b, padding=1), "nhc", "pck", "k"),
    "conv_transpose2d": (lambda x, w, b: mg.conv_transpose2d(x, w, b, stride=2, padding=1), "nhwc", "pqck", "k"),
    "conv_transpose2d, depthwise": (lambda x, w: mg.conv_transpose2d(x, w, groups=3), "nhwc", "pqc1"),
    "max_pool2d": (lambda x: mg.max_pool2d(x, 2, padding=1), "nhwc"),
    "avg_pool2d": (lambda x: mg.avg_pool2d(x, 2, stride=1), "nhwc"),
    "interpolate": (lambda x: mg.interpolate(x, scale=1.5, mode="bilinear"), "nhwc"),
    "adaptive_avg_pool2d": (lambda x: mg.adaptive_avg_pool2d(x, (2, 3)), "nhwc"),
    "global_avg_pool": (mg.global_avg_pool, "nhwc"),
    "batch_norm": (lambda *xs: mg.batch_norm(*xs, None, None, training=True), "nhc", "c", "c"),
    "batch_norm with relu": (
        lambda *xs: mg.batch_norm(*xs, None, None, training=True, activation="relu"), "nhc", "c", "c",
    ),
    "batch_norm in inference": (lambda *xs: inference(*xs), "nhc", "c", "c"),
    "layer_norm": (mg.layer_norm, "nhm", "m", "m"),
    "rms_norm": (mg.rms_norm, "nm", "m"),
    "attention": (mg.scaled_dot_product_attention, "cnm", "ckm", "ckh"),
    "rnn": (lambda *xs: everything(mg.rnn(*xs)), "nhc", "nk", "ck", "kk", "k", "k"),
    "lstm": (lambda x, h, w, u: everything(mg.lstm(x, h, h, four(w), four(u))), "nhc", "nk", "ck", "kk"),
    "gru": (lambda x, h, w, u, b: everything(mg.gru(x, h, *map(three, (w, u, b, b)))), "nhc", "nk", "ck", "kk", "k"),
    "embedding": (lambda w: mg.embedding(np.zeros((2, 0), int), w), "nm"),
    "local_response_norm": (mg.local_response_norm, "nc"),
    "dropout": (lambda x: mg.dropout(x, 0.5, training=True, seed=3), "nm"),
    "cross_entropy": (lambda x: mg.cross_entropy(x, np.zeros(x.shape[0], int)), "nm"),
    "nll_loss": (lambda x: mg.nll_loss(x, np.zeros(x.shape[0], int), reduction="sum"), "nm"),
    "cross_entropy with options": (
        lambda x: mg.cross_entropy(x, np.zeros(x.shape[0], int), label_smoothing=0.1, reduction="none"), "nm",
    ),
    "mse_loss": (lambda x, t: mg.mse_loss(x, t, reduction="sum"), "nm", "nm"),
    "l1_loss": (lambda x, t: mg.l1_loss(x, t, reduction="none"), "nm", "nm"),
    "huber_loss": (lambda x, t: mg.huber_loss(x, t, reduction="sum"), "nm", "nm"),
    "binary_cross_entropy_with_logits": (
        lambda x, t: mg.binary_cross_entropy_with_logits(x, t, reduction="sum"), "nm", "nm",
    ),
    "kl_div": (lambda x, t: mg.kl_div(x, t * t, reduction="sum"), "nm", "nm"),
}  # fmt: skip


def everything(results):
    """All that a recurrent layer gives."""
    y, *states = results
    return mg.concat([y, *[mg.expand_dims(s, 1) for s in states]], axis=1)


def three(w):
    return mg.concat([w, w, w])


def four(w):
    return mg.concat([w, w, w, w])


def inference(x, gamma, beta):
    mean, var = (mg.tensor(np.ones(x.shape[-1], np.float32), device=x.device) for _ in range(2))
    return mg.batch_norm(x, gamma, beta, mean, var, training=False)


def choices():
    """(name, the axes without length) for every case and every choice of its axes."""
    for name, (_, *shapes) in CASES.items():
        letters = sorted(set("".join(shapes)) - {"1"})
        for count in range(len(letters) + 1):
            for empty in itertools.combinations(letters, count):
                yield name, "".join(empty)


CHOICES = list(choices())


def fill_new_arrays(home, monkeypatch):
    """New arrays of a device are full of NaN, or of 77, from here on."""
    allocate = home.empty

    def empty(shape, dtype):
        y = allocate(shape, dtype)
        home.write(y, np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 77, dtype))
        return y

    monkeypatch.setattr(home, "empty", empty)


@pytest.fixture
def device_with_old_memory(device, monkeypatch):
    """The device's name; new arrays are full of NaN, or of 77, as memory is that was used before."""
    fill_new_arrays(get_device(device), monkeypatch)
    return device


def compute(name, empty, device, rng):
    """(leaves, result) of a case; None where it is refused."""
    function, *shapes = CASES[name]
    arrays = [rng.standard_normal([0 if a in empty else LENGTHS[a] for a in shape]).astype("f4") for shape in shapes]
    leaves = [mg.tensor(array, device=device, requires_grad=True) for array in arrays]
    try:
        return leaves, function(*leaves)
    except (ValueError, IndexError):
        return None


def assert_computed(leaves, y):
    """Nothing of results and gradients is old memory, and gradients through nothing are zero."""
    assert np.isfinite(y.numpy()).all()
    for leaf in leaves:
        assert leaf.grad.shape == leaf.shape
        assert np.isfinite(leaf.grad.numpy()).all()
        if not y.size:
            assert (leaf.grad.numpy() == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_hold_no_old_memory(name, device_with_old_memory, rng):
    for empty in [empty for case, empty in CHOICES if case == name]:
        computed = compute(name, empty, device_with_old_memory, rng)
        if computed is not None:
            leaves, y = computed
            y.backward(np.ones(y.shape, y.dtype))
            assert_computed(leaves, y)


def test_every_case_computes_something_with_no_axis_empty(device, rng):
    assert all(compute(name, "", device, rng) is not None for name in CASES)


def test_old_memory_would_be_seen(device_with_old_memory):
    home = get_device(device_with_old_memory)
    assert np.isnan(home.to_host(home.empty((3,), np.dtype(np.float32)))).all()
