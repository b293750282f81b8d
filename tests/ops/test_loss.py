import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing import check_forward, check_grads

SHAPES = [(1, 1), (3, 10), (17, 33), (5, 4097), (2, 3, 7), (9,)]
FUNCTIONS = ("softmax", "log_softmax")

both = pytest.mark.parametrize("name", FUNCTIONS)


def np_log_softmax(x, axis=-1):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def np_softmax(x, axis=-1):
    return np.exp(np_log_softmax(x, axis))


def np_cross_entropy(logits, labels):
    rows = np_log_softmax(logits).reshape(-1, logits.shape[-1])
    return -rows[np.arange(len(rows)), np.reshape(labels, -1)].mean()


NUMPY = {"softmax": np_softmax, "log_softmax": np_log_softmax}


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_numpy_in_float64(name, shape, device, rng):
    check_forward(getattr(mg, name), NUMPY[name], 3 * rng.standard_normal(shape), device=device, rtol=1e-13, atol=1e-13)


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_within_a_few_roundings(name, shape, device, rng):
    # log_softmax subtracts numbers of the size of the logits: an absolute error of a few roundings of those
    x = 3 * rng.standard_normal(shape).astype(np.float32)
    bounds = {"softmax": {"rtol": 2e-6, "atol": 0}, "log_softmax": {"rtol": 5e-7, "atol": 2e-6}}
    check_forward(getattr(mg, name), NUMPY[name], x, device=device, **bounds[name])


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(name, shape, device, rng):
    check_grads(getattr(mg, name), rng.standard_normal(shape), device=device)


@both
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_along_any_axis(name, axis, device, rng):
    x = rng.standard_normal((2, 3, 5))
    check_forward(
        lambda t: getattr(mg, name)(t, axis=axis), lambda a: NUMPY[name](a, axis), x, device=device, rtol=1e-13
    )
    check_grads(lambda t: getattr(mg, name)(t, axis=axis), x, device=device)


@both
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
def test_zero_sized(name, shape, device):
    x = mg.tensor(np.zeros(shape), device=device, requires_grad=True)
    y = getattr(mg, name)(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_huge_logits_is_exact(dtype, device):
    x = mg.tensor(np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype), device=device)
    np.testing.assert_array_equal(mg.softmax(x).numpy(), np.array([[1, 0, 0], [1 / 3] * 3], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_softmax_of_huge_logits_is_finite(dtype, device):
    x = mg.tensor(np.array([[1e4, -1e4, 0]], dtype), device=device)
    np.testing.assert_array_equal(mg.log_softmax(x).numpy(), np.array([[0, -2e4, -1e4]], dtype))


@both
def test_a_constant_added_to_a_row_changes_nothing(name, device, rng):
    x = rng.integers(-8, 8, (3, 17)).astype(np.float32)
    shifted = x + np.float32(1024)
    results = [getattr(mg, name)(mg.tensor(a, device=device)).numpy() for a in (x, shifted)]
    np.testing.assert_array_equal(*results)


@both
@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_nan_makes_its_row_nan_and_no_other(name, bad, device):
    x = np.zeros((5, 17), np.float32)
    x[2, 7] = bad
    y = getattr(mg, name)(mg.tensor(x, device=device)).numpy()
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), np.arange(5) == 2)
    np.testing.assert_array_equal(np.isnan(y).any(axis=1), np.arange(5) == 2)


def test_minus_infinity_has_probability_zero(device):
    y = mg.softmax(mg.tensor([[0.0, -np.inf, 0.0]], device=device))
    np.testing.assert_array_equal(y.numpy(), [[0.5, 0, 0.5]])


@both
@pytest.mark.parametrize(("shape", "axis"), [((2, 3), 2), ((2, 3), -3), ((), -1)])
def test_an_axis_out_of_range_is_refused(name, shape, axis):
    with pytest.raises(ValueError, match=f"axis {axis} is out of range for {len(shape)} dimensions"):
        getattr(mg, name)(mg.tensor(np.ones(shape)), axis=axis)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (60, 10), (17, 33), (4097, 3), (2, 3, 5), (7,)])
def test_cross_entropy_matches_numpy(shape, device, rng):
    logits, labels = 3 * rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])
    y = mg.cross_entropy(mg.tensor(logits, device=device), labels)
    assert y.shape == ()
    np.testing.assert_allclose(y.item(), np_cross_entropy(logits, labels), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("shape", [(1, 2), (60, 10), (4097, 3)])
def test_cross_entropy_float32_within_its_bound(shape, device, rng):
    logits, labels = 3 * rng.standard_normal(shape).astype(np.float32), rng.integers(0, shape[-1], shape[:-1])
    y = mg.cross_entropy(mg.tensor(logits, device=device), labels)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.item(), np_cross_entropy(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2), (17, 3), (300, 5), (2, 3, 5), (7,)])
def test_cross_entropy_gradients(shape, device, rng):
    labels = rng.integers(0, shape[-1], shape[:-1])
    check_grads(lambda logits: mg.cross_entropy(logits, labels), rng.standard_normal(shape), device=device)


def test_cross_entropy_gradient_is_the_formula(device, rng):
    logits, labels = rng.standard_normal((60, 10)), rng.integers(0, 10, 60)
    t = mg.tensor(logits, device=device, requires_grad=True)
    (3.0 * mg.cross_entropy(t, labels)).backward()
    expected = 3 * (np_softmax(logits) - np.eye(10)[labels]) / 60
    np.testing.assert_allclose(t.grad.numpy(), expected, rtol=1e-12, atol=1e-16)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 70),
    classes=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_cross_entropy_is_the_mean_of_minus_log_softmax(rows, classes, scale, dtype, device):
    rng = np.random.default_rng(rows * classes)
    logits, labels = (scale * rng.standard_normal((rows, classes))).astype(dtype), rng.integers(0, classes, rows)
    y = mg.cross_entropy(mg.tensor(logits, device=device), labels).item()
    np.testing.assert_allclose(
        y,
        np_cross_entropy(logits, labels),
        rtol=1e-6 if dtype == np.float32 else 1e-13,
        atol=1e-6 * (dtype == np.float32),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_huge_logits_is_exact(dtype, device):
    logits = mg.tensor(np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype), device=device, requires_grad=True)
    loss = mg.cross_entropy(logits, np.array([0, 0]))
    assert loss.item() == 1e4  # the mean of 0 and 2e4
    loss.backward()
    np.testing.assert_array_equal(logits.grad.numpy(), np.array([[0, 0, 0], [-0.5, 0.5, 0]], dtype))


def test_cross_entropy_of_nan_is_nan_and_its_gradient_stays_in_the_row(device):
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = np.nan
    logits = mg.tensor(x, device=device, requires_grad=True)
    loss = mg.cross_entropy(logits, np.zeros(3, np.int64))
    loss.backward()
    assert np.isnan(loss.item())
    np.testing.assert_array_equal(np.isnan(logits.grad.numpy()).any(axis=1), [False, True, False])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64])
def test_labels_of_every_integer_type(dtype, device, rng):
    logits, labels = rng.standard_normal((5, 3)), rng.integers(0, 3, 5)
    expected = mg.cross_entropy(mg.tensor(logits, device=device), labels).item()
    assert mg.cross_entropy(mg.tensor(logits, device=device), labels.astype(dtype)).item() == expected


def test_labels_as_a_list_or_a_tensor_or_a_view(device, rng):
    logits, labels = mg.tensor(rng.standard_normal((5, 3)), device=device), np.array([0, 1, 2, 0, 1])
    expected = mg.cross_entropy(logits, labels).item()
    for given_labels in (labels.tolist(), mg.tensor(labels, device=device), np.repeat(labels, 2)[::2]):
        assert mg.cross_entropy(logits, given_labels).item() == expected


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0.0, 1.0]), TypeError, "labels must be integers .*, not float64"),
        (np.array([True, False]), TypeError, "not bool"),
        (np.array([0, None]), TypeError, "object"),
        (["0", "1"], TypeError, "<U1"),
        (np.array([0, 3]), ValueError, "label 3 in row 1 is out of range; there are classes 0 to 2"),
        (np.array([-1, 0]), ValueError, "label -1 in row 0"),
        (np.array([0, 2**63], np.uint64), ValueError, "label 9223372036854775808 in row 1"),
        (np.array([0, 1, 2]), ValueError, r"got \(2, 3\) and \(3,\)"),
        (np.array([[0], [1]]), ValueError, r"got \(2, 3\) and \(2, 1\)"),
        (np.array(0), ValueError, r"got \(2, 3\) and \(\)"),
    ],
)
def test_labels_that_are_wrong_are_refused(labels, error, message, device):
    with pytest.raises(error, match=message):
        mg.cross_entropy(mg.tensor(np.ones((2, 3)), device=device), labels)


def test_a_label_out_of_range_is_found_in_labels_of_two_axes(device):
    with pytest.raises(ValueError, match="label 9 in row 5"):
        mg.cross_entropy(mg.tensor(np.ones((2, 3, 4)), device=device), np.array([[0, 1, 2], [3, 0, 9]]))


def test_an_empty_batch_has_no_mean(device):
    with pytest.raises(ValueError, match=r"mean over no rows .* \(0, 10\)"):
        mg.cross_entropy(mg.tensor(np.ones((0, 10)), device=device), np.zeros(0, np.int64))


def test_logits_that_are_no_float_tensor_are_refused():
    with pytest.raises(TypeError, match="cross_entropy needs a Tensor, not ndarray"):
        mg.cross_entropy(np.ones((2, 3)), [0, 1])
    with pytest.raises(TypeError, match="not int64"):
        mg.cross_entropy(mg.tensor([[1, 2]]), [0])


@pytest.mark.parametrize("labels", [(50, 1), (1, 50), (49,), ()])
def test_labels_of_a_shape_that_would_broadcast_are_refused(labels):
    with pytest.raises(ValueError, match="logits .* and labels .* expected"):
        mg.cross_entropy(mg.tensor(np.zeros((50, 3), "f4")), np.zeros(labels, int))


# Options

torch = pytest.importorskip("torch")

WEIGHTS = [None, [0.5, 2.0, 0.0, 1.5, 1.0]]
REDUCTIONS = ["mean", "sum", "none"]


def torch_loss(function, x, target, **options):
    """PyTorch's loss of rows (..., classes), and its gradient of a weighted sum of the results."""
    given = torch.tensor(x, requires_grad=True)
    options = {
        name: torch.tensor(value, dtype=given.dtype) if name == "weight" else value
        for name, value in options.items()
        if value is not None
    }
    rows, target = given.reshape(-1, x.shape[-1]), torch.as_tensor(np.array(target))
    target = target.reshape(-1, x.shape[-1]) if target.is_floating_point() else target.reshape(-1)
    y = function(rows, target, **options)
    (y * torch.arange(1, 1 + y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    return y.detach().numpy(), given.grad.numpy()


def our_loss(function, x, target, device, **options):
    t = mg.tensor(x, device=device, requires_grad=True)
    y = function(t, target, **options)
    y.backward(np.arange(1, 1 + y.size, dtype=y.dtype).reshape(y.shape))
    return y.numpy(), t.grad.numpy()


def check_against_torch(ours, theirs, shape, target, device, rng, **options):
    x = 3 * rng.standard_normal(shape)
    if ours is mg.nll_loss:
        x = np_log_softmax(x)
    given = {k: np.array(v) if k == "weight" and v is not None else v for k, v in options.items()}
    (y, dx), (expected, expected_dx) = (
        our_loss(ours, x, target, device, **given),
        torch_loss(theirs, x, target, **options),
    )
    assert y.shape == (shape[:-1] if options.get("reduction") == "none" else ())
    np.testing.assert_allclose(y.ravel(), expected.ravel(), rtol=1e-12, atol=1e-14, err_msg=repr(options))
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-14, err_msg=repr(options))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (1, 5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore", [None, -100, 2, -1])
def test_cross_entropy_with_all_options_is_that_of_pytorch(shape, reduction, ignore, device, rng):
    labels = rng.integers(0, 5, shape[:-1])
    if ignore is not None and labels.size > 1:
        labels.reshape(-1)[::3] = ignore
    for weight in WEIGHTS:
        for smoothing in (0.0, 0.1, 1.0):
            options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
            if ignore is not None:
                options["ignore_index"] = ignore
            check_against_torch(
                mg.cross_entropy, torch.nn.functional.cross_entropy, shape, labels, device, rng, **options
            )


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (5,)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_of_probabilities_is_that_of_pytorch(shape, reduction, device, rng):
    target = np_softmax(rng.standard_normal(shape))
    for weight in WEIGHTS:
        for smoothing in (0.0, 0.1, 1.0):
            options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
            check_against_torch(
                mg.cross_entropy, torch.nn.functional.cross_entropy, shape, target, device, rng, **options
            )


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore", [None, -100, 2])
def test_nll_loss_is_that_of_pytorch(shape, reduction, ignore, device, rng):
    labels = rng.integers(0, 5, shape[:-1])
    for weight in WEIGHTS:
        options = {"weight": weight, "reduction": reduction}
        if ignore is not None:
            labels.reshape(-1)[::3] = options["ignore_index"] = ignore
        check_against_torch(mg.nll_loss, torch.nn.functional.nll_loss, shape, labels, device, rng, **options)


WAYS = {
    "weights": {"weight": np.array([0.5, 2.0, 1.0])},
    "smoothing": {"label_smoothing": 0.2},
    "ignored": {"ignore_index": -100},
    "sum": {"reduction": "sum"},
    "all": {"weight": np.array([0.5, 2.0, 1.0]), "label_smoothing": 0.2, "ignore_index": -100, "reduction": "none"},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_gradients_with_options(options, device, rng):
    labels = rng.integers(0, 3, (2, 5))
    if "ignore_index" in options:
        labels[0, ::2] = -100
    check_grads(lambda x: mg.cross_entropy(x, labels, **options), rng.standard_normal((2, 5, 3)), device=device)


def test_gradients_to_probabilities(device, rng):
    x, target = rng.standard_normal((4, 3)), np_softmax(rng.standard_normal((4, 3)))
    check_grads(lambda x, t: mg.cross_entropy(x, t, label_smoothing=0.1), x, target, device=device)


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_captured_with_options_gives_the_bits_of_eager(options, rng):
    weight = options.get("weight")
    kept = None if weight is None else mg.tensor(weight, dtype="float32")
    options = {**options, "weight": kept}
    results = []
    for captured in (False, True):
        x = mg.tensor(rng.standard_normal((6, 3)) * 0 + np.arange(3), dtype="float32", requires_grad=True)

        def step(labels, x=x):
            x.grad = None
            loss = mg.cross_entropy(x * x, labels, **options)
            loss.sum().backward()
            return loss

        step = mg.capture(step) if captured else step
        for first in range(3):
            labels = np.array([first, 0, 1, 2, 1, -100 if "ignore_index" in options else 0])
            loss = step(labels if captured else mg.tensor(labels))
            results.append((captured, loss.numpy().tobytes(), x.grad.numpy().tobytes()))
    assert [r[1:] for r in results if r[0]] == [r[1:] for r in results if not r[0]]


def test_plain_cross_entropy_is_one_launch_each_way(rng):
    x = mg.tensor(rng.standard_normal((6, 3)), requires_grad=True)

    @mg.capture
    def step(labels):
        loss = mg.cross_entropy(x, labels, weight=None, ignore_index=None, label_smoothing=0, reduction="mean")
        loss.backward()
        return loss

    step(np.zeros(6, np.int64))
    kernels = [launch.kernel for launch in step.plan.launches]
    assert [k for k in kernels if k.startswith("loss.")] == [
        "loss.cross_entropy_forward",
        "loss.cross_entropy_backward",
    ]


def test_all_rows_ignored(device):
    x = mg.tensor(np.ones((2, 3)), device=device, requires_grad=True)
    assert np.isnan(mg.cross_entropy(x, [7, 7], ignore_index=7).item())  # as in PyTorch
    loss = mg.cross_entropy(x, [7, 7], ignore_index=7, reduction="sum")
    loss.backward()
    assert loss.item() == 0
    np.testing.assert_array_equal(x.grad.numpy(), 0)


def test_no_rows_have_a_sum_and_no_mean(device):
    x = mg.tensor(np.ones((0, 3)), device=device, requires_grad=True)
    for target in (np.zeros(0, int), np.zeros((0, 3))):
        loss = mg.cross_entropy(x, target, reduction="sum")
        loss.backward()
        assert (loss.item(), x.grad.shape) == (0, (0, 3))
        assert mg.cross_entropy(x, target, reduction="none").shape == (0,)
        with pytest.raises(ValueError, match="mean over no rows"):
            mg.cross_entropy(x, target, label_smoothing=0.1)


def test_a_list_of_weights_takes_the_logits_dtype(device):
    x = mg.tensor(np.eye(2, dtype=np.float32), device=device)
    expected = mg.cross_entropy(x, [0, 1], weight=mg.tensor([1.0, 3.0], device=device))
    assert mg.cross_entropy(x, [0, 1], weight=[1, 3]).item() == expected.item()


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: mg.cross_entropy(x, [0, 3]), ValueError, "cross_entropy: label 3 in row 1 is out of range"),
        (lambda x: mg.cross_entropy(x, [0, -1], ignore_index=-100), ValueError, "0 to 2, and -100, which is ignored"),
        (lambda x: mg.nll_loss(x, [0, 3]), ValueError, "nll_loss: label 3 in row 1"),
        (lambda x: mg.nll_loss(x, [0.0, 1.0]), TypeError, "nll_loss: labels must be integers"),
        (lambda x: mg.nll_loss(x, [[0], [1]]), ValueError, r"got \(2, 3\) and \(2, 1\)"),
        (lambda x: mg.cross_entropy(x, [0.0, 1.0]), TypeError, r"probabilities would have the logits' shape \(2, 3\)"),
        (lambda x: mg.cross_entropy(x, np.ones((2, 3), np.float32)), TypeError, "logits is float64, labels is float32"),
        (
            lambda x: mg.cross_entropy(x, np.ones((2, 3)), ignore_index=0),
            ValueError,
            "ignore_index is for integer labels",
        ),
        (
            lambda x: mg.cross_entropy(x, [0, 1], weight=np.ones(2)),
            ValueError,
            r"one number for each class, \(3,\), not",
        ),
        (lambda x: mg.cross_entropy(x, [0, 1], weight=np.ones((3, 1))), ValueError, "one number for each class"),
        (lambda x: mg.cross_entropy(x, [0, 1], weight=np.ones(3, "f4")), TypeError, "weight is float32"),
        (lambda x: mg.cross_entropy(x, [0, 1], label_smoothing=1.5), ValueError, "label_smoothing must be from 0 to 1"),
        (lambda x: mg.cross_entropy(x, [0, 1], label_smoothing="a"), TypeError, "label_smoothing must be a number"),
        (lambda x: mg.cross_entropy(x, [0, 1], ignore_index=0.5), TypeError, "ignore_index must be an integer"),
        (lambda x: mg.cross_entropy(x, [0, 1], reduction="avg"), ValueError, "'mean', 'sum' or 'none', not 'avg'"),
        (lambda x: mg.nll_loss(x, [0, 1], reduction="avg"), ValueError, "'mean', 'sum' or 'none', not 'avg'"),
    ],
)
def test_options_that_are_wrong_are_refused(use, error, message, device):
    with pytest.raises(error, match=message):
        use(mg.tensor(np.ones((2, 3)), device=device))


def test_weights_made_inside_a_captured_step_are_refused():
    with pytest.raises(mg.CaptureError, match="NumPy array"):
        mg.capture(lambda x: mg.cross_entropy(x, mg.tensor([0, 1]), weight=np.ones(3)))(np.ones((2, 3)))
