"""Activation checkpointing: what a function computes on its way is forgotten, and computed again when backward needs it.

The first run is off the tape, so nothing that its ops would save is kept: only the inputs, and the keys of the random numbers
that were drawn. The result stands on the tape as one op, whose sources are the inputs and all other tensors that need a
gradient and that the function was seen to use, its parameters. Its backward runs the function again, on the tape, with the same
keys, and walks what that leaves. (T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.)
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


class Function:
    """A function with its arguments, the tensors among them apart, and the random numbers of its first run."""

    def __init__(self, f: Callable[..., Tensor], given: Sequence[Any], named: dict[str, Any]) -> None:
        self.f, self.given, self.named = f, given, named
        self.places = [i for i, value in enumerate(given) if isinstance(value, Tensor)]
        self.used: dict[Source, Tensor] = {}  # beside the arguments, with a gradient
        self.observer = state.observe

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The result for these tensors."""
        given = list(self.given)
        for place, tensor in zip(self.places, tensors, strict=True):
            given[place] = tensor
        y = self.f(*given, **self.named)
        if not isinstance(y, Tensor):
            raise TypeError(
                f"mg.recompute: the function must return one Tensor, not {type(y).__name__}; of several make one by mg.concat, "
                "or recompute each by itself"
            )
        return y

    def first(self) -> Tensor:
        """The result, off the tape; what it uses and draws is noted."""
        self.draws = Draws()
        with Switch(grad_enabled=False, trace=True, observe=self.note, draws=self.draws):
            return self([self.given[i].detach() for i in self.places])

    def note(self, op: Op, inputs: tuple[Tensor | None, ...], parameters: dict[str, Any]) -> None:
        """An op of the first run: of its inputs those are from outside that require a gradient."""
        for t in inputs:
            if t is not None and t.requires_grad:
                self.used.setdefault(t._op or t, t)
        if self.observer is not None:
            self.observer(op, inputs, parameters)

    def again(self, tensors: Sequence[Tensor], shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """The result once more, on the tape."""
        with Switch(grad_enabled=True, draws=DrawsAgain(self.draws)):
            y = self(tensors)
        if y.shape != shape or y.dtype != dtype:
            raise RuntimeError(
                f"mg.recompute: the function gave {dtype}{list(shape)} at first and {y.dtype}{list(y.shape)} when it was run "
                "again; what it does must follow from its arguments"
            )
        return y


class Recompute(Op):
    """The result of a function that backward runs again."""

    formula = "y = f(x, ...), and once more in backward"
    passes_on = False

    def forward(self, y: Array, *inputs: Array, function: Function) -> Array:
        """The result as the first run gave it."""
        self.function, self.count = function, len(function.places)
        self.save(*inputs)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        """A second run, on inputs that are leaves of a tape of its own."""
        xs = []
        for array, need in zip(self.saved or (), self.needs[1 : self.count + 1], strict=False):
            xs.append(self.on_tape(array, None, None))
            xs[-1].requires_grad = need
        start = self.on_tape(dy, None, None)
        found = self.gradients(xs, [*xs, *self.function.used.values()], start, False)
        return None, *[None if f is None else f[0]._data if f[1] else self.device.copy(f[0]._data) for f in found]

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        """A second run, on the inputs as they stand on the tape."""
        inputs = [self.as_input(i, array) for i, array in enumerate(self.saved or (), 1)]
        # as results of their own, to be told from the same tensors where the function knows them from elsewhere
        xs = [Reshape.apply(x, shape=x.shape) if x.requires_grad else x for x in inputs[: self.count]]
        found = self.gradients(xs, [*xs, *inputs[self.count :]], dy, True)
        return None, *[None if f is None else f[0] for f in found]

    def gradients(
        self, xs: Sequence[Tensor], inputs: Sequence[Tensor], dy: Tensor, on_tape: bool
    ) -> list[tuple[Tensor, bool] | None]:
        """The gradient of each input that needs one, and whether nobody else has it, by a second run and a walk."""
        y = self.function.again(xs, self.shape, self.dtype)
        sources = [t._op or t for t in inputs]
        wanted = {source for source, need in zip(sources, self.needs[1:], strict=True) if need}
        if not y.requires_grad:
            return [None] * len(sources)
        found = walk([(y, dy)], wanted, on_tape, on_tape, stop_there=True)
        return [found.get(source) if source in wanted else None for source in sources]


def recompute(f: Callable[..., Tensor], *xs: Any, **named: Any) -> Tensor:
    """f(*xs, **named), of which backward keeps the inputs only: it runs f again. Less memory, for one more forward of f.

        h = mg.recompute(block, x)       # block: a module, or any function of tensors with one tensor as its result

    The gradients, to xs and to all parameters that f uses, have the bits that they have without: dropout and mg.random draw
    the same numbers in both runs, and running statistics are updated once. What f does must follow from its arguments; what
    else it leaves behind, it leaves behind twice. Where no gradient is needed f is just called. Raises TypeError for another
    result than one tensor.
    """
    function = Function(f, xs, named)
    if not state.grad_enabled:
        return function([xs[i] for i in function.places])
    y = function.first()
    inputs = [xs[i] for i in function.places] + list(function.used.values())
    if not any(t.requires_grad for t in inputs):
        return y
    with Switch(observe=None):  # which would keep copies, to hold a forward against that does not compute
        return Recompute.apply(y, *inputs, function=function)
