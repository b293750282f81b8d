"""Symbols in the place of numbers: what a function does to them becomes steps of a formula."""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.kernels.expressions.formula import Formula, Step
from minigrad.kernels.expressions.operations import FOLDED, OPERATIONS, operand_kinds


class Draft:
    """Steps on their way to a formula."""

    def __init__(self, names: Sequence[str], kinds: Sequence[str]) -> None:
        self.names, self.kinds = names, kinds
        self.steps: list[Step] = []
        self.numbers: dict[Any, int] = {}
        self.inputs = [Scalar(self, i, kind) for i, kind in enumerate(kinds)]

    def value(self, given: Any) -> "Scalar":
        """A value of this draft, or a number as one."""
        if isinstance(given, Scalar):
            if given.draft is not self:
                raise TypeError(
                    "a formula uses a symbol of another one, which was traced before; pass it as an argument"
                )
            return given
        if isinstance(given, numbers.Real | np.bool_):
            return self.add("constant", float(given))
        what = f"a {type(given).__name__} of shape {given.shape}" if hasattr(given, "shape") else type(given).__name__
        raise TypeError(f"a formula is made of its arguments and of numbers, not of {what}; pass it as an argument")

    def add(self, operation: str, *operands: Any) -> "Scalar":
        """The result of a step, which may stand there already."""
        key = operation, *[f"{o!r}" if isinstance(o, float) else o for o in operands]  # -0.0 is not 0.0, NaN itself
        if key not in self.numbers:
            self.steps.append((operation, operands))
            self.numbers[key] = len(self.kinds) + len(self.steps) - 1
        return Scalar(self, self.numbers[key], OPERATIONS[operation].kind)

    def step(self, operation: str, *given: Any) -> "Scalar":
        """The result of an operation on values and numbers; of numbers alone a number."""
        values = [as_kind(self.value(g), kind) for g, kind in zip(given, operand_kinds(operation), strict=True)]
        constants = [self.constant(v) for v in values]
        if operation in FOLDED and None not in constants:
            try:
                return self.value(FOLDED[operation](*constants))
            except (ArithmeticError, ValueError):
                pass  # 1 / 0: the machine has an answer
        if operation == "mul" and 1.0 in constants:
            return values[1 - constants.index(1.0)]
        if (operation == "div" and constants[1] == 1.0) or (operation in ("add", "sub") and constants[1] == 0.0):
            return values[0]
        if operation == "add" and constants[0] == 0.0:
            return values[1]
        return self.add(operation, *[v.number for v in values])

    def constant(self, value: "Scalar") -> float | None:
        """The number that a value is, if it is one."""
        if value.number < len(self.kinds):
            return None
        operation, operands = self.steps[value.number - len(self.kinds)]
        return operands[0] if operation == "constant" else None

    def inlined(self, formula: Formula, given: Sequence[Any]) -> "list[Scalar]":
        """The outputs of another formula for these values."""
        return [self.values_of(formula, given)[i] for i in formula.outputs]

    def values_of(self, formula: Formula, given: Sequence[Any]) -> "list[Scalar]":
        """All values of another formula for these."""
        values = [as_kind(self.value(g), kind) for g, kind in zip(given, formula.kinds, strict=True)]
        for operation, operands in formula.steps:
            if operation == "constant":
                values.append(self.value(operands[0]))
            else:
                values.append(self.step(operation, *[values[i] for i in operands]))
        return values

    def formula(self, outputs: "Sequence[Scalar]", results: Sequence[str] = ("y",)) -> Formula:
        """The formula of these results, with the steps that lead to them."""
        count = len(self.kinds)
        needed, waiting = set(), [o.number for o in outputs]
        while waiting:
            number = waiting.pop()
            if number >= count and number not in needed:
                needed.add(number)
                operation, operands = self.steps[number - count]
                waiting += operands if operation != "constant" else ()
        new = {i: i for i in range(count)}
        new |= {number: count + i for i, number in enumerate(sorted(needed))}
        steps = []
        for number in sorted(needed):
            operation, operands = self.steps[number - count]
            steps.append((operation, operands if operation == "constant" else tuple([new[o] for o in operands])))
        return Formula(self.names, self.kinds, steps, [new[o.number] for o in outputs], results)


class Scalar:
    """A number that is not known yet: what a function is given when it is traced. Arithmetic makes steps of a formula."""

    __slots__ = ("draft", "kind", "number")
    __hash__ = object.__hash__

    def __init__(self, draft: Draft, number: int, kind: str) -> None:
        self.draft, self.number, self.kind = draft, number, kind

    def __add__(self, other: Any) -> "Scalar":
        return self.draft.step("add", self, other)

    def __radd__(self, other: Any) -> "Scalar":
        return self.draft.step("add", other, self)

    def __sub__(self, other: Any) -> "Scalar":
        return self.draft.step("sub", self, other)

    def __rsub__(self, other: Any) -> "Scalar":
        return self.draft.step("sub", other, self)

    def __mul__(self, other: Any) -> "Scalar":
        return self.draft.step("mul", self, other)

    def __rmul__(self, other: Any) -> "Scalar":
        return self.draft.step("mul", other, self)

    def __truediv__(self, other: Any) -> "Scalar":
        return self.draft.step("div", self, other)

    def __rtruediv__(self, other: Any) -> "Scalar":
        return self.draft.step("div", other, self)

    def __neg__(self) -> "Scalar":
        return self.draft.step("neg", self)

    def __pos__(self) -> "Scalar":
        return self

    def __abs__(self) -> "Scalar":
        return self.draft.step("abs", self)

    def __pow__(self, exponent: Any) -> "Scalar":
        return raised(self, exponent)

    def __rpow__(self, base: Any) -> "Scalar":
        return self.draft.step("power", base, self)

    def __eq__(self, other: object) -> Any:
        return self.draft.step("equal", self, other)

    def __ne__(self, other: object) -> Any:
        return self.draft.step("not_equal", self, other)

    def __lt__(self, other: Any) -> "Scalar":
        return self.draft.step("less", self, other)

    def __le__(self, other: Any) -> "Scalar":
        return self.draft.step("less_equal", self, other)

    def __gt__(self, other: Any) -> "Scalar":
        return self.draft.step("less", other, self)

    def __ge__(self, other: Any) -> "Scalar":
        return self.draft.step("less_equal", other, self)

    def __and__(self, other: Any) -> "Scalar":
        return self.draft.step("both", self, other)

    def __rand__(self, other: Any) -> "Scalar":
        return self.draft.step("both", other, self)

    def __or__(self, other: Any) -> "Scalar":
        return self.draft.step("either", self, other)

    def __ror__(self, other: Any) -> "Scalar":
        return self.draft.step("either", other, self)

    def __invert__(self) -> "Scalar":
        return self.draft.step("not", self)

    def __getattr__(self, name: str) -> Any:
        """The methods of tensors: x.exp() is exp(x)."""
        if name in METHODS:
            return functools.partial(apply, name, self)
        raise AttributeError(f"a formula has no {name!r} of its arguments, each of which stands for one number")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *given: Any, **options: Any) -> "Scalar":
        """NumPy's functions of numbers."""
        name = UFUNCS.get(ufunc)
        if name is None or method != "__call__" or options:
            raise TypeError(f"np.{ufunc.__name__} cannot be traced to a formula; there are {KNOWN}")
        return apply(name, *given)

    def __array_function__(
        self, function: Any, kinds: Any, given: tuple[Any, ...], options: dict[str, Any]
    ) -> "Scalar":
        """NumPy's `where` and `clip`."""
        if function is np.where and len(given) == 3 and not options:
            return where(*given)
        if function is np.clip and {*options} <= {"a_min", "a_max", "min", "max"}:
            return clip(*given, **{name.removeprefix("a_"): bound for name, bound in options.items()})
        raise TypeError(f"np.{function.__name__} cannot be traced to a formula; there are {KNOWN}")

    def __bool__(self) -> bool:
        raise TypeError(
            "a formula has no numbers yet to decide by: instead of `if`, `and`, `or`, `not`, min() and max() write "
            "mg.where(condition, a, b), `&`, `|`, `~`, mg.minimum(a, b) and mg.maximum(a, b)"
        )

    def __float__(self) -> float:
        raise TypeError(
            f"a formula has no numbers yet, which math's functions, float() and int() want; there are {KNOWN}"
        )

    __int__ = __index__ = __float__  # type: ignore[assignment]  # they raise as well

    def __repr__(self) -> str:
        return f"<{self.kind} {self.number} of a formula>"


def as_kind(value: Scalar, kind: str) -> Scalar:
    """A condition as 1 or 0 where a number is wanted; TypeError for a number where a condition is."""
    if value.kind == kind or kind == "any":
        return value
    if kind == "float":
        return value.draft.step("where", value, 1.0, 0.0)
    raise TypeError(
        "a formula wants a condition, as x > 0 is one, where it was given a number; write x != 0 to make it one"
    )


def raised(x: Scalar, exponent: Any) -> Scalar:
    """x to a power, by products where they do."""
    if isinstance(exponent, Scalar):
        return x.draft.step("power", x, exponent)
    if exponent == 0.5:
        return x.draft.step("sqrt", x)
    if exponent in (1, 2, 3, 4):
        square = x * x
        return {1: x, 2: square, 3: square * x, 4: square * square}[exponent]
    return 1 / x if exponent == -1 else x.draft.step("power", x, exponent)


# What the parts of a formula are called in Python


def apply(name: str, *given: Any, **named: Any) -> Any:
    """A function of a formula by its name."""
    if name in DERIVED:
        return DERIVED[name](*given, **named)
    draft = next((g.draft for g in given if isinstance(g, Scalar)), None)
    if draft is None:
        return FOLDED[name](*given)
    return draft.step(name, *given)


def named(name: str) -> Callable[..., Any]:
    """A function of a formula, which computes with plain numbers at once."""

    def function(*given: Any) -> Any:
        return apply(name, *given)

    function.__name__ = function.__qualname__ = name
    return function


exp, log, sqrt, tanh, sigmoid, erf = map(named, ("exp", "log", "sqrt", "tanh", "sigmoid", "erf"))
expm1, log1p, sin, cos, sign = map(named, ("expm1", "log1p", "sin", "cos", "sign"))
minimum, maximum, where = map(named, ("minimum", "maximum", "where"))


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """x, but `min` where it is less and `max` where it is more; between them, and at both, the derivative is 1."""
    check_bounds(min, max)
    if min is not None:
        x = bounded(x, min, x < min)
    return x if max is None else bounded(x, max, x > max)


def bounded(x: Any, bound: Any, beyond: Any) -> Any:
    """The bound where x is beyond it, and where it is NaN; elsewhere x."""
    if isinstance(bound, Scalar):
        return where(beyond | (bound != bound), bound, x)
    return where(beyond, bound, x) if bound == bound else bound


def check_bounds(min: Any, max: Any) -> None:
    """Raise ValueError unless there are bounds, the upper one, of two numbers, not below the lower one."""
    if min is None and max is None:
        raise ValueError("clip needs min, max or both")
    if isinstance(min, numbers.Real) and isinstance(max, numbers.Real) and min > max:
        raise ValueError(f"clip: min is {min} and max is {max}, which is less")


METHODS = {"exp", "log", "sqrt", "tanh", "sigmoid", "relu", "abs", "clip", "square"}
DERIVED: dict[str, Callable[..., Any]] = {
    "relu": lambda x: where(x <= 0, 0.0, x),
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "clip": clip,
    "positive": lambda x: x,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "power": lambda x, p: raised(x, p) if isinstance(x, Scalar) else p.__rpow__(x),
}
"""Functions that are several steps, or one of another name."""
UFUNCS = {getattr(np, name): name for name in [*FOLDED, *DERIVED] if isinstance(getattr(np, name, None), np.ufunc)} | {
    np.subtract: "sub",
    np.multiply: "mul",
    np.divide: "div",
    np.negative: "neg",
    np.absolute: "abs",
    np.less: "less",
    np.less_equal: "less_equal",
    np.equal: "equal",
    np.not_equal: "not_equal",
    np.logical_and: "both",
    np.logical_or: "either",
    np.logical_not: "not",
}
KNOWN = (
    "arithmetic, comparisons, mg.where, minimum, maximum, clip, abs, sign, exp, log, sqrt, tanh, sigmoid, expm1, log1p, sin, "
    "cos and what mg has of single numbers beside"
)
