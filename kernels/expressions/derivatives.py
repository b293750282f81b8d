"""Derivatives of formulas, formed forward, input by input.

So A. Griewank and A. Walther, "Evaluating Derivatives", 2008, section 3.1. `where` chooses between two derivatives, and never
multiplies the one that it leaves, perhaps infinite, by zero.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from minigrad.kernels.expressions.formula import Formula
from minigrad.kernels.expressions.symbols import Draft, Scalar, cos, exp, log, raised, sign, sin, where


@functools.lru_cache(maxsize=4096)
def gradient(formula: Formula, inputs: tuple[int, ...], partials: Formula | None = None) -> Formula:
    """dy and the formula's inputs -> dy times its derivative to each of these inputs.

    `partials` has the derivatives to all inputs as its outputs, where they are known better.
    """
    draft = Draft(("dy", *formula.names), ("float", *formula.kinds))
    dy, *given = draft.inputs
    derivatives: list[Any]
    if partials is not None:
        known = draft.inlined(partials, given)
        derivatives = [known[i] for i in inputs]
    else:
        values = draft.values_of(formula, given)
        derivatives = [tangent(draft, formula, values, i) for i in inputs]
    return draft.formula([weighted(dy, d) for d in derivatives], [f"d{formula.names[i]}" for i in inputs])


def weighted(dy: Scalar, derivative: Any) -> Scalar:
    """dy times a derivative, None for zero. Where that is 0 or 1, dy is not multiplied, which may be infinite."""
    draft = dy.draft
    if derivative is None:
        return draft.value(0.0)
    derivative = draft.value(derivative)
    if (number := draft.constant(derivative)) is not None:
        return draft.value(0.0) if number == 0 else dy * number
    operation, operands = (
        draft.steps[derivative.number - len(draft.kinds)] if derivative.number >= len(draft.kinds) else ("", ())
    )
    if operation != "where":
        return dy * derivative
    condition, a, b = [Scalar(draft, i, kind) for i, kind in zip(operands, ("bool", "float", "float"), strict=True)]
    return where(condition, weighted(dy, a), weighted(dy, b))


def tangent(draft: Draft, formula: Formula, values: list[Scalar], to: int) -> Any:
    """The derivative of a formula's one output to one input; None for zero."""
    tangents: list[Any] = [None] * len(values)
    tangents[to] = 1.0
    for i, (operation, operands) in enumerate(formula.steps, len(formula.kinds)):
        rule = TANGENTS[operation]
        if rule is not None and any(tangents[o] is not None for o in operands):
            tangents[i] = rule(values[i], [values[o] for o in operands], [tangents[o] for o in operands])
    (output,) = formula.outputs
    return tangents[output]


# The rules of the operations


def times(a: Any, b: Any) -> Any:
    """a b, of which None is zero."""
    return None if a is None or b is None else a * b


def plus(a: Any, b: Any) -> Any:
    """a + b, of which None is zero."""
    if a is None or b is None:
        return a if b is None else b
    return a + b


def minus(a: Any, b: Any) -> Any:
    """a - b, of which None is zero."""
    return plus(a, None if b is None else -b)


def chosen(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b, of which None is zero."""
    if a is None and b is None:
        return None
    return where(condition, 0.0 if a is None else a, 0.0 if b is None else b)


def unary(derivative: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """The tangent of an operation whose derivative is a function of y and x."""
    return lambda y, operands, tangents: None if tangents[0] is None else times(derivative(y, *operands), tangents[0])


def tangent_of_minimum(y: Any, operands: Any, tangents: Any) -> Any:
    """That of the smaller one; of equals, and beside NaN, the mean."""
    (a, b), (da, db) = operands, tangents
    mean = plus(times(da, 0.5), times(db, 0.5))
    return chosen(a < b, da, chosen(b < a, db, mean))


def tangent_of_maximum(y: Any, operands: Any, tangents: Any) -> Any:
    """That of the larger one; of equals, and beside NaN, the mean."""
    return tangent_of_minimum(y, operands[::-1], tangents)


def tangent_of_power(y: Any, operands: Any, tangents: Any) -> Any:
    """Of x^p: p x^(p - 1) dx + x^p log(x) dp, where 0^p stays 0 for all p above 0, and x^0 stays 1."""
    (x, p), (dx, dp) = operands, tangents
    constants = [x.draft.constant(x), p.draft.constant(p)]
    if dx is not None and constants[1] is not None:
        dx = None if constants[1] == 0 else times(p * raised(x, constants[1] - 1), dx)
    elif dx is not None:
        dx = chosen(p == 0, None, times(p * x.draft.step("power", x, p - 1), dx))
    if dp is not None:
        rising = times(y * log(x), dp)
        dp = rising if constants[0] else chosen((x == 0) & (p >= 0), None, rising)
    return plus(dx, dp)


ROOT_OF_PI = math.sqrt(math.pi)
TANGENTS: dict[str, Callable[..., Any] | None] = {
    **dict.fromkeys(("constant", "sign", "less", "less_equal", "equal", "not_equal", "both", "either", "not")),
    "add": lambda y, o, t: plus(*t),
    "sub": lambda y, o, t: minus(*t),
    "mul": lambda y, o, t: plus(times(t[0], o[1]), times(o[0], t[1])),
    "div": lambda y, o, t: minus(t[0], times(y, t[1])) / o[1],
    "neg": lambda y, o, t: minus(None, t[0]),
    "abs": unary(lambda y, x: sign(x)),
    "sqrt": unary(lambda y, x: 0.5 / y),
    "exp": unary(lambda y, x: y),
    "expm1": unary(lambda y, x: exp(x)),
    "log": unary(lambda y, x: 1 / x),
    "log1p": unary(lambda y, x: 1 / (1 + x)),
    "tanh": unary(lambda y, x: (1 - y) * (1 + y)),
    "sigmoid": unary(lambda y, x: y * (1 - y)),
    "erf": unary(lambda y, x: exp(-(x * x)) * (2 / ROOT_OF_PI)),
    "sin": unary(lambda y, x: cos(x)),
    "cos": unary(lambda y, x: -sin(x)),
    "power": tangent_of_power,
    "minimum": tangent_of_minimum,
    "maximum": tangent_of_maximum,
    "where": lambda y, o, t: chosen(o[0], t[1], t[2]),
}
"""What each operation makes of tangents t of its operands o: the derivative of y along them. None is zero, here and there."""
