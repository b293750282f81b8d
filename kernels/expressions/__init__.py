"""Scalar formulas as straight-line code: traced from a Python function, differentiated, and written out for every target.

    f = trace(lambda a, x: a * x * tanh(x))            runs the function once, on symbols in the place of numbers
    gradient(f, (0, 1))                                dy, a, x -> da, dx
    code(f, ["a[i]", "x[j]"])                          lines of Python, which every target compiles in a loop of its own

A formula is a list of steps, each an operation on inputs and results of earlier steps. Equal steps are kept once, those
that lead to no result not at all, and what is known of constants is computed at once. Two formulas of the same steps are
the same: compiled code goes by that.
"""

from minigrad.kernels.expressions.derivatives import gradient
from minigrad.kernels.expressions.formula import Formula, code, text
from minigrad.kernels.expressions.operations import OPERATIONS
from minigrad.kernels.expressions.symbols import (
    Scalar,
    apply,
    check_bounds,
    clip,
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    sigmoid,
    sign,
    sin,
    sqrt,
    tanh,
    where,
)
from minigrad.kernels.expressions.tracing import narrowed, trace, trace_partials

__all__ = [
    "OPERATIONS",
    "Formula",
    "Scalar",
    "apply",
    "check_bounds",
    "clip",
    "code",
    "cos",
    "erf",
    "exp",
    "expm1",
    "gradient",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "narrowed",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "tanh",
    "text",
    "trace",
    "trace_partials",
    "where",
]
