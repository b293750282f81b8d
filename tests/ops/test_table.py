"""Every op of the table of formulas by one loop: values, gradients, PyTorch's numbers, layouts, NaN, empty arrays, captured steps."""

import math

import numpy as np
import pytest
from scipy import special

import minigrad as mg
from minigrad.ops.table import TABLE
from minigrad.testing import check_forward, check_grads

FUNCTIONS = {name: op for name, op in TABLE.items() if not op.is_condition}


def off_kinks(x):
    return np.where(np.abs(x) < 0.01, 0.5, x)


def positive(x):
    return np.exp(x / 2)


def far_from_poles(x):
    return np.clip(x, -1.2, 1.2)


VALUES = {  # name: (what NumPy or SciPy has of it, inputs from normal numbers)
    "abs": (np.abs, off_kinks),
    "sign": (np.sign, off_kinks),
    "square": (np.square, None),
    "reciprocal": (lambda x: 1 / x, off_kinks),
    "expm1": (np.expm1, None),
    "log1p": (np.log1p, lambda x: positive(x) - 0.9),
    "sin": (np.sin, None),
    "cos": (np.cos, None),
    "tan": (np.tan, far_from_poles),
    "erf": (special.erf, None),
    "minimum": (np.minimum, None),
    "maximum": (np.maximum, None),
    "where": (np.where, None),
    "clip_both": (lambda x, low, high: np.where(x > high, high, np.where(x < low, low, x)), None),
    "clip_low": (np.maximum, None),
    "clip_high": (np.minimum, None),
    "tensor_power": (np.power, positive),
    "gelu_erf": (lambda x: x * special.ndtr(x), None),
    "gelu_tanh": (lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), None),
    "silu": (lambda x: x * special.expit(x), None),
    "leaky_relu": (lambda x, slope: np.where(x > 0, x, slope * x), off_kinks),
    "elu": (lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)), off_kinks),
    "selu": (lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)), off_kinks),
    "softplus": (lambda x: np.logaddexp(x, 0), None),
    "mish": (lambda x: x * np.tanh(np.logaddexp(x, 0)), off_kinks),
    "hard_sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: 2 * x),
    "isnan": (np.isnan, None),
    "isinf": (np.isinf, None),
    "isfinite": (np.isfinite, None),
    "logical_and": (np.logical_and, None),
    "logical_or": (np.logical_or, None),
    "logical_not": (np.logical_not, None),
}
PYTORCH = {  # name: its expression in torch (F is torch.nn.functional), of the table's inputs
    "abs": "torch.abs(x)",
    "sign": "torch.sign(x)",
    "square": "torch.square(x)",
    "reciprocal": "torch.reciprocal(x)",
    "expm1": "torch.expm1(x)",
    "log1p": "torch.log1p(x)",
    "sin": "torch.sin(x)",
    "cos": "torch.cos(x)",
    "tan": "torch.tan(x)",
    "erf": "torch.erf(x)",
    "minimum": "torch.minimum(x, a)",
    "maximum": "torch.maximum(x, a)",
    "where": "torch.where(x, a, b)",
    "clip_both": "torch.clamp(x, a, b)",
    "clip_low": "torch.clamp(x, min=a)",
    "clip_high": "torch.clamp(x, max=a)",
    "tensor_power": "torch.pow(x, a)",
    "gelu_erf": "F.gelu(x)",
    "gelu_tanh": "F.gelu(x, approximate='tanh')",
    "silu": "F.silu(x)",
    "leaky_relu": "torch.where(x > 0, x, a * x)",
    "elu": "torch.where(x > 0, x, a * torch.expm1(x))",
    "selu": "F.selu(x)",
    "softplus": "F.softplus(x, threshold=1000)",
    "mish": "F.mish(x)",
    "hard_sigmoid": "torch.clamp(x / 6 + 0.5, 0, 1)",  # whose own has 1 / 6 in float32
}
SHAPES = [(), (1,), (17,), (5, 7), (4097,)]
every_op = pytest.mark.parametrize("name", TABLE)
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def inputs(name, rng, *shapes):
    """Inputs of an op, of these shapes in turn."""
    prepare = VALUES[name][1] or (lambda x: x)
    found = []
    for i, kind in enumerate(TABLE[name].traced.kinds):
        x = rng.standard_normal(shapes[i % len(shapes)])
        found.append(x > 0 if kind == "bool" else np.asarray(prepare(x) if i == 0 else x))
    if name == "clip_both":
        found[1:] = np.minimum(*found[1:]) - 0.2, np.maximum(*found[1:]) + 0.2
    return found


def put(array, device, **options):
    return mg.tensor(array, device=device, **({} if array.dtype == bool else options))


def test_every_line_has_values_and_pytorch_where_that_has_it():
    assert TABLE.keys() == VALUES.keys()
    assert FUNCTIONS.keys() == PYTORCH.keys()


@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_values(name, dtype, shape, device, rng):
    arrays = [x if x.dtype == bool else x.astype(dtype) for x in inputs(name, rng, shape)]
    y = TABLE[name](*[put(x, device) for x in arrays]).numpy()
    expected = VALUES[name][0](*[x if x.dtype == bool else x.astype(np.float64) for x in arrays])
    assert y.shape == shape
    assert y.dtype == (bool if TABLE[name].is_condition else dtype)
    tolerance = 40 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@every_function
@pytest.mark.parametrize("shapes", [[(3, 5)], [(70,)], [(2, 1, 3), (4, 1), (3,)]])
def test_gradients(name, shapes, device, rng):
    check_grads(TABLE[name], *inputs(name, rng, *shapes), device=device, rtol=1e-5)


@every_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pytorch_has_the_same_numbers_and_gradients(name, dtype, device, rng):
    torch = pytest.importorskip("torch")
    names = {"torch": torch, "F": torch.nn.functional}
    arrays = [x if x.dtype == bool else x.astype(dtype) for x in inputs(name, rng, (6, 7))]
    ours = [put(x, device, requires_grad=True) for x in arrays]
    theirs = [torch.tensor(x, requires_grad=x.dtype != bool) for x in arrays]
    y, expected = TABLE[name](*ours), eval(PYTORCH[name], names, dict(zip("xab", theirs, strict=False)))
    dy = rng.standard_normal((6, 7)).astype(dtype)
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    tolerance = {"rtol": 100 * np.finfo(dtype).eps, "atol": 100 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), **tolerance)
    for t, other in zip(ours, theirs, strict=True):
        if t.requires_grad:
            np.testing.assert_allclose(t.grad.numpy(), other.grad.numpy(), **tolerance)


@every_function
def test_nan_comes_out_as_nan_and_its_neighbours_do_not(name, device, rng):
    arrays = [x if x.dtype == bool else x.astype(np.float32) for x in inputs(name, rng, (19,))]
    data = next(x for x in arrays if x.dtype != bool)
    data[7] = np.nan
    if arrays[0].dtype == bool:
        arrays[0][:] = True
    y = TABLE[name](*[put(x, device) for x in arrays]).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(data))


@pytest.mark.parametrize(
    ("name", "x", "y", "dx"),
    [
        ("gelu_erf", [1e4, -1e4, 0.0], [1e4, 0, 0], [1, 0, 0.5]),
        ("gelu_tanh", [1e4, -1e4, 0.0], [1e4, 0, 0], [1, 0, 0.5]),
        ("silu", [1e4, -1e4, 0.0], [1e4, 0, 0], [1, 0, 0.5]),
        ("softplus", [1e4, -1e4, np.inf], [1e4, 0, np.inf], [1, 0, 1]),
        ("elu", [1e4, -1e4, 0.0], [1e4, -1, 0], [1, 0, 1]),
        ("selu", [1e4], [1e4 * np.float32(1.0507009873554805)], [np.float32(1.0507009873554805)]),
        ("leaky_relu", [1e30, -1e30], [1e30, np.float32(0.01) * np.float32(-1e30)], [1, 0.01]),
        ("abs", [-3.0, 0.0, -np.inf], [3, 0, np.inf], [-1, 0, -1]),
        ("sign", [-3.0, 0.0, np.inf], [-1, 0, 1], [0, 0, 0]),
        ("reciprocal", [0.0, np.inf], [np.inf, 0], [-np.inf, 0]),
        ("hard_sigmoid", [10.0, -10.0, 0.0, 3.0, -3.0], [1, 0, 0.5, 1, 0], [0, 0, 1 / 6, 0, 0]),
        ("mish", [1e4, -1e4, 0.0], [1e4, 0, 0], [1, 0, 0.6]),
        ("erf", [1e4, -1e4, 0.0], [1, -1, 0], [0, 0, 2 / math.sqrt(math.pi)]),
        ("expm1", [1000.0, -1000.0], [np.inf, -1], [np.inf, 0]),
        ("log1p", [-1.0, -2.0, np.inf], [-np.inf, np.nan, np.inf], [np.inf, -1, 0]),
    ],
)
def test_far_out_and_at_kinks(name, x, y, dx, device):
    t = mg.tensor(np.array(x, np.float32), device=device, requires_grad=True)
    result = TABLE[name](t)
    result.sum().backward()
    np.testing.assert_allclose(result.numpy(), np.array(y, np.float32), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(t.grad.numpy(), np.array(dx, np.float32), rtol=1e-6, atol=1e-12)


@every_op
def test_zero_sized(name, device, rng):
    tensors = [put(x.astype(x.dtype if x.dtype == bool else np.float32), device) for x in inputs(name, rng, (3, 0))]
    tensors[-1].requires_grad = tensors[-1].dtype != bool
    y = TABLE[name](*tensors)
    assert y.shape == (3, 0)
    if y.requires_grad:
        y.sum().backward()
        assert tensors[-1].grad.shape == (3, 0)


@every_op
def test_captured_steps_give_the_bits_of_eager_ones(name, rng):
    op = TABLE[name]

    def step(*tensors):
        given = [t if t.dtype == bool else t * 1.0 for t in tensors]
        return op(*given)

    captured = mg.capture(step)
    for _ in range(3):
        arrays = [x if x.dtype == bool else x.astype(np.float32) for x in inputs(name, rng, (5, 7))]
        expected = step(*[mg.tensor(x) for x in arrays]).numpy()
        np.testing.assert_array_equal(captured(*arrays).numpy(), expected)


@every_op
def test_inspect_shows_what_was_traced(name):
    op = TABLE[name]
    assert op.op.formula == op.formula
    assert op.formula.count("d") >= (0 if op.is_condition else 1)
    assert op.__doc__


@every_op
def test_what_is_no_tensor_is_refused(name):
    count = len(TABLE[name].traced.kinds)
    with pytest.raises(TypeError, match=f"{TABLE[name].__name__} needs a Tensor, not ndarray"):
        TABLE[name](*[np.ones(3)] * count)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "where"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_are_refused(name, dtype, device):
    count = len(TABLE[name].traced.kinds)
    with pytest.raises(
        TypeError, match=f"{TABLE[name].__name__} needs a float32 or float64 tensor, not {np.dtype(dtype)}"
    ):
        TABLE[name](*[mg.tensor(np.ones(3, dtype), device=device)] * count)


def test_options_by_position_and_by_name(device):
    x = mg.tensor([-2.0, 3.0], device=device)
    np.testing.assert_allclose(mg.leaky_relu(x, 0.5).numpy(), [-1, 3])
    np.testing.assert_allclose(mg.leaky_relu(x, negative_slope=0.5).numpy(), [-1, 3])
    np.testing.assert_allclose(mg.elu(x, alpha=2.0).numpy(), [2 * math.expm1(-2), 3], rtol=1e-6)
    for bad in (lambda: mg.leaky_relu(), lambda: mg.leaky_relu(x, 1.0, 2.0), lambda: mg.leaky_relu(x, slope=1.0)):
        with pytest.raises(TypeError, match="leaky_relu takes x, negative_slope; it was given"):
            bad()


def test_gelu_chooses_its_formula(device, rng):
    x = rng.standard_normal(50)
    check_forward(mg.gelu, VALUES["gelu_erf"][0], x, device=device)
    check_forward(lambda t: mg.gelu(t, approximate="tanh"), VALUES["gelu_tanh"][0], x, device=device)
    with pytest.raises(ValueError, match='approximate is "none" or "tanh", not \'erf\''):
        mg.gelu(mg.tensor(x), approximate="erf")


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.5), (-0.5, None)])
def test_clip(bounds, device, rng):
    x = np.append(rng.standard_normal(50), [-0.5, 0.5])
    check_forward(lambda t: mg.clip(t, *bounds), lambda a: np.clip(a, *bounds), x, device=device)
    check_forward(lambda t: t.clip(*bounds), lambda a: np.clip(a, *bounds), x, device=device)
    t = mg.tensor(x, requires_grad=True)
    mg.clip(t, *bounds).sum().backward()
    low, high = -np.inf if bounds[0] is None else bounds[0], np.inf if bounds[1] is None else bounds[1]
    np.testing.assert_array_equal(t.grad.numpy(), (x >= low) & (x <= high))


def test_clip_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="clip: min is 1 and max is 0, which is less"):
        mg.clip(mg.tensor([1.0]), 1, 0)
    with pytest.raises(ValueError, match="clip needs min, max or both"):
        mg.clip(mg.tensor([1.0]))


def test_powers_of_and_by_tensors(device, rng):
    x, p = np.exp(rng.standard_normal((2, 3, 4)))
    check_forward(lambda a, b: a**b, np.power, x, p, device=device)
    check_forward(lambda b: 2**b, lambda b: np.power(2, b), p, device=device)
    check_grads(lambda a, b: a**b, x, p, device=device)
    check_grads(lambda b: 2.0**b, p, device=device)


def test_powers_at_zero(device):
    x = mg.tensor([0.0, 0.0, 0.0], device=device, requires_grad=True)
    p = mg.tensor([0.0, 1.0, 2.0], device=device, requires_grad=True)
    (x**p).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 0])
    np.testing.assert_array_equal(p.grad.numpy(), [0, 0, 0])


def test_where_takes_any_dtype_and_numbers(device):
    condition = mg.tensor([True, False, True], device=device)
    whole = mg.tensor([1, 2, 3], device=device)
    y = mg.where(condition, whole, -1)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y.numpy(), [1, -1, 3])
    np.testing.assert_array_equal(mg.where(condition, 1.0, 0.0).numpy(), np.float32([1, 0, 1]), strict=True)
    with pytest.raises(TypeError, match="where: b is 0.5, which int64 does not hold"):
        mg.where(condition, whole, 0.5)
    with pytest.raises(TypeError, match="where: condition must be a bool tensor, as x > 0 gives it, not int64"):
        mg.where(whole, 1.0, 0.0)
    with pytest.raises(TypeError, match="where: dtypes differ, int64 and float32"):
        mg.where(condition, whole, mg.tensor([1.0], device=device))


def test_gradient_that_is_not_chosen_is_zero_however_infinite(device):
    x = mg.tensor([0.0, 4.0], device=device, requires_grad=True)
    mg.where(x > 0, x.sqrt(), 0.0).sum().backward()
    assert np.isnan(x.grad.numpy()[0])  # two ops: 0 times the infinite slope of sqrt, as everywhere
    x.zero_grad()
    safe = mg.elementwise(lambda v: mg.where(v > 0, mg.sqrt(v), 0.0))
    safe(x).sum().backward()  # one formula: the slope is chosen as well
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0.25])


def test_bool_tensors_have_operators(device):
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    x, y = mg.tensor(a, device=device), mg.tensor(b, device=device)
    for ours, expected in ((x & y, a & b), (x | y, a | b), (~x, ~a), (x & True, a), (False | x, a)):
        np.testing.assert_array_equal(ours.numpy(), expected, strict=True)
    with pytest.raises(TypeError, match="logical_and: b must be a bool tensor, as x > 0 gives it, not float32"):
        x & mg.tensor([1.0], device=device)


def test_clip_by_bounds_that_cross_or_are_nan(device):
    x = mg.tensor(np.array([0.0, 1.5, 3.0], np.float32), device=device)
    low, high = (mg.tensor(np.full(3, value, np.float32), device=device) for value in (2.0, 1.0))
    for bounds in ((low, high), (2.0, high), (low, 1.0)):
        np.testing.assert_array_equal(mg.clip(x, *bounds).numpy(), [1, 1, 1])
    for bounds in ((math.nan, 1.0), (0.0, math.nan), (None, math.nan), (math.nan, None)):
        np.testing.assert_array_equal(mg.clip(x, *bounds).numpy(), [math.nan] * 3)
