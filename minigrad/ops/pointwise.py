"""Ops made of a scalar formula: a Python function of single numbers becomes one kernel on every device, with its gradient."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from minigrad.arrays import held_number, is_number
from minigrad.kernels import expressions
from minigrad.kernels.axes import broadcast_layouts
from minigrad.kernels.contract import Array
from minigrad.kernels.expressions import Formula, Scalar
from minigrad.modes import refuse_constant
from minigrad.ops.checks import float_tensor
from minigrad.ops.launches import unbroadcast
from minigrad.ops.reduce import summed_to
from minigrad.tape import Op
from minigrad.tensor import Tensor

BOOL = np.dtype(np.bool_)
NOT_GIVEN = inspect.Parameter.empty


class Pointwise(Op):
    """outputs = formula(inputs), element by element. Of each formula there is a class, so that it is shown by its name."""

    passes_on = False
    traced: ClassVar[Formula]
    partials: ClassVar[Formula | None]

    def forward(self, *arrays: Array) -> Array:
        self.shapes = [x.shape for x in arrays]
        formula = self.traced
        data = next((x for x, kind in zip(arrays, formula.kinds, strict=True) if kind == "float"), arrays[0])
        y = evaluated(self, formula, arrays, [BOOL if formula.kind(formula.outputs[0]) == "bool" else data.dtype])
        if True in self.needs:
            self.save(*[x if i + 1 in self.gradient()[1] else None for i, x in enumerate(arrays)])
        return y[0]

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        formula, used = self.gradient()
        given = (dy, *self.saved)  # type: ignore[misc]
        gradients = iter(
            evaluated(self, formula, [given[i] for i in used], [dy.dtype] * len(formula.outputs), dy.shape)
        )
        return tuple(
            [unbroadcast(self, next(gradients), s) if n else None for n, s in zip(self.needs, self.shapes, strict=True)]
        )

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = [None] * len(self.needs)
        for i, shape in enumerate(self.shapes):
            op, used = gradient_op(self.traced, self.partials, i)
            if self.needs[i] and used:  # if not, it is 0
                given = [self.as_input(n - 1, self.saved[n - 1]) if n else dy for n in used]  # type: ignore[index]
                gradients[i] = summed_to(op.apply(*given), shape)
        return tuple(gradients)

    def gradient(self) -> tuple[Formula, tuple[int, ...]]:
        """The formula of the gradients that are needed, and which of (dy, inputs) it takes."""
        return gradient_of(self.traced, self.partials, self.needs)


@functools.lru_cache(maxsize=4096)
def gradient_of(formula: Formula, partials: Formula | None, needs: tuple[bool, ...]) -> tuple[Formula, tuple[int, ...]]:
    """A formula's gradient to the inputs that need one, without the inputs that it does not read: (it, which it reads)."""
    wanted = tuple([i for i, needed in enumerate(needs) if needed])
    return expressions.narrowed(expressions.gradient(formula, wanted, partials))


@functools.lru_cache(maxsize=4096)
def gradient_op(formula: Formula, partials: Formula | None, i: int) -> tuple[type[Op], tuple[int, ...]]:
    """The gradient to one input as an op, whose gradient is derived in its turn; and which of (dy, inputs) it takes."""
    traced, used = gradient_of(formula, partials, tuple([n == i for n in range(len(formula.kinds))]))
    members = {"traced": traced, "partials": None, "formula": expressions.text(traced), "__module__": __name__}
    return type("Gradient", (Pointwise,), members), used


def evaluated(
    op: Op, formula: Formula, arrays: Sequence[Array], dtypes: Sequence[np.dtype], shape: tuple[int, ...] | None = None
) -> list[Array]:
    """New arrays: the outputs of a formula of arrays, broadcast; to `shape`, which they have together, if it is given."""
    together, merged, strides = broadcast_layouts(*[x.shape for x in arrays], *([] if shape is None else [shape]))
    results = [op.empty(together, dtype) for dtype in dtypes]
    if results[0].size:
        flat = [x.reshape(-1) for x in arrays]
        op.kernels.pointwise.evaluate(formula, flat, [y.reshape(-1) for y in results], merged, strides[: len(arrays)])
    return results


class Elementwise:
    """An op of a formula: called with tensors and numbers, which broadcast; in another formula, with its symbols.

    Made by `mg.elementwise`. `formula` is what was traced, as `mg.inspect` shows it.
    """

    def __init__(
        self,
        name: str,
        traced: Formula,
        partials: Formula | None = None,
        defaults: tuple[Any, ...] = (),
        of_any_dtype: bool = False,
        doc: str | None = None,
        in_formulas: bool = True,
    ) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = doc
        self.made_of = name, traced, partials, defaults, of_any_dtype, doc, in_formulas
        self.in_formulas = in_formulas
        self.traced, self.partials, self.of_any_dtype = traced, partials, of_any_dtype
        without = len(traced.names) - len(defaults)
        self.defaults = dict(zip(traced.names[without:], defaults, strict=True))
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=self.defaults.get(n, NOT_GIVEN))
                for n in traced.names
            ]
        )
        self.is_condition = traced.kind(traced.outputs[0]) == "bool"
        title = "".join([part.capitalize() for part in name.split("_")])
        members = {"traced": traced, "partials": partials, "formula": Shown(self), "__doc__": doc}
        self.op: type[Op] = type(title, (Pointwise,), {**members, "__module__": __name__})

    @functools.cached_property
    def formula(self) -> str:
        """What was traced, and its gradient, for readers."""
        if self.is_condition:
            return expressions.text(self.traced)
        wanted = tuple([i for i, kind in enumerate(self.traced.kinds) if kind == "float"])
        # not by the cache, in which formulas of the same steps, but other names, are one
        backward = expressions.gradient.__wrapped__(self.traced, wanted, self.partials)
        return f"{expressions.text(self.traced)};  {expressions.text(backward)}"

    def __call__(self, *given: Any, **named: Any) -> Any:
        if named or len(given) != len(self.traced.names):
            given = self.bound(given, named)
        for value in given:
            if isinstance(value, Scalar):
                if not self.in_formulas:
                    raise TypeError(
                        f"{self.__name__} has a derivative of its own, df, which a formula that uses it would not know; "
                        "compose the two as ops, outside of a formula, or write its formula out there"
                    )
                return value.draft.inlined(self.traced, given)[0]
        return self.op.apply(*self.operands(given))

    def bound(self, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in their order."""
        names = self.traced.names
        placed = dict(zip(names, given, strict=False))
        values = {**self.defaults, **placed, **named}
        if len(given) > len(names) or set(placed) & set(named) or set(values) != set(names):
            by_name = f" and {', '.join(named)} by name" if named else ""
            raise TypeError(f"{self.__name__} takes {', '.join(names)}; it was given {len(given)} by position{by_name}")
        return tuple([values[n] for n in names])

    def operands(self, given: tuple[Any, ...]) -> list[Tensor]:
        """All inputs as tensors: conditions of bool, the others of one float dtype, which numbers take on."""
        name, kinds = self.__name__, self.traced.kinds
        like = next((x for x in given if isinstance(x, Tensor)), None)
        if like is None:
            raise TypeError(f"{name} needs a Tensor, not {type(given[0]).__name__}; make one with mg.tensor(...)")
        data = next((x for x, k in zip(given, kinds, strict=True) if k == "float" and isinstance(x, Tensor)), None)
        if data is not None and not self.of_any_dtype:
            float_tensor(name, data)
        dtype = np.dtype(np.float32) if data is None else data.dtype
        results = []
        for parameter, kind, x in zip(self.traced.names, kinds, given, strict=True):
            wanted = BOOL if kind == "bool" else dtype
            if is_number(x):
                x = Tensor._wrap(like._device.from_host(held_number(f"{name}: {parameter}", x, wanted)), like._device)
            elif isinstance(x, np.ndarray):
                refuse_constant(x.shape)
                x = Tensor(x, device=like._device)
            elif not isinstance(x, Tensor):
                came = type(x).__name__
                raise TypeError(f"{name}: {parameter} is of type {came}; pass a Tensor, a NumPy array or a number")
            if x._data.dtype != wanted:
                if kind == "bool":
                    raise TypeError(f"{name}: {parameter} must be a bool tensor, as x > 0 gives it, not {x.dtype}")
                raise TypeError(f"{name}: dtypes differ, {dtype} and {x.dtype}; convert one side with .to(...)")
            results.append(x.detach() if self.is_condition else x)
        return results

    def __reduce__(self) -> Any:
        return Elementwise, self.made_of

    def __repr__(self) -> str:
        return f"<elementwise {self.__name__}: {self.formula}>"


class Shown:
    """The attribute `formula` of a class of ops, written when it is first looked at."""

    def __init__(self, made: Elementwise) -> None:
        self.made = made

    def __get__(self, op: Op | None, kind: type) -> str:
        return self.made.formula


def elementwise(
    f: Callable[..., Any] | None = None, df: Callable[..., Any] | None = None, *, name: str | None = None
) -> Any:
    """The op of a scalar formula: one kernel on every device, with its gradient, usable in captured steps.

        swish = mg.elementwise(lambda x, beta: x * mg.sigmoid(beta * x))
        y = swish(x, 1.5)

    `f` takes one to eight single numbers and is called once, with symbols. It may use arithmetic, comparisons, `&`, `|`, `~`,
    `mg.where`, `mg.minimum`, `mg.exp` and what else mg or NumPy has of single numbers; an argument annotated as `bool` is a
    condition. The op takes tensors of one float dtype, which broadcast, and numbers; arguments with a default may be left out.
    The gradient is derived from what was traced, or computed by `df`, which takes the same arguments and gives the
    derivative, of several arguments a tuple (None for one that has none); other formulas cannot use such an op. As a decorator
    it stands alone or takes df and name.
    Raises TypeError for what cannot be traced, as `if` and functions of `math` cannot.
    """
    if f is None:
        return functools.partial(elementwise, df=df, name=name)
    return made(f, df, name, in_formulas=df is None)


def made(
    f: Callable[..., Any],
    df: Callable[..., Any] | None = None,
    name: str | None = None,
    of_any_dtype: bool = False,
    in_formulas: bool = True,
) -> Elementwise:
    """The op of a formula; `of_any_dtype` if it only chooses among its inputs.

    `in_formulas`: whether others may use it, which derive their derivatives from its formula and know nothing of `df`.
    """
    name = name or (f.__name__ if hasattr(f, "__name__") else "<")
    name = "elementwise" if name.startswith("<") else name
    traced = expressions.trace(f)
    if len(traced.outputs) != 1:
        raise TypeError(f"{name} gives {len(traced.outputs)} results, where an op has one")
    partials = None if df is None else expressions.trace_partials(df, traced)
    defaults = [p.default for p in inspect.signature(f).parameters.values() if p.default is not NOT_GIVEN]
    return Elementwise(name, traced, partials, tuple(defaults), of_any_dtype, inspect.getdoc(f), in_formulas)
