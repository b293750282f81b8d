"""mg.matmul_precision: what it computes in, where it is refused, and that what is recorded keeps to it."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_steps import step_of
from targets import slow

import minigrad as mg
from minigrad.devices import precision
from minigrad.devices.registry import DEVICES
from minigrad.kernels.cpu.vector import target
from minigrad.kernels.precision import Products, rounded_to_bfloat16

on_the_processor = pytest.mark.skipif(not target.HAS_BFLOAT16, reason="this processor does not multiply bfloat16")


def test_an_unknown_precision_is_refused_by_those_there_are():
    with pytest.raises(ValueError, match=r"one of 'float32', 'bf16_3x', 'tf32', 'bf16', not 'fp16'"):
        mg.matmul_precision("fp16")


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(target, "HAS_BFLOAT16", False)
    monkeypatch.setattr(precision, "get_device", lambda name: DEVICES["cpu"])
    with pytest.raises(RuntimeError, match=r"needs a processor with AVX512_BF16.* or a GPU.*stay with \"float32\""):
        mg.matmul_precision("bf16")
    assert mg.matmul_precision.current == "float32"
    assert not Products.in_bfloat16


def test_bfloat16_is_for_a_gpu_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(target, "HAS_BFLOAT16", False)
    monkeypatch.setattr(precision, "get_device", lambda name: SimpleNamespace(name="cuda"))
    with mg.matmul_precision("bf16"):
        assert mg.matmul_precision.current == "bf16"
        assert not Products.in_bfloat16


@on_the_processor
def test_a_block_ends_with_what_was_before():
    with pytest.raises(ZeroDivisionError), mg.matmul_precision("bf16"):
        assert Products.in_bfloat16
        with mg.matmul_precision("tf32"):
            assert not Products.in_bfloat16
        assert Products.in_bfloat16
        1 / 0  # noqa: B018
    assert not Products.in_bfloat16


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


CASES = {
    "linear": (lambda x, w: mg.linear(x, w), [(61, 75), (75, 33)]),
    "matmul of vectors": (lambda x, w: x @ w, [(75,), (75,)]),
    "matmul of stacks": (lambda x, w: x @ w, [(3, 9, 17), (3, 17, 5)]),
    "conv2d": (lambda x, w: mg.conv2d(x, w, padding=1), [(2, 9, 8, 5), (3, 3, 5, 7)]),
    "conv2d with strides": (lambda x, w: mg.conv2d(x, w, stride=2, dilation=2), [(2, 9, 8, 6), (3, 2, 6, 7)]),
    "conv2d by Winograd's sizes": (lambda x, w: mg.conv2d(x, w, padding=1), [(4, 16, 16, 32), (3, 3, 32, 32)]),
    "conv2d of pixels": (lambda x, w: mg.conv2d(x, w), [(2, 9, 8, 33), (1, 1, 33, 20)]),
    "conv2d in groups": (lambda x, w: mg.conv2d(x, w, groups=2), [(2, 6, 5, 6), (3, 3, 3, 4)]),
    "conv_transpose2d": (lambda x, w: mg.conv_transpose2d(x, w, stride=2), [(2, 5, 4, 6), (3, 3, 6, 7)]),
}


def with_gradients(f, x, w, dy, device):
    x, w = (mg.tensor(a, device=device, requires_grad=True) for a in (x, w))
    y = f(x, w)
    y.backward(mg.tensor(dy, device=device))
    return [t.numpy() for t in (y, x.grad, w.grad)]


@on_the_processor
@pytest.mark.parametrize(
    "name", ["linear", "conv2d", *slow(*[name for name in CASES if name not in ("linear", "conv2d")])]
)
def test_results_and_gradients_are_those_of_float32_with_rounded_factors(rng, name):
    f, shapes = CASES[name]
    x, w = (numbers(rng, *shape) for shape in shapes)
    dy = numbers(rng, *f(mg.tensor(x), mg.tensor(w)).shape)
    exact = with_gradients(f, *map(rounded_to_bfloat16, (x, w, dy)), "cpu")
    with mg.matmul_precision("bf16"):
        for device in ("cpu", "reference"):
            for found, wanted in zip(with_gradients(f, x, w, dy, device), exact, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    far = [np.abs(a - b).max() for a, b in zip(with_gradients(f, x, w, dy, "cpu"), exact, strict=True)]
    assert min(far) > 1e-4  # what rounding changes


@on_the_processor
def test_depthwise_convolution_stays_in_float32(rng):
    x, w = mg.tensor(numbers(rng, 2, 6, 5, 4)), mg.tensor(numbers(rng, 3, 3, 1, 4))
    exact = mg.conv2d(x, w, groups=4).numpy()
    with mg.matmul_precision("bf16"):
        assert mg.conv2d(x, w, groups=4).numpy().tobytes() == exact.tobytes()


def trained(count):
    """Losses and weights of a small network of both kinds of products, trained by captured steps on `count` threads."""
    rng = np.random.default_rng(0)
    images, labels = numbers(rng, 16, 12, 12, 3), rng.integers(0, 10, 16)
    mg.manual_seed(1)
    model = mg.nn.Sequential(
        mg.nn.Conv2d(3, 32, 3, padding=1), mg.nn.ReLU(), mg.nn.Conv2d(32, 40, 3, stride=2), mg.nn.ReLU(),
        mg.nn.Flatten(), mg.nn.Linear(1000, 10),
    )  # fmt: skip
    optimizer = mg.optim.SGD(model.parameters(), lr=0.05)

    step = mg.capture(step_of(model, optimizer))
    before = mg.get_num_threads()
    mg.set_num_threads(count)
    try:
        losses = [step(images, labels).item() for _ in range(8)]
    finally:
        mg.set_num_threads(before)
    return losses, [p.numpy().tobytes() for p in model.parameters()]


@on_the_processor
def test_a_network_is_trained_to_the_same_bits_on_any_number_of_threads():
    with mg.matmul_precision("bf16"):
        one, two = trained(1), trained(min(2, mg.get_num_threads()))
    assert one == two
    exact, _ = trained(1)
    assert one[0] != exact
    np.testing.assert_allclose(one[0], exact, rtol=0.02)
    assert one[0][-1] < one[0][0]


@on_the_processor
def test_a_captured_step_computes_in_the_precision_it_is_called_in(rng):
    a, b = numbers(rng, 20, 30), numbers(rng, 30, 10)
    step = mg.capture(lambda a, b: a @ b)
    for _ in range(3):
        exact = step(a, b).numpy()
        with mg.matmul_precision("bf16"):
            rounded = step(a, b).numpy()
        np.testing.assert_allclose(exact, a @ b, atol=1e-5)
        np.testing.assert_allclose(rounded, rounded_to_bfloat16(a) @ rounded_to_bfloat16(b), atol=1e-5)
    assert sum(map(len, step.plans.values())) == 2


@on_the_processor
def test_whitening_of_images_stays_in_float32(rng):
    images = rng.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
    zca = mg.data.ZCA.fit(images)
    exact = zca.apply(images)
    with mg.matmul_precision("bf16"):
        assert zca.apply(images).tobytes() == exact.tobytes()
