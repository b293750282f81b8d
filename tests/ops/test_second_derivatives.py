"""Every op that can be derived twice: gradients on the tape are backward's, and their gradients are right by differences."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops.table import TABLE
from minigrad.testing import check_grads

LABELS = np.array([2, 0, 1])


def norm(**options):
    """Batch normalization of the two forms, with an activation."""
    training = options.pop("training", True)

    def function(x, gamma, beta):
        statistics = (None, None) if training else (np.full(x.shape[-1], 0.1), np.full(x.shape[-1], 1.5))
        return mg.batch_norm(x, gamma, beta, *statistics, training=training, **options)

    return function


def branches(x, gamma, beta):
    """Three branches, of which two are normalized, as `mg.nn.Concat` joins them."""
    normed = mg.ops.Normalization(gamma, beta, None, None, 0.9, 1e-5)
    plain = mg.ops.Normalization(None, None, None, None, 0.9, 1e-5)
    return mg.ops.concat_branches(
        [
            mg.ops.Branch(x, normed, "sigmoid"),
            mg.ops.Branch(x * x, None, "relu"),
            mg.ops.Branch(x * 2.0, plain, "relu"),
            mg.ops.Branch(x, None, None),
        ]
    )


def recurrent(op, **options):
    """All that a recurrent layer gives, in one tensor."""

    def function(*inputs):
        y, *last = op(*inputs, **options)
        return mg.concat([y, *[mg.expand_dims(state, 1) for state in last]], axis=1)

    return function


IMAGES = (2, 5, 4, 2)
SEQUENCE, STATE = (2, 3, 2), (2, 2)
SEEN = np.array([[[True, False, True], [False, False, False]], [[True, True, True], [False, True, True]]])  # by head
ADDED = np.array([[[0.5, -1.0, -np.inf]], [[-np.inf, 0.0, 2.0]]])
CASES = {  # a function of tensors, and their shapes
    "add": (lambda a, b: (a + b) * a, (3, 4), (4,)),
    "sub": (lambda a, b: (a - b) * b, (3, 1), (4,)),
    "mul": (lambda a, b: a * b, (3, 4), (3, 1)),
    "div": (lambda a, b: a / (b * b + 1.0), (3, 4), (4,)),
    "exp": (mg.exp, (3, 4)),
    "log": (lambda x: (x * x + 1.0).log(), (3, 4)),
    "sqrt": (lambda x: (x * x + 1.0).sqrt(), (3, 4)),
    "tanh": (mg.tanh, (3, 4)),
    "sigmoid": (mg.sigmoid, (3, 4)),
    "relu": (lambda x: x.relu() * x, (3, 4)),
    "power": (lambda x: x**3 + x**2 + x**1 + (x * x + 1.0) ** -0.5, (3, 4)),
    "formula": (mg.elementwise(lambda a, b: a * mg.tanh(a * b) + mg.where(a > b, a * a, b)), (3, 4), (4,)),
    "formula with its own derivative": (mg.softplus, (3, 4)),
    "where": (lambda a, b: mg.where(a > 0, a * b, b * b), (3, 4), (4,)),
    "sum": (lambda x: (x.sum(1) ** 2).sum() * x.sum((0, 2), keepdims=True), (2, 3, 2)),
    "mean": (lambda x: x.mean(0) * x.mean(), (3, 4)),
    "max": (lambda x: x.max(1) * x.max(), (3, 4)),
    "min over two axes": (lambda x: x.min((0, 2)) ** 2, (2, 3, 2)),
    "var, std": (lambda x: mg.var(x, 0) * mg.std(x, 0), (4, 3)),
    "prod": (lambda x: mg.prod(x, 1), (3, 4)),
    "cumsum": (lambda x: mg.cumsum(x, 1) ** 2, (3, 4)),
    "logsumexp": (lambda x: mg.logsumexp(x, 1), (3, 4)),
    "norm": (lambda x: mg.norm(x, axis=1), (3, 4)),
    "reshape": (lambda x: x.reshape(4, 3) * x.reshape(2, 6).reshape(4, 3), (3, 4)),
    "transpose": (lambda x: x.transpose(1, 2, 0) ** 2, (2, 3, 2)),
    "slice": (lambda x: x[1:, ::-2] ** 2, (3, 4)),
    "take": (lambda x: x[[0, 2, 0]] ** 2, (3, 4)),
    "take_along_axis": (lambda x: mg.take_along_axis(x, np.array([[0, 0], [3, 1], [2, 2]])) ** 2, (3, 4)),
    "concat": (lambda a, b: mg.concat([a, b * b], axis=0) ** 2, (2, 3), (1, 3)),
    "split": (lambda x: mg.split(x, [1, 3], 1)[1] ** 2 * mg.split(x, 2, 1)[0], (3, 4)),
    "unstack": (lambda x: mg.unstack(x)[1] * mg.unstack(x, 1)[0], (3, 3)),
    "broadcast_to": (lambda x: mg.broadcast_to(x, (2, 3, 4)) ** 2, (3, 1)),
    "pad": (lambda x: mg.pad(x, 1, 0.5) ** 2, (2, 3)),
    "flip": (lambda x: mg.flip(x, 1) * x, (3, 4)),
    "at set": (lambda x, v: x.at[1:].set(v) ** 2, (3, 4), (4,)),
    "at add": (lambda x, v: x.at[:, 1:].add(v) ** 2, (3, 4), (3,)),
    "at rows": (lambda x, v: x.at[[0, 0, 2]].add(v) ** 2, (3, 2), (3, 2)),
    "to": (lambda x: (x.to("float32").to("float64") * 0.0 + x) ** 2, (3, 2)),
    "linear": (mg.linear, (3, 4), (4, 2), (2,)),
    "linear of a vector": (mg.linear, (4,), (4, 2), (2,)),
    "linear of a stack": (lambda x, w: mg.linear(x, w), (2, 3, 4), (4, 2)),
    "matmul": (mg.matmul, (3, 4), (4, 2)),
    "matmul, stacks": (mg.matmul, (2, 3, 4), (2, 4, 2)),
    "matmul, broadcast": (mg.matmul, (3, 1, 2, 3), (2, 3, 2)),
    "einsum of diagonals": (lambda a: mg.einsum("...ii->...i", a) ** 2, (2, 3, 3)),
    "einsum": (lambda a, b: mg.einsum("bi,bij->j", a, b), (2, 3), (2, 3, 2)),
    "conv2d": (lambda *a: mg.conv2d(*a, padding=1), IMAGES, (3, 3, 2, 3), (3,)),
    "conv2d, stride 2": (lambda x, w: mg.conv2d(x, w, stride=2, padding=((0, 1), (1, 0))), IMAGES, (2, 3, 2, 3)),
    "conv2d, dilation 2": (lambda x, w: mg.conv2d(x, w, dilation=(2, 1)), IMAGES, (2, 2, 2, 1)),
    "conv2d, 1 x 1": (mg.conv2d, IMAGES, (1, 1, 2, 3), (3,)),
    "conv2d, depthwise": (lambda *a: mg.conv2d(*a, padding=1, groups=2), IMAGES, (3, 3, 1, 4), (4,)),
    "conv2d, groups": (lambda *a: mg.conv2d(*a, groups=2), (2, 4, 3, 4), (2, 2, 2, 4), (4,)),
    "conv_transpose2d": (lambda *a: mg.conv_transpose2d(*a, padding=1), IMAGES, (3, 3, 2, 3), (3,)),
    "conv_transpose2d, stride 2": (
        lambda x, w: mg.conv_transpose2d(x, w, stride=2, padding=((0, 1), (1, 0)), output_padding=1),
        IMAGES,
        (2, 3, 2, 1),
    ),
    "conv_transpose2d, depthwise": (lambda x, w: mg.conv_transpose2d(x, w, groups=2), IMAGES, (3, 2, 2, 1)),
    "conv_transpose2d, groups": (lambda x, w: mg.conv_transpose2d(x, w, groups=2), (1, 3, 2, 4), (2, 2, 4, 1)),
    "interpolate": (lambda x: mg.interpolate(x, size=(7, 3)) ** 2, IMAGES),
    "interpolate, bilinear": (lambda x: mg.interpolate(x, scale=1.7, mode="bilinear") ** 2, IMAGES),
    "adaptive_avg_pool2d": (lambda x: mg.adaptive_avg_pool2d(x, (3, 2)) ** 2, IMAGES),
    "attention": (mg.scaled_dot_product_attention, (2, 3, 2), (2, 4, 2), (2, 4, 3)),
    "attention, causal": (
        lambda q, k, v: mg.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        (2, 2, 3, 2),
        (2, 2, 3, 2),
        (2, 2, 3, 1),
    ),
    "attention, masked": (
        lambda q, k, v: mg.scaled_dot_product_attention(q, k, v, SEEN),
        (3, 2, 2, 2),
        (3, 2, 3, 2),
        (3, 2, 3, 1),
    ),
    "attention, a mask by head that is added": (
        lambda q, k, v: mg.scaled_dot_product_attention(q, k, v, ADDED, is_causal=True),
        (2, 2, 3, 2),
        (2, 2, 3, 2),
        (2, 2, 3, 1),
    ),
    "attention with dropout": (
        lambda q, k, v: mg.scaled_dot_product_attention(q, k, v, dropout_p=0.4, seed=3),
        (2, 3, 2),
        (2, 4, 2),
        (2, 4, 3),
    ),
    "self-attention": (lambda x: mg.ops.self_attention(x, is_causal=True), (3, 2, 3, 2)),
    "rnn": (recurrent(mg.rnn), SEQUENCE, STATE, (2, 2), (2, 2), (2,), (2,)),
    "rnn, relu, reverse": (
        recurrent(mg.rnn, nonlinearity="relu", reverse=True),
        SEQUENCE,
        STATE,
        (2, 2),
        (2, 2),
        (2,),
        (2,),
    ),
    "rnn of one step, without state and biases": (
        lambda x, *weights: recurrent(mg.rnn)(x, None, *weights),
        (2, 1, 3),
        (3, 2),
        (2, 2),
    ),
    "lstm": (recurrent(mg.lstm), SEQUENCE, STATE, STATE, (2, 8), (2, 8), (8,), (8,)),
    "lstm, reverse": (recurrent(mg.lstm, reverse=True), SEQUENCE, STATE, STATE, (2, 8), (2, 8), (8,), (8,)),
    "lstm without states and biases": (
        lambda x, *weights: recurrent(mg.lstm)(x, None, None, *weights),
        SEQUENCE,
        (2, 8),
        (2, 8),
    ),
    "lstm from a cell alone": (
        lambda x, c, *weights: recurrent(mg.lstm)(x, None, c, *weights),
        (2, 2, 1),
        STATE,
        (1, 8),
        (2, 8),
    ),
    "gru": (recurrent(mg.gru), SEQUENCE, STATE, (2, 6), (2, 6), (6,), (6,)),
    "gru, reverse": (recurrent(mg.gru, reverse=True), SEQUENCE, STATE, (2, 6), (2, 6), (6,), (6,)),
    "gru without state and biases": (
        lambda x, *weights: recurrent(mg.gru)(x, None, *weights),
        SEQUENCE,
        (2, 6),
        (2, 6),
    ),
    "max_pool2d": (lambda x: mg.max_pool2d(x, 2) ** 2, IMAGES),
    "max_pool2d, overlapping": (lambda x: mg.max_pool2d(x, 3, stride=1, padding=1) ** 2, IMAGES),
    "avg_pool2d": (lambda x: mg.avg_pool2d(x, 3, stride=2, padding=1) ** 2, IMAGES),
    "global_avg_pool": (lambda x: mg.global_avg_pool(x) ** 2, IMAGES),
    "softmax": (mg.softmax, (3, 4)),
    "log_softmax": (lambda x: mg.log_softmax(x, axis=0), (3, 4)),
    "cross_entropy": (lambda x: mg.cross_entropy(x, LABELS), (3, 4)),
    "cross_entropy with options": (
        lambda x: mg.cross_entropy(
            x, LABELS, weight=np.array([1.0, 2.0, 3.0, 4.0]), ignore_index=0, label_smoothing=0.1
        ),
        (3, 4),
    ),
    "cross_entropy of probabilities": (lambda x, t: mg.cross_entropy(x, mg.softmax(t)), (3, 4), (3, 4)),
    "nll_loss": (lambda x: mg.nll_loss(x * x, LABELS, reduction="sum"), (3, 4)),
    "mse_loss": (mg.mse_loss, (3, 4), (3, 4)),
    "l1_loss": (lambda a, b: mg.l1_loss(a * a, b * b), (3, 4), (3, 4)),
    "huber_loss": (lambda a, b: mg.huber_loss(a * a, b, delta=0.7), (3, 4), (3, 4)),
    "binary_cross_entropy": (lambda a, t: mg.binary_cross_entropy_with_logits(a, mg.sigmoid(t)), (3, 4), (3, 4)),
    "kl_div": (lambda a, t: mg.kl_div(a, mg.softmax(t)), (3, 4), (3, 4)),
    "batch_norm": (norm(), (6, 3), (3,), (3,)),
    "batch_norm of images, relu": (norm(activation="relu"), IMAGES, (2,), (2,)),
    "batch_norm, sigmoid": (norm(activation="sigmoid"), (6, 3), (3,), (3,)),
    "batch_norm by fixed statistics": (norm(training=False), (3, 4), (4,), (4,)),
    "batch_norm by fixed statistics, sigmoid": (norm(training=False, activation="sigmoid"), (3, 4), (4,), (4,)),
    "batch_norm by fixed statistics, relu": (norm(training=False, activation="relu"), (3, 4), (4,), (4,)),
    "batch_norm without gamma": (lambda x: norm()(x, None, None), (6, 3)),
    "branches": (branches, (5, 3), (3,), (3,)),
    "layer_norm": (mg.layer_norm, (3, 4), (4,), (4,)),
    "layer_norm over two axes": (lambda x, g: mg.layer_norm(x, g), (3, 2, 3), (2, 3)),
    "rms_norm": (mg.rms_norm, (3, 4), (4,)),
    "group_norm": (lambda x, g: mg.group_norm(x, 2, g), (2, 3, 4), (4,)),
    "local_response_norm": (lambda x: mg.local_response_norm(x, 4, 0.1), (3, 6)),
    "embedding": (lambda w: mg.embedding([[0, 2], [2, 2]], w) ** 2, (3, 2)),
    "dropout": (lambda x: mg.dropout(x, 0.5, training=True, seed=3) ** 2, (3, 4)),
}
ACROSS = (
    "conv2d",
    "conv_transpose2d",
    "interpolate, bilinear",
    "attention, masked",
    "lstm",
    "gru, reverse",
    "max_pool2d",
    "batch_norm, sigmoid",
    "matmul, broadcast",
)


def values(rng, shapes):
    """Normal numbers, each at least 0.01 from 0 and from any other."""
    arrays = []
    for shape in shapes:
        size = int(np.prod(shape))
        x = np.linspace(-1.6, 1.7, size) + rng.uniform(-0.2, 0.2, size) / max(size, 2)
        arrays.append(rng.permutation(np.where(np.abs(x) < 0.01, 0.3, x)).reshape(shape))
    return arrays


def gradients(function, arrays, weights, create_graph, device):
    """Those of all inputs, by one walk or the other."""
    xs = [mg.tensor(a, device=device, requires_grad=True) for a in arrays]
    y = function(*xs)
    return mg.grad(y, xs, mg.tensor(weights(y.shape), "float64", device), create_graph)


@pytest.mark.parametrize("name", CASES)
def test_gradients_on_the_tape_are_those_of_backward(name, rng):
    compare(name, "reference", rng)


@pytest.mark.parametrize("name", ACROSS)
def test_gradients_on_the_tape_are_those_of_backward_on_each_device(name, device, rng):
    compare(name, device, rng)


def compare(name, device, rng):
    """Hold gradients on the tape against those of backward."""
    function, *shapes = CASES[name]
    arrays = values(rng, shapes)
    weights = np.random.default_rng(1).standard_normal(10_000)
    takes = lambda shape: weights[: int(np.prod(shape))].reshape(shape)  # noqa: E731 - the same for both walks
    plain, on_tape = [gradients(function, arrays, takes, graph, device) for graph in (False, True)]
    for i, (ours, expected) in enumerate(zip(on_tape, plain, strict=True)):
        assert not expected.requires_grad
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=1e-10, atol=1e-12, err_msg=f"input {i}")


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_by_finite_differences(name, rng):
    function, *shapes = CASES[name]
    check_grads(function, *values(rng, shapes), device="reference", rtol=1e-5, full_size=12, directions=1, order=2)


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "matmul, broadcast", "max_pool2d", "lstm", "softmax", "batch_norm", "formula"]
)
def test_third_derivatives_by_finite_differences(name, rng):
    function, *shapes = CASES[name]
    check_grads(function, *values(rng, shapes), device="reference", rtol=1e-5, full_size=4, directions=1, order=3)


@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if not op.is_condition])
def test_every_formula_of_the_table_can_be_derived_twice(name, rng):
    op = TABLE[name]
    count = sum(kind == "float" for kind in op.traced.kinds)
    inputs = [rng.permutation(np.linspace(0.2, 1.2, 4)) + 0.03 * i for i in range(count)]
    if op.traced.kinds[0] == "bool":
        check_grads(lambda *xs: op(xs[0] > 0.6, *xs), *inputs, device="reference", rtol=1e-5, order=2)
    else:
        check_grads(op, *inputs, device="reference", rtol=1e-5, order=2)
