"""The operations that formulas are made of: how each is written, what it gives, and what it is of plain numbers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """One kind of step: how it is written as code and for readers, and whether it gives a "float" or a "bool"."""

    code: str
    text: str
    kind: str = "float"


OPERATIONS = {
    "constant": Operation("", ""),
    "add": Operation("{0} + {1}", "{0} + {1}"),
    "sub": Operation("{0} - {1}", "{0} - {1}"),
    "mul": Operation("{0} * {1}", "{0} {1}"),
    "div": Operation("{0} / {1}", "{0} / {1}"),
    "neg": Operation("-{0}", "-{0}"),
    "abs": Operation("abs({0})", "|{0}|"),
    "sign": Operation("sign({0})", "sign({0})"),
    "sqrt": Operation("sqrt({0})", "√{0}"),
    "exp": Operation("exp({0})", "exp({0})"),
    "expm1": Operation("expm1({0})", "expm1({0})"),
    "log": Operation("log({0})", "log({0})"),
    "log1p": Operation("log1p({0})", "log1p({0})"),
    "tanh": Operation("tanh({0})", "tanh({0})"),
    "sigmoid": Operation("sigmoid({0})", "sigmoid({0})"),
    "erf": Operation("erf({0})", "erf({0})"),
    "sin": Operation("sin({0})", "sin({0})"),
    "cos": Operation("cos({0})", "cos({0})"),
    "power": Operation("power({0}, {1})", "{0}^{1}"),
    "minimum": Operation("minimum({0}, {1})", "min({0}, {1})"),
    "maximum": Operation("maximum({0}, {1})", "max({0}, {1})"),
    "where": Operation("{1} if {0} else {2}", "({1} if {0} else {2})"),
    "less": Operation("{0} < {1}", "{0} < {1}", "bool"),
    "less_equal": Operation("{0} <= {1}", "{0} ≤ {1}", "bool"),
    "equal": Operation("{0} == {1}", "{0} = {1}", "bool"),
    "not_equal": Operation("{0} != {1}", "{0} ≠ {1}", "bool"),
    "both": Operation("{0} and {1}", "{0} and {1}", "bool"),
    "either": Operation("{0} or {1}", "{0} or {1}", "bool"),
    "not": Operation("not {0}", "not {0}", "bool"),
}
"""All kinds of steps. Targets know the functions that the code calls."""


def operand_kinds(operation: str) -> tuple[str, ...]:
    """What an operation is done to."""
    if operation == "where":
        return "bool", "float", "float"
    count = OPERATIONS[operation].code.count("{")
    return ("bool" if operation in ("both", "either", "not") else "float",) * count


FOLDED: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "erf": math.erf,
    "expm1": math.expm1,
    "log1p": math.log1p,
    "sin": math.sin,
    "cos": math.cos,
    "sign": lambda x: x if x == 0 or x != x else math.copysign(1, x),
    "power": lambda a, b: a**b,
    "minimum": min,
    "maximum": max,
    "where": lambda condition, a, b: a if condition else b,
}
"""What is computed at once of plain numbers."""
