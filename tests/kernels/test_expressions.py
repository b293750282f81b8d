"""Formulas as such: traced, simplified, differentiated, written; what cannot be traced is refused by name."""

import math
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels import expressions
from minigrad.kernels.axes import flat_layout
from minigrad.kernels.expressions import gradient, narrowed, text, trace, trace_partials, where
from minigrad.kernels.expressions.derivatives import TANGENTS
from minigrad.kernels.reference import pointwise


def value(formula, *numbers):
    """The results of a formula of numbers, in float64."""
    results = [np.empty(1) for _ in formula.outputs]
    shape, strides = flat_layout(1)
    inputs = [np.array([x]) for x in numbers]
    pointwise.evaluate(formula, inputs, results, shape, (strides,) * len(inputs))
    return [float(y[0]) for y in results]


def steps(function):
    return [operation for operation, _ in trace(function).steps]


def test_equal_steps_are_kept_once_and_steps_for_nothing_not_at_all():
    def f(x):
        mg.exp(x)
        return mg.tanh(x) * mg.tanh(x) + (mg.tanh(x) * mg.tanh(x))

    assert steps(f) == ["tanh", "mul", "add"]


def test_constants_are_computed_at_once():
    assert steps(lambda x: x * (expressions.exp(0.0) + 2 / 4)) == ["constant", "mul"]
    assert trace(lambda x: x + expressions.sqrt(4.0)).steps[0] == ("constant", (2.0,))
    assert steps(lambda x: (x * 1 + 0) / 1 - 0) == []
    assert value(trace(lambda x: x + 1 / (x * 0 + 0.0)), 1.0) == [math.inf]


@pytest.mark.parametrize(
    ("p", "expected"), [(2, ["mul"]), (3, ["mul", "mul"]), (0.5, ["sqrt"]), (-1, ["constant", "div"])]
)
def test_powers_are_products_where_they_can(p, expected):
    assert steps(lambda x: x**p) == expected


def test_negative_zero_is_another_constant_than_zero():
    formula = trace(lambda x: where(x > 0.0, 0.0, -0.0))
    assert math.copysign(1, value(formula, -1.0)[0]) == -1


@pytest.mark.parametrize(
    ("f", "d"),
    [
        (lambda x: x**3 - 2 * x, lambda x: 3 * x * x - 2),
        (lambda x: mg.exp(-x * x), lambda x: -2 * x * math.exp(-x * x)),
        (lambda x: 1 / (1 + mg.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
        (lambda x: 2.0**x, lambda x: 2.0**x * math.log(2)),
        (lambda x: x**x, lambda x: x**x * (1 + math.log(x))),
        (lambda x: x**-1.5, lambda x: -1.5 * x**-2.5),
        (lambda x: mg.where(x > 1, x * x, 0.0), lambda x: 2 * x if x > 1 else 0),
        (lambda x: mg.maximum(x, 0.5) * mg.minimum(x, 1.5), lambda x: 0.5 if x < 0.5 else 2 * x if x < 1.5 else 1.5),
        (lambda x: np.sin(x) * np.cos(x), lambda x: math.cos(2 * x)),
        (lambda x: np.log1p(np.expm1(x)), lambda x: 1.0),
        (lambda x: mg.log(mg.sqrt(x)), lambda x: 0.5 / x),
        (lambda x: mg.tanh(x) + mg.sigmoid(x), lambda x: 1 / math.cosh(x) ** 2 + 0.25 / math.cosh(x / 2) ** 2),
        (lambda x: mg.erf(x), lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x)),
        (lambda x: abs(x - 1) + mg.sign(x), lambda x: math.copysign(1, x - 1)),
        (lambda x: mg.gelu(x) * mg.clip(x, 0, 2), None),
        (lambda x: x.tanh() + x.relu() + x.clip(0, 1) + x.square(), None),
    ],
)
@pytest.mark.parametrize("x", [0.3, 0.7, 1.3, 1.9])
def test_derivatives(f, d, x):
    formula = trace(f)
    (found,) = value(gradient(formula, (0,)), 1.0, x)
    numeric = (value(formula, x + 1e-6)[0] - value(formula, x - 1e-6)[0]) / 2e-6
    assert found == pytest.approx(numeric, rel=1e-7, abs=1e-8)
    if d is not None:
        assert found == pytest.approx(d(x), rel=1e-12)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.clip(0, 1),
        lambda x: x.clip(min=0, max=1),
        lambda x: mg.clip(x, 0, max=1),
        lambda x: np.clip(x, 0, 1),
        lambda x: np.clip(x, a_min=0, a_max=1),
        lambda x: x.clip(min=0).clip(max=1),
    ],
)
def test_clip_has_the_derivative_1_at_its_bounds(f):
    formula = trace(f)
    derivative = gradient(formula, (0,))
    for x, y, dx in ((-0.5, 0, 0), (0.0, 0, 1), (0.5, 0.5, 1), (1.0, 1, 1), (1.5, 1, 0)):
        assert (value(formula, x), value(derivative, 1.0, x)) == ([y], [dx]), x
    assert math.isnan(value(formula, math.nan)[0])


def test_bounds_of_clip_may_be_arguments():
    formula = trace(lambda x, low, high: x.clip(low, high))
    derivative = gradient(formula, (0, 1, 2))
    assert value(derivative, 1.0, 0.5, 0.5, 2.0) == [1, 0, 0]
    assert value(derivative, 1.0, 0.4, 0.5, 2.0) == [0, 1, 0]
    assert value(derivative, 1.0, 2.1, 0.5, 2.0) == [0, 0, 1]
    assert math.isnan(value(formula, 1.0, math.nan, 2.0)[0])


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x.clip(), "clip needs min, max or both"),
        (lambda x: x.clip(2, 1), "clip: min is 2 and max is 1, which is less"),
    ],
)
def test_bounds_of_clip_that_make_no_sense_are_refused(f, message):
    with pytest.raises(ValueError, match=message):
        trace(f)


def test_each_operation_has_a_rule_or_none_that_is_meant():
    assert TANGENTS.keys() == expressions.OPERATIONS.keys()


def test_second_derivatives_are_formulas_too():
    first = gradient(trace(lambda x: x**4 + mg.sin(x)), (0,))
    second = gradient(first, (1,))
    assert value(second, 1.0, 1.0, 0.7) == [pytest.approx(12 * 0.49 - math.sin(0.7))]


def test_what_is_not_chosen_does_not_reach_the_derivative():
    formula = gradient(trace(lambda x: where(x > 0, mg.sqrt(x), 0.0)), (0,))
    assert value(formula, 1.0, 0.0) == [0]
    assert value(formula, math.inf, -1.0) == [0]


def test_inputs_that_a_derivative_does_not_read_are_left_out():
    formula, read = narrowed(gradient(trace(lambda a, b: a * 3 + b * b), (0,)))
    assert read == (0,)
    assert formula.names == ("dy",)
    _, read = narrowed(gradient(trace(lambda a, b: a * 3 + b * b), (0, 1)))
    assert read == (0, 2)


def test_given_derivatives_are_used():
    formula = trace(lambda x, y: x * y)
    partials = trace_partials(lambda x, y: (y + 1, None), formula)
    assert value(gradient(formula, (0, 1), partials), 2.0, 3.0, 4.0) == [10, 0]
    with pytest.raises(TypeError, match="the derivative must be 2 results, one for each of x, y, not 1"):
        trace_partials(lambda x, y: y, formula)
    with pytest.raises(TypeError, match="the derivative takes other arguments than the formula, which takes x, y"):
        trace_partials(lambda x: (x, x), formula)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda a, x, b: a * x * mg.tanh(b + x), "y = a x tanh(b + x)"),
        (lambda x: x * x - (1 - x) / (2 * x), "y = x² - (1 - x) / (2 x)"),
        (lambda x: mg.where((x > 0) & (x <= 1), -x, x / 2), "y = (-x if x > 0 and x ≤ 1 else x / 2)"),
        (lambda x: mg.exp(x) * (1 + mg.exp(x)), "u1 = exp(x);  y = u1 (1 + u1)"),
        (lambda x: (x + 1) ** 2.5 - x ** (-0.5), "y = (x + 1)^2.5 - x^(-0.5)"),
        (lambda x: x - (x - (x - 1)), "y = x - (x - (x - 1))"),
    ],
)
def test_text(f, expected):
    assert text(trace(f)) == expected


def test_text_of_a_gradient_names_what_it_is_to():
    assert text(gradient(trace(lambda x, w: x * w), (0, 1))) == "dx = dy w;  dw = dy x"


def branch(x):
    return x if x > 0 else 0.0


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (branch, r"instead of `if`.*mg\.where\(condition, a, b\)"),
        (lambda x: max(x, 0), r"mg\.maximum\(a, b\)"),
        (lambda x: (x > 0) and x, "`&`"),
        (lambda x: math.exp(x), "no numbers yet, which math's functions.*exp, log"),
        (lambda x: int(x), "no numbers yet"),
        (lambda x: 3.0, r"must be made of its arguments, and this one gives 3\.0"),
        (lambda x: None, "made of its arguments and of numbers, not of NoneType"),
        (lambda x: x * np.ones(3), r"not of a ndarray of shape \(3,\); pass it as an argument"),
        (lambda x: x * mg.tensor([1.0, 2.0]), r"not of a Tensor of shape \(2,\); pass it as an argument"),
        (lambda x: np.arctan(x), r"np\.arctan cannot be traced to a formula; there are arithmetic"),
        (lambda x: np.cumsum(x), "cumsum"),
        (lambda x: x.sum(), "a formula has no 'sum' of its arguments"),
        (lambda x: mg.where(x, x, 0.0), "wants a condition, as x > 0 is one"),
        (lambda *x: x[0], r"without \* and \*\*"),
        (lambda: 1.0, "fixed number of arguments"),
        (lambda x, *, y: x + y, r"without \* and \*\*"),
        (lambda a, b, c, d, e, f, g, h, i: a, "8 arguments at most, this one 9"),
        (lambda x: (x, x), "gives 2 results, where an op has one"),
    ],
)
def test_what_cannot_be_traced_says_why(f, message):
    with pytest.raises((TypeError, AttributeError), match=message):
        mg.elementwise(f)


def test_symbols_of_two_formulas_do_not_mix():
    kept = []
    mg.elementwise(lambda x: kept.append(x) or x + 1)
    with pytest.raises(TypeError, match="a symbol of another one"):
        mg.elementwise(lambda x: x + kept[0])


def test_formulas_are_equal_by_their_steps_and_can_be_pickled():
    a, b, c = trace(lambda x: x * 2), trace(lambda t: t * 2), trace(lambda x: x * 3)
    assert a == b != c
    assert len({a, b, c}) == 2
    copied = pickle.loads(pickle.dumps(a))
    assert copied == a
    assert copied.names == ("x",)
