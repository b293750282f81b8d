"""The table of where a step's time goes: operations and bytes of recorded launches, and what the limits make of them."""

import numpy as np
import pytest

import minigrad as mg
from benchmarks.comparison import operations, where
from minigrad.capture import Launch
from minigrad.ops import Branch, Normalization, concat_branches


def launches(function, *arrays):
    """Of forward and backward of a function of tensors."""
    tensors = [mg.tensor(a, requires_grad=True) for a in arrays]

    @mg.capture
    def step(dy):
        for t in tensors:
            t.grad = None
        function(*tensors).backward(dy)

    step(function(*tensors).numpy())
    return step.plan.launches


def counted(found):
    return sorted(filter(None, map(operations.operations, found)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_three_passes_of_a_convolution(size, stride, rng):
    x, w = rng.standard_normal((2, 8, 6, 5), np.float32), rng.standard_normal((size, size, 5, 7), np.float32)
    found = launches(lambda x, w: mg.conv2d(x, w, padding="same", stride=stride), x, w)
    pixels = 2 * (8 // stride) * (6 // stride)
    assert counted(found) == [2 * pixels * size * size * 5 * 7] * 3


def test_three_products_of_a_layer(rng):
    found = launches(mg.linear, rng.standard_normal((6, 10), np.float32), rng.standard_normal((10, 3), np.float32))
    assert counted(found) == [2 * 6 * 10 * 3] * 3


def test_three_stacks_of_products(rng):
    a, b = rng.standard_normal((4, 6, 10), np.float32), rng.standard_normal((4, 10, 3), np.float32)
    assert counted(launches(lambda a, b: a @ b, a, b)) == [2 * 4 * 6 * 10 * 3] * 3


def test_a_model_makes_the_multiply_adds_that_its_layers_have(rng):
    images = rng.random((2, 8, 8, 3), np.float32)
    model = mg.models.Inception(width=0.05)
    found = launches(lambda x: model(x), images)
    forward = [launch for launch in found if not launch.op.endswith("backward")]
    side, expected = 8, 0
    for layer in model.layers:
        if isinstance(layer, mg.nn.MaxPool2d):
            side //= 2
        if isinstance(layer, mg.nn.Concat):
            convolutions = [m for _, m in layer.modules() if isinstance(m, mg.nn.Conv2d)]
            expected += sum(2 * 2 * side * side * m.weight.size for m in convolutions)
    expected += 2 * 2 * model.layers[-1].weight.size
    assert sum(counted(forward)) == expected


@pytest.mark.parametrize(
    "function", [mg.linear, lambda x, w: mg.conv2d(x, w.reshape(1, 1, 10, 3))], ids=["linear", "1x1"]
)
def test_a_product_that_adds_to_a_gradient_counts_like_any_and_reads_what_it_writes(function, rng):
    x, w = rng.standard_normal((2, 3, 4, 10), np.float32), rng.standard_normal((10, 3), np.float32)

    def twice(x, w):
        h = x * 1.0
        return function(h, w) + function(h, w)

    found = launches(twice, x, w)
    assert counted(found) == [2 * 24 * 10 * 3] * 6
    (added,) = [launch for launch in found if launch.kernel == "gemm.gemm_add"]
    assert operations.bytes_moved(added) == 24 * 3 * 4 + w.nbytes + 2 * x.nbytes


def of_kernel(found, kernel):
    return [operations.bytes_moved(launch) for launch in found if launch.kernel == kernel]


@pytest.mark.parametrize(("activation", "arrays"), [(None, 0), ("relu", 0), ("sigmoid", 1)])
def test_normalization_is_charged_for_what_it_touches(activation, arrays, rng):
    x, p = rng.standard_normal((20, 6), np.float32), np.ones(6, np.float32)

    def training(x, gamma, beta):
        return mg.batch_norm(x, gamma, beta, None, None, training=True, activation=activation)

    def inference(x, gamma, beta):
        return mg.batch_norm(x, gamma, beta, p, p, training=False, activation=activation)

    for function, name, statistics in (
        (training, "norm.batch_norm", 2 * 6 * 8),
        (inference, "norm.batch_norm_inference", 2 * p.nbytes),
    ):
        found = launches(function, x, p, p)
        forward = name + ("_forward" if function is training else "")
        assert of_kernel(found, forward) == [2 * x.nbytes + 2 * p.nbytes + statistics]
        expected = (3 + arrays) * x.nbytes + 4 * p.nbytes + statistics
        assert of_kernel(found, name + "_backward") == [expected]


def test_branches_are_charged_for_their_own_columns(rng):
    x, p = rng.standard_normal((20, 6), np.float32), np.ones(6, np.float32)
    other, third = rng.standard_normal((20, 50), np.float32), rng.standard_normal((20, 3), np.float32)

    def joined(x, gamma, beta, other, third):
        norm = Normalization(gamma, beta, None, None, 0.9, 1e-5)
        return concat_branches([Branch(x, norm, "relu"), Branch(other, None, "sigmoid"), Branch(third, None, None)])

    found = launches(joined, x, p, p, other, third)
    small = 2 * p.nbytes + 2 * 6 * 8
    assert of_kernel(found, "norm.batch_norms_forward") == [2 * x.nbytes + small]
    assert of_kernel(found, "norm.batch_norms_backward") == [3 * x.nbytes + small + 2 * p.nbytes]
    assert of_kernel(found, "elementwise.activate") == [2 * other.nbytes, 2 * third.nbytes]
    assert of_kernel(found, "elementwise.activate_backward") == [3 * other.nbytes, 2 * third.nbytes]


def test_a_slice_is_not_charged_for_the_whole_array(rng):
    a, b = rng.standard_normal((2, 3, 4), np.float32), rng.standard_normal((2, 3, 60), np.float32)
    found = launches(lambda a, b: mg.concat([a, b]), a, b)
    moved = [operations.bytes_moved(launch) for launch in found if launch.op.startswith("Concat")]
    assert sorted(moved) == sorted([2 * a.nbytes, 2 * b.nbytes] * 2)


def launch(op, kernel, arguments, nbytes, times):
    return Launch(op, kernel, None, arguments, "", nbytes, times)


def test_summary_adds_the_launches_of_a_kernel_and_compares_them_with_the_longer_limit():
    a, c = np.zeros((10, 20), np.float32), np.zeros((10, 5), np.float32)
    product = a, None, None, c, False, False  # 2,000 operations
    found = where.summary(
        [
            launch("Linear", "gemm.gemm", product, 800, [4.0, 2.0, 3.0]),
            launch("Linear", "gemm.gemm", product, 8000, [5.0]),
            launch("Linear backward", "gemm.gemm", product, 800, [1.0]),
            launch("ReLU", "elementwise.relu_forward", (), 600, [10.0]),
        ],
        {"operations": 1000.0, "bytes": 1000.0},
    )
    assert [(row["kernel"], row["op"], row["launches"], row["seconds"]) for row in found] == [
        ("elementwise.relu_forward", "ReLU", 1, 10.0),
        ("gemm.gemm", "Linear", 2, 8.0),
        ("gemm.gemm", "Linear backward", 1, 1.0),
    ]
    assert [row["operations"] for row in found] == [None, 4000, 2000]
    assert [row["least"] for row in found] == [pytest.approx(0.6), pytest.approx(2 + 8), pytest.approx(2)]


def test_report_shows_rates_shares_and_the_fraction_of_the_limit():
    row = {"kernel": "gemm.gemm", "op": "Conv2d", "launches": 3, "seconds": 0.003, "bytes": 6_000_000}
    rows = [
        {**row, "operations": 900_000_000, "least": 0.0015},
        {**row, "kernel": "norm.fused", "op": "BatchNorm", "operations": None, "seconds": 0.001, "least": 0.0005},
    ]
    network = {"width": 0.25, "batch": 32, "batch_norm": True, "side": 32}
    limits = {"operations": 600e9, "bytes": 30e9}
    text = where.report({**network, "threads": 2, "kernels": rows, "limits": limits, "step": 0.0041})
    lines = [line.split() for line in text.splitlines()]
    assert lines[3] == ["gemm.gemm", "Conv2d", "3", "3.00", "75.0%", "300", "2.0", "50%"]
    assert lines[4] == ["norm.fused", "BatchNorm", "3", "1.00", "25.0%", "6.0", "50%"]
    assert "The step takes 4.1 ms, its launches 4.0 ms, their limits 2.0 ms" in text
    assert "0.9 GFLOP alone would take 1.5 ms: 21333 images/s" in text
