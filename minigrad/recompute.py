"""Activation checkpointing: what a function computes on its way is forgotten, and computed again when backward needs it.

The first run is off the tape, so nothing that its ops would save is kept: only the inputs, and the keys of the random numbers
that were drawn. What it gave stands on the tape as one op, of one result or several, whose sources are the inputs and all other
tensors that need a gradient and that the function was seen to use, its parameters. Its backward runs the function again, on
the tape, with the same keys, and walks what that leaves. (T. Chen et al., "Training Deep Nets with Sublinear Memory Cost",
2016.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.derivatives import Source, walk
from minigrad.kernels.contract import Array
from minigrad.modes import Draws, DrawsAgain, Switch, state
from minigrad.ops.movement import Reshape
from minigrad.tape import Op
from minigrad.tensor import Tensor

Results = Tensor | tuple[Tensor, ...]


class Function:
    """A function with its arguments, the tensors among them apart, and the random numbers of its first run."""

    def __init__(self, f: Callable[..., Results], given: Sequence[Any], named: dict[str, Any]) -> None:
        self.f, self.given, self.named = f, given, named
        self.places = [i for i, value in enumerate(given) if isinstance(value, Tensor)]
        self.used: dict[Source, Tensor] = {}  # beside the arguments, with a gradient
        self.observer = state.observe
        self.forms: list[tuple[np.dtype, tuple[int, ...]]] = []  # of the results of the first run

    def __call__(self, tensors: Sequence[Tensor]) -> Results:
        """The result for these tensors, or the tuple of several."""
        given = list(self.given)
        for place, tensor in zip(self.places, tensors, strict=True):
            given[place] = tensor
        y = self.f(*given, **self.named)
        wrong = [type(part).__name__ for part in several(y) if not isinstance(part, Tensor)]
        if wrong or not several(y):
            what = (
                wrong[0]
                if not isinstance(y, tuple)
                else f"a tuple with a {wrong[0]} in it"
                if wrong
                else "an empty tuple"
            )
            raise TypeError(f"mg.recompute: the function must return a Tensor or a tuple of Tensors, not {what}")
        return y

    def first(self) -> Results:
        """What it gives, off the tape; what it uses and draws is noted."""
        self.draws = Draws()
        with Switch(grad_enabled=False, trace=True, observe=self.note, draws=self.draws):
            y = self([self.given[i].detach() for i in self.places])
        self.forms = [(result.dtype, result.shape) for result in several(y)]
        self.gives_tuple = isinstance(y, tuple)
        return y

    def note(self, op: Op, inputs: tuple[Tensor | None, ...], parameters: dict[str, Any]) -> None:
        """An op of the first run: of its inputs those are from outside that require a gradient."""
        for t in inputs:
            if t is not None and t.requires_grad:
                self.used.setdefault(t._op or t, t)
        if self.observer is not None:
            self.observer(op, inputs, parameters)

    def again(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results once more, on the tape."""
        with Switch(grad_enabled=True, draws=DrawsAgain(self.draws)):
            ys = several(self(tensors))
        forms = [(y.dtype, y.shape) for y in ys]
        if forms != self.forms:
            first, then = (
                ", ".join(f"{dtype}{list(shape)}" for dtype, shape in those) for those in (self.forms, forms)
            )
            raise RuntimeError(
                f"mg.recompute: the function gave {first} at first and {then} when it was run again; what it does must follow "
                "from its arguments"
            )
        return ys


class Recompute(Op):
    """What a function gives that backward runs again."""

    formula = "y = f(x, ...), and once more in backward"
    passes_on = False
    takes_none = True

    def forward(self, *arrays: Array, function: Function) -> Array | tuple[Array, ...]:
        """The results as the first run gave them; they come before the inputs."""
        self.function, self.count, self.results = function, len(function.places), len(function.forms)
        ys, inputs = arrays[: self.results], arrays[self.results :]
        self.save(*inputs)
        return ys if function.gives_tuple else ys[0]

    def backward(self, *dys: Array | None) -> tuple[Array | None, ...]:
        """A second run, on inputs that are leaves of a tape of its own."""
        xs = []
        for array, need in zip(self.saved or (), self.needs[self.results : self.results + self.count], strict=False):
            xs.append(self.on_tape(array, None, None))
            xs[-1].requires_grad = need
        starts = [None if dy is None else self.on_tape(dy, None, None) for dy in dys]
        found = self.gradients(xs, [*xs, *self.function.used.values()], starts, False)
        gradients = [None if f is None else f[0]._data if f[1] else self.device.copy(f[0]._data) for f in found]
        return (None,) * self.results + tuple(gradients)

    def backward_on_tape(self, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        """A second run, on the inputs as they stand on the tape."""
        inputs = [self.as_input(i, array) for i, array in enumerate(self.saved or (), self.results)]
        # as results of their own, to be told from the same tensors where the function knows them from elsewhere
        xs = [Reshape.apply(x, shape=x.shape) if x.requires_grad else x for x in inputs[: self.count]]
        found = self.gradients(xs, [*xs, *inputs[self.count :]], dys, True)
        return (None,) * self.results + tuple([None if f is None else f[0] for f in found])

    def gradients(
        self, xs: Sequence[Tensor], inputs: Sequence[Tensor], dys: Sequence[Tensor | None], on_tape: bool
    ) -> list[tuple[Tensor, bool] | None]:
        """The gradient of each input that needs one, and whether nobody else has it, by a second run and a walk."""
        ys = self.function.again(xs)
        sources = [t._op or t for t in inputs]
        wanted = {source for source, need in zip(sources, self.needs[self.results :], strict=True) if need}
        starts = [(y, dy) for y, dy in zip(ys, dys, strict=True) if y.requires_grad and dy is not None]
        if not starts:
            return [None] * len(sources)
        found = walk(starts, wanted, on_tape, on_tape, stop_there=True)
        return [found.get(source) if source in wanted else None for source in sources]


def several(y: Results) -> tuple[Tensor, ...]:
    """One result as a tuple, or the tuple."""
    return y if isinstance(y, tuple) else (y,)


def recompute(f: Callable[..., Results], *xs: Any, **named: Any) -> Any:
    """f(*xs, **named), of which backward keeps the inputs only: it runs f again. Less memory, for one more forward of f.

        h = mg.recompute(block, x)       # block: a module, or any function of tensors that gives a tensor or a tuple of some

    The gradients, to xs and to all parameters that f uses, have the bits that they have without: dropout and mg.random draw
    the same numbers in both runs, and running statistics are updated once. What f does must follow from its arguments; what
    else it leaves behind, it leaves behind twice. Where no gradient is needed f is just called. Raises TypeError for another
    result than a tensor or a tuple of tensors.
    """
    function = Function(f, xs, named)
    if not state.grad_enabled:
        return function([xs[i] for i in function.places])
    y = function.first()
    inputs = [xs[i] for i in function.places] + list(function.used.values())
    if not any(t.requires_grad for t in inputs):
        return y
    with Switch(observe=None):  # which would keep copies, to hold a forward against that does not compute
        return Recompute.apply(*several(y), *inputs, function=function)
