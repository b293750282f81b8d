"""Pooling as ops, held against the definition written out in NumPy, finite differences and PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.ops.window import resolve
from minigrad.testing import check_forward, check_grads

OPS = {"max": mg.max_pool2d, "avg": mg.avg_pool2d}
REDUCE = {"max": np.max, "avg": np.mean}
WINDOWS = [
    ((2, 4, 4, 3), 2, {}),
    ((2, 5, 6, 3), 3, {"stride": 1, "padding": "same"}),
    ((2, 7, 6, 2), 3, {"stride": 2, "padding": "same"}),
    ((1, 7, 5, 2), (2, 3), {"stride": (1, 2), "padding": ((0, 1), (2, 1))}),
    ((1, 5, 5, 1), 2, {"stride": 3}),
    ((1, 3, 3, 17), 3, {"padding": (1, 2), "stride": 1}),
    ((3, 1, 1, 5), 1, {}),
]

every_op = pytest.mark.parametrize("name", OPS)
every_window = pytest.mark.parametrize(("shape", "size", "options"), WINDOWS, ids=[str(w) for w in WINDOWS])


def np_pool(name, x, size, stride=None, padding=0):
    """The definition: each window's pixels, reduced."""
    n, h, w, c = x.shape
    window = resolve("np_pool", (h, w), size, size if stride is None else stride, padding)
    y = np.empty((n, window.oh, window.ow, c), x.dtype)
    for i in range(window.oh):
        for j in range(window.ow):
            top, left = i * window.sh - window.top, j * window.sw - window.left
            part = x[:, max(top, 0) : top + window.kh, max(left, 0) : left + window.kw]
            y[:, i, j] = REDUCE[name](part, axis=(1, 2))
    return y


def distinct(rng, shape):
    """Numbers that all differ, by more than the steps of check_grads."""
    return (rng.permutation(int(np.prod(shape))).reshape(shape) - np.prod(shape) / 2) / 7.0


@every_op
@every_window
def test_definition_and_gradients(name, shape, size, options, device, rng):
    x = distinct(rng, shape)
    check_forward(
        lambda t: OPS[name](t, size, **options), lambda a: np_pool(name, a, size, **options), x, device=device
    )
    check_grads(lambda t: OPS[name](t, size, **options), x, device=device)


@st.composite
def pooling(draw):
    """(shape of x, size, stride, padding) that fit."""
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    sides = [st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)) for k in size]
    padding = draw(st.just("same") | st.tuples(*sides))
    n, c = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 15, 16, 17, 40, 65]))
    h, w = (draw(st.integers(k, 11)) for k in size)
    return (n, h, w, c), size, draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), padding


@every_op
@settings(deadline=None, max_examples=25)
@given(case=pooling(), seed=st.integers(0, 9))
def test_devices_agree_on_any_window(name, case, seed):
    shape, size, stride, padding = case
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, shape).astype(np.float32)
    results = []
    for device in ("cpu", "reference"):
        t = mg.tensor(x, device=device, requires_grad=True)
        y = OPS[name](t, size, stride=stride, padding=padding)
        y.backward(np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32))
        results.append((y.numpy(), t.grad.numpy()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=0, atol=5e-6)


@every_op
@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [
        ((2, 12, 11, 24), 3, 1, 1),
        ((2, 12, 11, 20), 3, 2, 1),
        ((1, 9, 13, 7), (2, 4), (2, 3), (1, 2)),
        ((2, 8, 8, 33), 2, 2, 0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_as_pytorch(name, shape, size, stride, padding, dtype, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "max": functional.max_pool2d,
        "avg": lambda *arguments: functional.avg_pool2d(*arguments, count_include_pad=False),
    }[name]
    x = rng.integers(-4, 5, shape).astype(dtype)  # with ties
    t = mg.tensor(x, requires_grad=True)
    other = torch.tensor(x, requires_grad=True)
    y = OPS[name](t, size, stride=stride, padding=padding)
    expected = theirs(other.permute(0, 3, 1, 2), size, stride, padding).permute(0, 2, 3, 1)
    dy = rng.standard_normal(y.shape).astype(dtype)
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    close = {"rtol": 0, "atol": 3e-6 if dtype == "float32" else 1e-14}
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), **close)
    np.testing.assert_allclose(t.grad.numpy(), other.grad.numpy(), **close)


@pytest.mark.parametrize(
    ("shape", "size", "stride"), [((1, 6, 9, 4), 3, 2), ((1, 5, 8, 1), 2, 1), ((2, 7, 7, 3), 3, 1)]
)
def test_stride_is_the_size_unless_given(shape, size, stride, device, rng):
    x = mg.tensor(distinct(rng, shape), device=device)
    _, h, w, _ = shape
    assert mg.max_pool2d(x, size).shape[1:3] == (h // size, w // size)
    assert mg.max_pool2d(x, size, stride=stride).shape[1:3] == ((h - size) // stride + 1, (w - size) // stride + 1)


def test_padding_is_never_the_largest(device):
    x = mg.tensor(np.full((1, 3, 3, 2), -5.0), device=device)
    np.testing.assert_array_equal(mg.max_pool2d(x, 3, stride=1, padding="same").numpy(), x.numpy())


def test_padding_is_not_averaged(device):
    x = mg.tensor(np.full((1, 4, 5, 2), 3.0), device=device)
    np.testing.assert_array_equal(mg.avg_pool2d(x, 3, stride=1, padding="same").numpy(), x.numpy())


def test_the_first_of_equal_maxima_gets_the_gradient(device):
    x = mg.tensor(np.zeros((1, 3, 3, 1)), device=device, requires_grad=True)
    mg.max_pool2d(x, 2, stride=1).backward(np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 2, 2, 1))
    np.testing.assert_array_equal(x.grad.numpy()[0, :, :, 0], [[1, 10, 0], [100, 1000, 0], [0, 0, 0]])


def test_gradients_of_overlapping_windows_add_up(device):
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1] = 1  # which all nine windows see
    t = mg.tensor(x, device=device, requires_grad=True)
    mg.max_pool2d(t, 3, stride=1, padding="same").backward(np.arange(1.0, 10).reshape(x.shape))
    np.testing.assert_array_equal(t.grad.numpy(), 45 * x)


def test_gradients_of_averages_are_shared_by_the_pixels_there_are(device):
    x = mg.tensor(np.zeros((1, 1, 3, 1)), device=device, requires_grad=True)
    mg.avg_pool2d(x, (1, 3), stride=1, padding="same").backward(np.array([2.0, 6.0, 20.0]).reshape(x.shape))
    np.testing.assert_array_equal(x.grad.numpy().ravel(), [3, 13, 12])  # 2/2 + 6/3, 2/2 + 6/3 + 20/2, 6/3 + 20/2


@every_op
def test_nan_comes_through_where_it_is(name, device):
    x = np.ones((1, 5, 6, 17), np.float32)
    x[0, 1, 2, 3] = np.nan
    y = OPS[name](mg.tensor(x, device=device), 3, stride=1, padding="same").numpy()
    expected = np.zeros(x.shape, bool)
    expected[0, :3, 1:4, 3] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_the_first_nan_gets_the_gradient(device):
    x = np.array([[np.inf, np.nan], [np.nan, 7.0]]).reshape(1, 2, 2, 1)
    t = mg.tensor(x, device=device, requires_grad=True)
    mg.max_pool2d(t, 2).backward(np.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(t.grad.numpy().ravel(), [0, 1, 0, 0])


def test_max_keeps_a_byte_for_each_result(device, rng):
    x = mg.tensor(rng.standard_normal((2, 8, 8, 3)), device=device, requires_grad=True)
    y = mg.max_pool2d(x, 2)
    assert [a.nbytes for a in y._op.saved] == [y.size]


def test_average_keeps_nothing(device, rng):
    y = mg.avg_pool2d(mg.tensor(rng.standard_normal((2, 8, 8, 3)), device=device, requires_grad=True), 2)
    assert y._op.saved == ()


def test_window_of_more_than_256_places(device, rng):
    x = distinct(rng, (1, 18, 17, 2))
    check_forward(lambda t: mg.max_pool2d(t, 17, stride=1), lambda a: np_pool("max", a, 17, 1), x, device=device)
    check_grads(lambda t: mg.max_pool2d(t, 17, stride=1), x, device=device)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 8, 8, 17)])
def test_global_average(shape, device, rng):
    x = rng.standard_normal(shape)
    check_forward(mg.global_avg_pool, lambda a: a.mean(axis=(1, 2)), x, device=device)
    check_grads(mg.global_avg_pool, x, device=device)


def test_global_average_is_the_average_over_the_whole_image(device, rng):
    x = mg.tensor(rng.standard_normal((2, 5, 6, 7)), device=device)
    whole = mg.avg_pool2d(x, (5, 6)).numpy().reshape(2, 7)
    np.testing.assert_allclose(mg.global_avg_pool(x).numpy(), whole, rtol=1e-14, atol=1e-14)


@every_op
@pytest.mark.parametrize(
    ("shape", "expected"), [((0, 4, 4, 3), (0, 2, 2, 3)), ((2, 4, 4, 0), (2, 2, 2, 0)), ((2, 0, 4, 3), (2, 0, 2, 3))]
)
def test_of_nothing_is_nothing(name, shape, expected, device):
    x = mg.tensor(np.zeros(shape, np.float32), device=device, requires_grad=True)
    y = OPS[name](x, 2, padding="same")
    assert y.shape == expected
    y.backward(np.zeros(expected, np.float32))
    assert x.grad.shape == shape


def test_global_average_of_no_images_is_empty(device):
    assert mg.global_avg_pool(mg.tensor(np.zeros((0, 4, 4, 3)), device=device)).shape == (0, 3)


@every_op
@pytest.mark.parametrize(
    ("error", "message", "shape", "arguments"),
    [
        (ValueError, r"needs images \(N, H, W, C\), not shape \(4, 4, 3\)", (4, 4, 3), {"size": 2}),
        (ValueError, r"_pool2d: the window 5 x 5 is larger than the image, which is 4 x 4", (1, 4, 4, 3), {"size": 5}),
        (ValueError, "can lie wholly in the padding", (1, 4, 4, 3), {"size": 2, "padding": 2}),
        (ValueError, "can lie wholly in the padding", (1, 4, 4, 3), {"size": 2, "padding": ((0, 0), (0, 2))}),
        (ValueError, r"shape \(1, 0, 4, 3\) have no pixels", (1, 0, 4, 3), {"size": 2, "padding": 1}),
        (ValueError, "stride must be at least 1", (1, 4, 4, 3), {"size": 2, "stride": 0}),
        (TypeError, "size must be made of integers", (1, 4, 4, 3), {"size": 2.0}),
    ],
)
def test_what_cannot_be_pooled_is_refused(name, error, message, shape, arguments, device):
    with pytest.raises(error, match=message):
        OPS[name](mg.tensor(np.zeros(shape), device=device), **arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 4, 3), "needs images"), ((1, 0, 4, 3), "have no pixels"), ((1, 4, 0, 3), "have no pixels")],
)
def test_global_average_of_no_image_is_refused(shape, message, device):
    with pytest.raises(ValueError, match=message):
        mg.global_avg_pool(mg.tensor(np.zeros(shape), device=device))


@pytest.mark.parametrize("function", [lambda x: mg.max_pool2d(x, 2), lambda x: mg.avg_pool2d(x, 2), mg.global_avg_pool])
def test_integers_are_refused(function, device):
    with pytest.raises(TypeError, match="needs a float32 or float64 tensor, not int64"):
        function(mg.tensor(np.zeros((1, 4, 4, 3), np.int64), device=device))


def test_a_captured_step_gives_the_bits_of_the_eager_one(device, rng):
    def step(x, dy):
        y = mg.max_pool2d(x * 2.0, 3, stride=1, padding="same")
        y = mg.avg_pool2d(y, 3, stride=2, padding="same")
        weight.grad = None
        (mg.global_avg_pool(y * weight) * dy).sum().backward()
        return y

    weight = mg.tensor(rng.standard_normal(5).astype(np.float32), device=device, requires_grad=True)
    captured = mg.capture(step, device=device)
    for _ in range(3):
        x, dy = rng.standard_normal((2, 7, 8, 5)).astype(np.float32), rng.standard_normal((2, 5)).astype(np.float32)
        results = []
        for run in (captured, step):
            y = run(mg.tensor(x, device=device), mg.tensor(dy, device=device))
            results.append((y.numpy().tobytes(), weight.grad.numpy().tobytes()))
        assert results[0] == results[1]


@pytest.mark.parametrize(
    ("layer", "function", "settings"),
    [
        (mg.nn.MaxPool2d(3), lambda x: mg.max_pool2d(x, 3), "(3, 3)"),
        (
            mg.nn.MaxPool2d(3, stride=2, padding="same"),
            lambda x: mg.max_pool2d(x, 3, stride=2, padding="same"),
            "(3, 3), stride=(2, 2), padding='same'",
        ),
        (
            mg.nn.AvgPool2d((2, 3), padding=(0, 1)),
            lambda x: mg.avg_pool2d(x, (2, 3), padding=(0, 1)),
            "(2, 3), padding=((0, 0), (1, 1))",
        ),
        (mg.nn.GlobalAvgPool(), mg.global_avg_pool, ""),
    ],
)
def test_layers_compute_what_the_functions_do(layer, function, settings, device, rng):
    x = mg.tensor(rng.standard_normal((2, 6, 7, 3)), device=device)
    np.testing.assert_array_equal(layer(x).numpy(), function(x).numpy())
    assert layer.settings() == settings
    assert layer.parameters() == []


@pytest.mark.parametrize("layer", [mg.nn.MaxPool2d, mg.nn.AvgPool2d])
def test_layers_refuse_bad_arguments_at_once(layer):
    with pytest.raises(ValueError, match=f"{layer.__name__}: size must be at least 1, not 0"):
        layer(0)
    with pytest.raises(ValueError, match="not 'valid'"):
        layer(2, padding="valid")
