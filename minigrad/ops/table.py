"""The table of minigrad's own formulas: each function of single numbers below is an op on every device, with its gradient.

A new line is a new op: kernels, gradient, what `mg.inspect` shows, benchmark and tests follow from it, once
`tests/ops/test_table.py` has its values. Derivatives are traced but where another one is better, which `df` gives.
"""

import functools
import math
from typing import Any

import numpy as np

from minigrad.kernels.expressions import Scalar, check_bounds, exp, sigmoid, tanh
from minigrad.kernels.expressions import clip as clipped
from minigrad.kernels.expressions import cos as cosine
from minigrad.kernels.expressions import erf as error_function
from minigrad.kernels.expressions import expm1 as exp_less_1
from minigrad.kernels.expressions import log1p as log_of_1_more
from minigrad.kernels.expressions import maximum as larger
from minigrad.kernels.expressions import minimum as smaller
from minigrad.kernels.expressions import sign as sign_of
from minigrad.kernels.expressions import sin as sine
from minigrad.kernels.expressions import where as chosen
from minigrad.ops.elementwise import power as power_of_number
from minigrad.ops.pointwise import Elementwise, made
from minigrad.tensor import Tensor
from minigrad.types import Operand

Number = Any  # a symbol while the formula is traced, and in the op that comes of it a tensor
op = made
op_of_any_dtype = functools.partial(made, of_any_dtype=True)
ROOT_OF_2 = math.sqrt(2)
ROOT_OF_2_BY_PI = math.sqrt(2 / math.pi)


# Single numbers


@op
def abs(x: Number) -> Number:
    """|x|, element by element; the gradient at 0 is 0."""
    return x.abs()


@op
def sign(x: Number) -> Number:
    """1, -1, or x itself where it is 0 or NaN, element by element; the gradient is 0."""
    return sign_of(x)


@op
def square(x: Number) -> Number:
    """x x, element by element."""
    return x * x


@op
def reciprocal(x: Number) -> Number:
    """1 / x, element by element; infinite at 0."""
    return 1 / x


@op
def expm1(x: Number) -> Number:
    """e^x - 1, element by element, right near 0 too."""
    return exp_less_1(x)


@op
def log1p(x: Number) -> Number:
    """The logarithm of 1 + x, element by element, right near 0 too: -inf at -1, NaN below."""
    return log_of_1_more(x)


@op
def sin(x: Number) -> Number:
    """The sine of x radians, element by element."""
    return sine(x)


@op
def cos(x: Number) -> Number:
    """The cosine of x radians, element by element."""
    return cosine(x)


@op
def tan(x: Number) -> Number:
    """The tangent of x radians, element by element."""
    return sine(x) / cosine(x)


@op
def erf(x: Number) -> Number:
    """The error function, element by element."""
    return error_function(x)


@op
def isnan(x: Number) -> Number:
    """Whether x is NaN, element by element: a bool tensor."""
    return x != x


@op
def isinf(x: Number) -> Number:
    """Whether x is infinite, element by element: a bool tensor."""
    return x.abs() == math.inf


@op
def isfinite(x: Number) -> Number:
    """Whether x is neither infinite nor NaN, element by element: a bool tensor."""
    return x.abs() < math.inf


# Two and three


@op
def minimum(a: Number, b: Number) -> Number:
    """The smaller of a and b, element by element; NaN where one is. Of equals each gets half of the gradient."""
    return smaller(a, b)


@op
def maximum(a: Number, b: Number) -> Number:
    """The larger of a and b, element by element; NaN where one is. Of equals each gets half of the gradient."""
    return larger(a, b)


@op_of_any_dtype
def where(condition: bool, a: Number, b: Number) -> Number:
    """a where the condition, a bool tensor, holds, else b, element by element; a and b of one dtype, whichever it is."""
    return chosen(condition, a, b)


@op
def logical_and(a: bool, b: bool) -> bool:
    """Whether both hold, element by element, of bool tensors."""
    return a & b


@op
def logical_or(a: bool, b: bool) -> bool:
    """Whether a or b holds, or both, element by element, of bool tensors."""
    return a | b


@op
def logical_not(a: bool) -> bool:
    """Whether a does not hold, element by element, of a bool tensor."""
    return ~a  # type: ignore[return-value]


@functools.partial(op, name="clip")
def clip_both(x: Number, low: Number, high: Number) -> Number:
    """x, but low where it is less and high where it is more."""
    return clipped(x, low, high)


@functools.partial(op, name="clip")
def clip_low(x: Number, low: Number) -> Number:
    """x, but low where it is less."""
    return clipped(x, low)


@functools.partial(op, name="clip")
def clip_high(x: Number, high: Number) -> Number:
    """x, but high where it is more."""
    return clipped(x, max=high)


@functools.partial(op, name="pow")
def tensor_power(x: Number, exponent: Number) -> Number:
    """x to the power of a tensor."""
    return x**exponent


# Activations


@functools.partial(op, name="gelu")
def gelu_erf(x: Number) -> Number:
    """x Φ(x), where Φ is the normal distribution function."""
    return 0.5 * x * (1 + error_function(x / ROOT_OF_2))


@functools.partial(op, name="gelu")
def gelu_tanh(x: Number) -> Number:
    """x Φ(x), where Φ is approximated by a hyperbolic tangent."""
    return 0.5 * x * (1 + tanh(ROOT_OF_2_BY_PI * (x + 0.044715 * x**3)))


@op
def silu(x: Number) -> Number:
    """x sigmoid(x), element by element (Elfwing et al. 2018), also called swish."""
    return x * sigmoid(x)


@op
def leaky_relu(x: Number, negative_slope: Number = 0.01) -> Number:
    """x above 0, else negative_slope x, element by element (Maas et al. 2013)."""
    return chosen(x > 0, x, negative_slope * x)


@op
def elu(x: Number, alpha: Number = 1.0) -> Number:
    """x above 0, else alpha (e^x - 1), element by element (Clevert et al. 2016)."""
    return chosen(x > 0, x, alpha * exp_less_1(x))


@op
def selu(x: Number) -> Number:
    """elu with the numbers that keep mean 0 and variance 1 over layers, element by element (Klambauer et al. 2017)."""
    return 1.0507009873554805 * chosen(x > 0, x, 1.6732632423543772 * exp_less_1(x))


@functools.partial(op, df=lambda x: sigmoid(x))
def softplus(x: Number) -> Number:
    """log(1 + e^x), element by element, without overflow."""
    return larger(x, 0) + log_of_1_more(exp(-x.abs()))


@op
def mish(x: Number) -> Number:
    """x tanh(softplus(x)), element by element (Misra 2020)."""
    return x * tanh(softplus(x))


@op
def hard_sigmoid(x: Number) -> Number:
    """x / 6 + 1 / 2, but at least 0 and at most 1, element by element; the gradient at -3 and at 3 is 0."""
    return chosen(x <= -3, 0.0, chosen(x >= 3, 1.0, x / 6 + 0.5))


TABLE: dict[str, Elementwise] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Elementwise)
}
"""All ops of the table, by the names of their functions here."""


# Functions that choose among lines of the table


def clip(x: Tensor, min: "Operand | None" = None, max: "Operand | None" = None) -> Tensor:
    """x, but `min` where it is less and `max` where it is more, element by element; either may be left out.

    They are numbers or tensors, which broadcast; where `min` is more than `max`, `max` is the result. NaN stays, in x and in
    the bounds. The gradient goes to x from min to max, both included. Raises ValueError for numbers of which min is the larger
    one.
    """
    check_bounds(min, max)
    if min is None:
        return clip_high(x, max)
    return clip_low(x, min) if max is None else clip_both(x, min, max)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), element by element, Φ the normal distribution function (Hendrycks & Gimpel 2016).

    With approximate="tanh" by a formula of tanh, within 5e-4 of it. Raises ValueError for another word.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')
    return gelu_tanh(x) if approximate == "tanh" else gelu_erf(x)


def pow(x: Operand, exponent: Operand) -> Tensor:
    """x^exponent, element by element; either may be a tensor or a number, and they broadcast.

    NaN for x below 0 and an exponent that is not whole. The gradient to the exponent is 0 where x is 0.
    """
    if isinstance(x, Tensor) and not isinstance(exponent, Tensor | np.ndarray | Scalar):
        return power_of_number(x, exponent)
    return tensor_power(x, exponent)


power = pow  # NumPy's name
