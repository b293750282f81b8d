"""Scalar formulas as straight-line code: traced from a Python function, differentiated, and written out for every target.

    f = trace(lambda a, x: a * x * tanh(x))            runs the function once, on symbols in the place of numbers
    gradient(f, (0, 1))                                dy, a, x -> da, dx
    code(f, ["a[i]", "x[j]"])                          lines of Python, which every target compiles in a loop of its own

A formula is a list of steps, each an operation on inputs and results of earlier steps. Equal steps are kept once, those
that lead to no result not at all, and what is known of constants is computed at once. Two formulas of the same steps are
the same: compiled code goes by that.

Derivatives are formed forward, input by input (A. Griewank and A. Walther, "Evaluating Derivatives", 2008, section 3.1), so
that `where` chooses between two derivatives and never multiplies the one that it leaves, perhaps infinite, by zero.
"""

import functools
import hashlib
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Step = tuple[str, tuple[Any, ...]]  # an operation and what it is done to, by number; or "constant" and its value
MOST_INPUTS = 8


class Formula:
    """Steps from inputs to outputs, which are numbered through: inputs first, then what each step gives.

    `kinds` says of each input whether it is a "float" or a "bool"; `results` names the outputs. `digest` stands for the whole
    but for the names.
    """

    def __init__(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        steps: Sequence[Step],
        outputs: Sequence[int],
        results: Sequence[str] = ("y",),
    ) -> None:
        self.names, self.kinds, self.steps, self.outputs = tuple(names), tuple(kinds), tuple(steps), tuple(outputs)
        self.results = tuple(results)
        self.digest = hashlib.sha256(repr((self.kinds, self.steps, self.outputs)).encode()).hexdigest()[:20]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Formula, (self.names, self.kinds, self.steps, self.outputs, self.results)

    def kind(self, number: int) -> str:
        """Whether a value is a "float" or a "bool"."""
        if number < len(self.kinds):
            return self.kinds[number]
        return OPERATIONS[self.steps[number - len(self.kinds)][0]].kind

    def __repr__(self) -> str:
        return f"<formula {', '.join(self.names)} -> {text(self)}>"


class Operation(NamedTuple):
    """One kind of step: how it is written as code and for readers, what it gives, and its derivative.

    `tangent(y, operands, tangents)` is the derivative of y along tangents of the operands, of which None stands for zero; it
    may be None itself.
    """

    code: str
    text: str
    tangent: Callable[..., Any] | None
    kind: str = "float"


class Graph:
    """Steps on their way to a formula."""

    def __init__(self, names: Sequence[str], kinds: Sequence[str]) -> None:
        self.names, self.kinds = names, kinds
        self.steps: list[Step] = []
        self.numbers: dict[Any, int] = {}
        self.inputs = [Scalar(self, i, kind) for i, kind in enumerate(kinds)]

    def value(self, given: Any) -> "Scalar":
        """A value of this graph, or a number as one."""
        if isinstance(given, Scalar):
            if given.graph is not self:
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

    __slots__ = ("graph", "kind", "number")
    __hash__ = object.__hash__

    def __init__(self, graph: Graph, number: int, kind: str) -> None:
        self.graph, self.number, self.kind = graph, number, kind

    def __add__(self, other: Any) -> "Scalar":
        return self.graph.step("add", self, other)

    def __radd__(self, other: Any) -> "Scalar":
        return self.graph.step("add", other, self)

    def __sub__(self, other: Any) -> "Scalar":
        return self.graph.step("sub", self, other)

    def __rsub__(self, other: Any) -> "Scalar":
        return self.graph.step("sub", other, self)

    def __mul__(self, other: Any) -> "Scalar":
        return self.graph.step("mul", self, other)

    def __rmul__(self, other: Any) -> "Scalar":
        return self.graph.step("mul", other, self)

    def __truediv__(self, other: Any) -> "Scalar":
        return self.graph.step("div", self, other)

    def __rtruediv__(self, other: Any) -> "Scalar":
        return self.graph.step("div", other, self)

    def __neg__(self) -> "Scalar":
        return self.graph.step("neg", self)

    def __pos__(self) -> "Scalar":
        return self

    def __abs__(self) -> "Scalar":
        return self.graph.step("abs", self)

    def __pow__(self, exponent: Any) -> "Scalar":
        return raised(self, exponent)

    def __rpow__(self, base: Any) -> "Scalar":
        return self.graph.step("power", base, self)

    def __eq__(self, other: object) -> Any:
        return self.graph.step("equal", self, other)

    def __ne__(self, other: object) -> Any:
        return self.graph.step("not_equal", self, other)

    def __lt__(self, other: Any) -> "Scalar":
        return self.graph.step("less", self, other)

    def __le__(self, other: Any) -> "Scalar":
        return self.graph.step("less_equal", self, other)

    def __gt__(self, other: Any) -> "Scalar":
        return self.graph.step("less", other, self)

    def __ge__(self, other: Any) -> "Scalar":
        return self.graph.step("less_equal", other, self)

    def __and__(self, other: Any) -> "Scalar":
        return self.graph.step("both", self, other)

    def __rand__(self, other: Any) -> "Scalar":
        return self.graph.step("both", other, self)

    def __or__(self, other: Any) -> "Scalar":
        return self.graph.step("either", self, other)

    def __ror__(self, other: Any) -> "Scalar":
        return self.graph.step("either", other, self)

    def __invert__(self) -> "Scalar":
        return self.graph.step("not", self)

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
        return value.graph.step("where", value, 1.0, 0.0)
    raise TypeError(
        "a formula wants a condition, as x > 0 is one, where it was given a number; write x != 0 to make it one"
    )


def operand_kinds(operation: str) -> tuple[str, ...]:
    """What an operation is done to."""
    if operation == "where":
        return "bool", "float", "float"
    count = OPERATIONS[operation].code.count("{")
    return ("bool" if operation in ("both", "either", "not") else "float",) * count


def raised(x: Scalar, exponent: Any) -> Scalar:
    """x to a power, by products where they do."""
    if isinstance(exponent, Scalar):
        return x.graph.step("power", x, exponent)
    if exponent == 0.5:
        return x.graph.step("sqrt", x)
    if exponent in (1, 2, 3, 4):
        square = x * x
        return {1: x, 2: square, 3: square * x, 4: square * square}[exponent]
    return 1 / x if exponent == -1 else x.graph.step("power", x, exponent)


# What the parts of a formula are called in Python


def apply(name: str, *given: Any, **named: Any) -> Any:
    """A function of a formula by its name."""
    if name in DERIVED:
        return DERIVED[name](*given, **named)
    graph = next((g.graph for g in given if isinstance(g, Scalar)), None)
    if graph is None:
        return FOLDED[name](*given)
    return graph.step(name, *given)


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


# Derivatives


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
    constants = [x.graph.constant(x), p.graph.constant(p)]
    if dx is not None and constants[1] is not None:
        dx = None if constants[1] == 0 else times(p * raised(x, constants[1] - 1), dx)
    elif dx is not None:
        dx = chosen(p == 0, None, times(p * x.graph.step("power", x, p - 1), dx))
    if dp is not None:
        rising = times(y * log(x), dp)
        dp = rising if constants[0] else chosen((x == 0) & (p >= 0), None, rising)
    return plus(dx, dp)


ROOT_OF_PI = math.sqrt(math.pi)
OPERATIONS = {
    "constant": Operation("", "", None),
    "add": Operation("{0} + {1}", "{0} + {1}", lambda y, operands, tangents: plus(*tangents)),
    "sub": Operation("{0} - {1}", "{0} - {1}", lambda y, operands, tangents: minus(*tangents)),
    "mul": Operation(
        "{0} * {1}", "{0} {1}", lambda y, o, t: plus(times(t[0], o[1]), times(o[0], t[1])),
    ),
    "div": Operation(
        "{0} / {1}", "{0} / {1}", lambda y, o, t: minus(t[0], times(y, t[1])) / o[1],
    ),
    "neg": Operation("-{0}", "-{0}", lambda y, o, t: minus(None, t[0])),
    "abs": Operation("abs({0})", "|{0}|", unary(lambda y, x: sign(x))),
    "sign": Operation("sign({0})", "sign({0})", lambda y, o, t: None),
    "sqrt": Operation("sqrt({0})", "√{0}", unary(lambda y, x: 0.5 / y)),
    "exp": Operation("exp({0})", "exp({0})", unary(lambda y, x: y)),
    "expm1": Operation("expm1({0})", "expm1({0})", unary(lambda y, x: exp(x))),
    "log": Operation("log({0})", "log({0})", unary(lambda y, x: 1 / x)),
    "log1p": Operation("log1p({0})", "log1p({0})", unary(lambda y, x: 1 / (1 + x))),
    "tanh": Operation("tanh({0})", "tanh({0})", unary(lambda y, x: (1 - y) * (1 + y))),
    "sigmoid": Operation("sigmoid({0})", "sigmoid({0})", unary(lambda y, x: y * (1 - y))),
    "erf": Operation("erf({0})", "erf({0})", unary(lambda y, x: exp(-(x * x)) * (2 / ROOT_OF_PI))),
    "sin": Operation("sin({0})", "sin({0})", unary(lambda y, x: cos(x))),
    "cos": Operation("cos({0})", "cos({0})", unary(lambda y, x: -sin(x))),
    "power": Operation("power({0}, {1})", "{0}^{1}", tangent_of_power),
    "minimum": Operation("minimum({0}, {1})", "min({0}, {1})", tangent_of_minimum),
    "maximum": Operation("maximum({0}, {1})", "max({0}, {1})", tangent_of_maximum),
    "where": Operation(
        "{1} if {0} else {2}", "({1} if {0} else {2})", lambda y, o, t: chosen(o[0], t[1], t[2]),
    ),
    "less": Operation("{0} < {1}", "{0} < {1}", None, "bool"),
    "less_equal": Operation("{0} <= {1}", "{0} ≤ {1}", None, "bool"),
    "equal": Operation("{0} == {1}", "{0} = {1}", None, "bool"),
    "not_equal": Operation("{0} != {1}", "{0} ≠ {1}", None, "bool"),
    "both": Operation("{0} and {1}", "{0} and {1}", None, "bool"),
    "either": Operation("{0} or {1}", "{0} or {1}", None, "bool"),
    "not": Operation("not {0}", "not {0}", None, "bool"),
}  # fmt: skip
"""All kinds of steps. Targets know the functions that the code calls."""

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


# From Python to formulas, and to derivatives


def parameters(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """(names, kinds) of a function's arguments, those of which it says `bool` being conditions."""
    found = inspect.signature(function).parameters.values()
    if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in found) or not found:
        raise TypeError("a formula is a function of a fixed number of arguments, f(x) or f(x, y), without * and **")
    if len(found) > MOST_INPUTS:
        raise TypeError(f"a formula takes {MOST_INPUTS} arguments at most, this one {len(found)}")
    return [p.name for p in found], ["bool" if p.annotation in (bool, "bool") else "float" for p in found]


def trace(function: Callable[..., Any]) -> Formula:
    """The formula of a function of scalars; TypeError, which names what stands in the way, if it cannot be told."""
    graph = Graph(*parameters(function))
    results = function(*graph.inputs)
    several = isinstance(results, tuple)
    outputs = [graph.value(r) for r in (results if several else (results,))]
    if not any(isinstance(r, Scalar) for r in (results if several else (results,))):
        raise TypeError(f"a formula must be made of its arguments, and this one gives {results!r} whatever they are")
    return graph.formula(outputs)


def trace_partials(function: Callable[..., Any], formula: Formula) -> Formula:
    """The derivatives of a formula to each of its inputs, of which a function of the same arguments gives all."""
    graph = Graph(formula.names, formula.kinds)
    count = len(formula.kinds)
    if len(parameters(function)[0]) != count:
        raise TypeError(
            f"the derivative takes other arguments than the formula, which takes {', '.join(formula.names)}"
        )
    results = function(*graph.inputs)
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != count:
        raise TypeError(
            f"the derivative must be {count} results, one for each of {', '.join(formula.names)}, not {len(results)}"
        )
    return graph.formula([as_kind(graph.value(0.0 if r is None else r), "float") for r in results])


def narrowed(formula: Formula) -> tuple[Formula, tuple[int, ...]]:
    """The same formula without inputs that it does not read, and the numbers of those that it keeps."""
    read = {i for operation, operands in formula.steps if operation != "constant" for i in operands} | {
        *formula.outputs
    }
    kept = tuple([i for i in range(len(formula.kinds)) if i in read])
    graph = Graph([formula.names[i] for i in kept], [formula.kinds[i] for i in kept])
    places = iter(graph.inputs)
    given = [next(places) if i in kept else 0.0 for i in range(len(formula.kinds))]
    given = [
        g if k == "float" or isinstance(g, Scalar) else graph.value(0.0) != 0
        for g, k in zip(given, formula.kinds, strict=True)
    ]
    return graph.formula(graph.inlined(formula, given), formula.results), kept


@functools.lru_cache(maxsize=4096)
def gradient(formula: Formula, inputs: tuple[int, ...], partials: Formula | None = None) -> Formula:
    """dy and the formula's inputs -> dy times its derivative to each of these inputs.

    `partials` has the derivatives to all inputs as its outputs, where they are known better.
    """
    graph = Graph(("dy", *formula.names), ("float", *formula.kinds))
    dy, *given = graph.inputs
    derivatives: list[Any]
    if partials is not None:
        known = graph.inlined(partials, given)
        derivatives = [known[i] for i in inputs]
    else:
        values = graph.values_of(formula, given)
        derivatives = [tangent(graph, formula, values, i) for i in inputs]
    return graph.formula([weighted(dy, d) for d in derivatives], [f"d{formula.names[i]}" for i in inputs])


def weighted(dy: Scalar, derivative: Any) -> Scalar:
    """dy times a derivative, None for zero. Where that is 0 or 1, dy is not multiplied, which may be infinite."""
    graph = dy.graph
    if derivative is None:
        return graph.value(0.0)
    derivative = graph.value(derivative)
    if (number := graph.constant(derivative)) is not None:
        return graph.value(0.0) if number == 0 else dy * number
    operation, operands = (
        graph.steps[derivative.number - len(graph.kinds)] if derivative.number >= len(graph.kinds) else ("", ())
    )
    if operation != "where":
        return dy * derivative
    condition, a, b = [Scalar(graph, i, kind) for i, kind in zip(operands, ("bool", "float", "float"), strict=True)]
    return where(condition, weighted(dy, a), weighted(dy, b))


def tangent(graph: Graph, formula: Formula, values: list[Scalar], to: int) -> Any:
    """The derivative of a formula's one output to one input; None for zero."""
    tangents: list[Any] = [None] * len(values)
    tangents[to] = 1.0
    for i, (operation, operands) in enumerate(formula.steps, len(formula.kinds)):
        rule = OPERATIONS[operation].tangent
        if rule is not None and any(tangents[o] is not None for o in operands):
            tangents[i] = rule(values[i], [values[o] for o in operands], [tangents[o] for o in operands])
    (output,) = formula.outputs
    return tangents[output]


# Code and text


class Code(NamedTuple):
    """A formula as lines of Python over scalars: `constants` by name, the lines, and the names of the outputs."""

    constants: dict[str, float]
    lines: list[str]
    outputs: list[str]


def code(formula: Formula, inputs: Sequence[str]) -> Code:
    """The lines that compute a formula from names that hold its inputs."""
    constants: dict[str, float] = {}
    lines, names = [], list(inputs)
    for operation, operands in formula.steps:
        if operation == "constant":
            names.append(f"k{len(constants)}")
            constants[names[-1]] = operands[0]
            continue
        names.append(f"v{len(names)}")
        lines.append(f"{names[-1]} = {OPERATIONS[operation].code.format(*[names[i] for i in operands])}")
    return Code(constants, lines, [names[i] for i in formula.outputs])


STRENGTH = {
    **dict.fromkeys(("both", "either"), 0),
    **dict.fromkeys(("less", "less_equal", "equal", "not_equal", "not"), 1),
    **dict.fromkeys(("add", "sub"), 2),
    **dict.fromkeys(("mul", "div", "neg"), 3),
    **dict.fromkeys(("sqrt", "power"), 4),
}
ALONE = 9
"""How tightly operations bind that need brackets, or whose operands do; anything else stands alone."""


def text(formula: Formula) -> str:
    """A formula as a reader would write it; what is used several times gets a name, u1 and so on."""
    uses = [i for operation, operands in formula.steps if operation != "constant" for i in operands]
    parts: list[tuple[str, int]] = [(name, ALONE) for name in formula.names]
    lines = []
    for number, (operation, operands) in enumerate(formula.steps, len(formula.names)):
        if operation == "constant":
            parts.append((f"{operands[0]:.6g}", ALONE if operands[0] >= 0 else STRENGTH["neg"]))
            continue
        part, own = written(formula, operation, [parts[i] for i in operands], operands)
        if uses.count(number) > 1 and operation != "neg":
            lines.append(f"u{len(lines) + 1} = {part}")
            part, own = f"u{len(lines)}", ALONE
        parts.append((part, own))
    lines += [f"{name} = {parts[i][0]}" for name, i in zip(formula.results, formula.outputs, strict=True)]
    return ";  ".join(lines)


def written(formula: Formula, operation: str, given: list[tuple[str, int]], operands: Sequence[int]) -> tuple[str, int]:
    """(the text of a step, how tightly it binds), from those of its operands."""
    form, own = OPERATIONS[operation].text, STRENGTH.get(operation, ALONE)
    if operation == "mul" and operands[0] == operands[1]:
        form, own = "{0}²", STRENGTH["power"]
    if operation in ("less", "less_equal") and given[0][0][:1].isdigit():  # 0 < x reads better as x > 0
        form = "{1} > {0}" if operation == "less" else "{1} ≥ {0}"
    parts = []
    for place, (part, strength) in enumerate(given):
        closed = own < ALONE and (strength < own or (strength == own and (place > 0 or own == STRENGTH["power"])))
        parts.append(f"({part})" if closed else part)
    return form.format(*parts), own
