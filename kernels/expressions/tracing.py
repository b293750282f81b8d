"""From Python functions to formulas."""

import inspect
from collections.abc import Callable
from typing import Any

from minigrad.kernels.expressions.formula import Formula
from minigrad.kernels.expressions.symbols import Draft, Scalar, as_kind

MOST_INPUTS = 8


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
    draft = Draft(*parameters(function))
    results = function(*draft.inputs)
    several = isinstance(results, tuple)
    outputs = [draft.value(r) for r in (results if several else (results,))]
    if not any(isinstance(r, Scalar) for r in (results if several else (results,))):
        raise TypeError(f"a formula must be made of its arguments, and this one gives {results!r} whatever they are")
    return draft.formula(outputs)


def trace_partials(function: Callable[..., Any], formula: Formula) -> Formula:
    """The derivatives of a formula to each of its inputs, of which a function of the same arguments gives all."""
    draft = Draft(formula.names, formula.kinds)
    count = len(formula.kinds)
    if len(parameters(function)[0]) != count:
        raise TypeError(
            f"the derivative takes other arguments than the formula, which takes {', '.join(formula.names)}"
        )
    results = function(*draft.inputs)
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != count:
        raise TypeError(
            f"the derivative must be {count} results, one for each of {', '.join(formula.names)}, not {len(results)}"
        )
    return draft.formula([as_kind(draft.value(0.0 if r is None else r), "float") for r in results])


def narrowed(formula: Formula) -> tuple[Formula, tuple[int, ...]]:
    """The same formula without inputs that it does not read, and the numbers of those that it keeps."""
    read = {i for operation, operands in formula.steps if operation != "constant" for i in operands} | {
        *formula.outputs
    }
    kept = tuple([i for i in range(len(formula.kinds)) if i in read])
    draft = Draft([formula.names[i] for i in kept], [formula.kinds[i] for i in kept])
    places = iter(draft.inputs)
    given = [next(places) if i in kept else 0.0 for i in range(len(formula.kinds))]
    given = [
        g if k == "float" or isinstance(g, Scalar) else draft.value(0.0) != 0
        for g, k in zip(given, formula.kinds, strict=True)
    ]
    return draft.formula(draft.inlined(formula, given), formula.results), kept
