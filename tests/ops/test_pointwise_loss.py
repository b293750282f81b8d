"""Losses that are a formula of each element, against PyTorch."""

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_grads

torch = pytest.importorskip("torch")
F = torch.nn.functional

W = np.array([0.5, 2.0, 0.0, 1.5])
CASES = {
    "mse_loss": {},
    "l1_loss": {},
    "huber_loss": {"delta": [1.0, 0.3]},
    "binary_cross_entropy_with_logits": {"weight": [None, W, W[1]], "pos_weight": [None, 3 * W, W[1]]},
    "kl_div": {"log_target": [False, True]},
}
SHAPES = [(4,), (3, 4), (2, 3, 4)]
each = pytest.mark.parametrize("name", CASES)


def combinations(name):
    """All options of a loss."""
    reductions = ["mean", "sum", "none", *["batchmean"] * (name == "kl_div")]
    for values in itertools.product(reductions, *CASES[name].values()):
        yield dict(zip(("reduction", *CASES[name]), values, strict=True))


def inputs(name, rng, shape, log_target=False):
    """What a loss takes: off kinks, and targets that are probabilities where they must be."""
    x, t = rng.uniform(-3, 3, (2, *shape))
    if name == "binary_cross_entropy_with_logits":
        t = rng.random(shape)
    if name == "kl_div":
        x, t = -np.abs(x), -np.abs(t) if log_target else rng.random(shape)
    return x, t


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # PyTorch's advice on kl_div
@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_those_of_pytorch(name, shape, device, rng):
    for options in combinations(name):
        given = [
            mg.tensor(a, device=device, requires_grad=True) for a in inputs(name, rng, shape, options.get("log_target"))
        ]
        theirs = [torch.tensor(t.numpy(), requires_grad=True) for t in given]
        y = getattr(mg, name)(*given, **options)
        like = {
            k: torch.as_tensor(v) if isinstance(v, float | np.ndarray) and k != "delta" else v
            for k, v in options.items()
        }
        expected = getattr(F, name)(*theirs, **like)
        weights = np.arange(1.0, 1 + y.size).reshape(y.shape)
        y.backward(weights)
        (expected * torch.tensor(weights)).sum().backward()
        assert y.shape == tuple(expected.shape)
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-14, err_msg=repr(options))
        for ours, other in zip(given, theirs, strict=True):
            np.testing.assert_allclose(
                ours.grad.numpy(), other.grad.numpy(), rtol=1e-11, atol=1e-14, err_msg=repr(options)
            )


@each
def test_gradients(name, device, rng):
    for options in combinations(name):
        x, t = inputs(name, rng, (3, 4), options.get("log_target"))
        check_grads(lambda x, t, options=options: getattr(mg, name)(x, t, **options), x, t, device=device)


@each
def test_float32_within_a_few_roundings(name, device, rng):
    for options in combinations(name):
        x, t = (a.astype(np.float32) for a in inputs(name, rng, (3, 4), options.get("log_target")))
        wide = {k: v for k, v in options.items()}
        options = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        y = getattr(mg, name)(mg.tensor(x, device=device), t, **options)
        assert y.dtype == np.float32
        expected = getattr(mg, name)(mg.tensor(x.astype(np.float64), device=device), t.astype(np.float64), **wide)
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=2e-5, atol=1e-6)


@each
def test_captured_gives_the_bits_of_eager(name, rng):
    x, t = (a.astype(np.float32) for a in inputs(name, rng, (6, 4)))
    results = []
    for captured in (False, True):
        w = mg.tensor(np.ones(4), dtype="float32", requires_grad=True)

        def step(x, t, w=w):
            w.grad = None
            loss = getattr(mg, name)(x * w, t)
            loss.backward()
            return loss

        step = mg.capture(step) if captured else step
        for scale in np.float32([1, 0.5, 2]):
            loss = step(scale * x, t) if captured else step(mg.tensor(scale * x), mg.tensor(t))
            results.append((captured, loss.item(), w.grad.numpy().tobytes()))
    assert [r[1:] for r in results if r[0]] == [r[1:] for r in results if not r[0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_are_finite_and_small_losses_exact(dtype, device):
    x = mg.tensor(np.array([1e4, -1e4, 1e4, -1e4, 80, -80], dtype), device=device, requires_grad=True)
    t = np.array([1, 0, 0, 1, 1, 0], dtype)
    y = mg.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_allclose(y.numpy(), [0, 0, 1e4, 1e4, np.exp(-80), np.exp(-80)], rtol=1e-5)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy()[:4], [0, 0, 1, -1])


def test_probability_zero_has_no_divergence(device):
    x = mg.tensor(np.log([0.5, 0.5, 1e-3]), device=device, requires_grad=True)
    y = mg.kl_div(x, np.array([0.0, 0.5, 1.0]), reduction="none")
    np.testing.assert_allclose(y.numpy(), [0, 0, np.log(1e3)], atol=1e-15)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0, -0.5, -1])


@each
def test_nan_is_not_hidden(name, device, rng):
    x, t = inputs(name, rng, (2, 4))
    x[1, 2] = np.nan
    y = getattr(mg, name)(mg.tensor(x, device=device), t, reduction="none")
    np.testing.assert_array_equal(np.isnan(y.numpy()), np.isnan(x))


def test_formulas_are_shown():
    x = mg.tensor(np.ones(3), requires_grad=True)
    for name in CASES:
        text = str(mg.inspect.table(getattr(mg, name)(x, np.ones(3), reduction="none")))
        assert {"mse_loss": "SquaredError", "kl_div": "KlDivergence"}.get(name, "") in text
    loss = mg.huber_loss(x, np.zeros(3), reduction="none")
    assert "delta" in loss._op.formula


@pytest.mark.parametrize("shape", [(1,), (5,), (17, 3), (2, 3, 4), ()])
def test_mse_loss_is_the_formula(shape, device, rng):
    a, b = rng.standard_normal((2, *shape))
    x, target = mg.tensor(a, device=device, requires_grad=True), mg.tensor(b, device=device)
    for like in (target, b):
        x.zero_grad()
        loss = mg.mse_loss(x, like)
        loss.backward()
        np.testing.assert_allclose(loss.item(), np.mean((a - b) ** 2), rtol=1e-13)
        np.testing.assert_allclose(x.grad.numpy(), 2 * (a - b) / a.size, rtol=1e-13)


def test_mse_loss_gradients(device, rng):
    check_grads(mg.mse_loss, rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), device=device)


def test_mse_loss_captured_gives_the_bits_of_eager(rng):
    a, b = rng.standard_normal((2, 6, 3)).astype(np.float32)
    step = mg.capture(mg.mse_loss)
    assert [step(a, b).item() for _ in range(2)] == [mg.mse_loss(mg.tensor(a), mg.tensor(b)).item()] * 2


@pytest.mark.parametrize(
    ("output", "target"), [((50, 1), (50,)), ((50,), (50, 1)), ((3,), ()), ((1, 3), (3,)), ((2,), (3,))]
)
def test_mse_loss_of_shapes_that_would_broadcast_is_refused(output, target):
    message = f"one shape, not {output} and {target}; reshape".replace("(", r"\(").replace(")", r"\)")
    for like in (mg.tensor(np.zeros(target, "f4")), np.zeros(target, "f4")):
        with pytest.raises(ValueError, match=message):
            mg.mse_loss(mg.tensor(np.zeros(output, "f4")), like)


def test_mse_loss_of_what_is_wrong_is_refused():
    with pytest.raises(ValueError, match="mean of no elements"):
        mg.mse_loss(mg.tensor(np.zeros((0, 2))), np.zeros((0, 2)))
    assert mg.mse_loss(mg.tensor(np.zeros((0, 2))), np.zeros((0, 2)), reduction="sum").item() == 0
    with pytest.raises(TypeError, match="mse_loss: dtypes differ, float32 and float64"):
        mg.mse_loss(mg.tensor([1.0]), np.zeros(1))
    with pytest.raises(TypeError, match="mse_loss needs float32 or float64"):
        mg.mse_loss(mg.tensor([1]), mg.tensor([1]))


@each
@pytest.mark.parametrize(("output", "target"), [((5, 1), (5,)), ((3,), ()), ((2,), (3,))])
def test_shapes_that_would_broadcast_are_refused(name, output, target):
    with pytest.raises(ValueError, match=f"{name}: output and target must have one shape"):
        getattr(mg, name)(mg.tensor(np.ones(output)), np.ones(target))


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: mg.l1_loss(x, np.ones((2, 4), "f4")), TypeError, "l1_loss: dtypes differ"),
        (lambda x: mg.l1_loss(x, x, reduction="avg"), ValueError, "'mean', 'sum' or 'none', not 'avg'"),
        (lambda x: mg.mse_loss(x, x, reduction="batchmean"), ValueError, "not 'batchmean'"),
        (lambda x: mg.kl_div(x, x, reduction="avg"), ValueError, "'mean', 'sum', 'none' or 'batchmean', not 'avg'"),
        (lambda x: mg.kl_div(x[:0], x[:0], reduction="batchmean"), ValueError, "needs rows along the first axis"),
        (lambda x: mg.huber_loss(x, x, delta=0), ValueError, "delta must be a number above 0, not 0"),
        (lambda x: mg.huber_loss(x, x, delta="a"), ValueError, "delta must be a number above 0, not 'a'"),
        (
            lambda x: mg.binary_cross_entropy_with_logits(x, x, weight=np.ones(3)),
            ValueError,
            r"weight of shape \(3,\) does not broadcast to the logits' shape \(2, 4\)",
        ),
        (
            lambda x: mg.binary_cross_entropy_with_logits(x, x, pos_weight=np.ones((3, 2, 4))),
            ValueError,
            r"pos_weight of shape \(3, 2, 4\) does not broadcast",
        ),
        (
            lambda x: mg.binary_cross_entropy_with_logits(x, x, pos_weight=np.ones(4, "f4")),
            TypeError,
            "pos_weight is float32",
        ),
    ],
)
def test_what_is_wrong_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use(mg.tensor(np.ones((2, 4))))
