"""Ops that are linear in their inputs: their gradients, and the gradients of these, are the same few maps.

Of y = f(a, b), linear in a and in b, consider the number z̄ = Σ ȳ f(a, b), which is linear in a, b and ȳ. Its derivative to
ȳ is y, that to a is the gradient ā, that to b is the gradient b̄: three faces of one form. What is the derivative of ā, which
is a function of b and ȳ? Weighted by some A in a's place it is that of Σ A ā = Σ ȳ f(A, b): the form again, with A for a, whose
derivatives to b and to ȳ are the other two faces. So a convolution, its gradient to the image and its gradient to the weight
give one another's gradients, and derivatives of any order need no kernel beyond theirs. Where f is linear in one input only,
there are two faces: f, and its transpose.
"""

import copy
from typing import Any, ClassVar

from minigrad.kernels.contract import Array
from minigrad.tape import Op
from minigrad.tensor import Tensor


class Form(Op):
    """An op that is linear in each of its first inputs, whose `saved` are these, or whatever it keeps if it is one."""

    factors: ClassVar[int] = 1  # how many

    def again(self, *factors: Any, **parameters: Any) -> Array:
        """What this use of the op, without a bias, makes of other arrays of the same shapes: a new array, in its order."""
        raise NotImplementedError(f"{type(self).__name__} has no again")

    def keep(self, *factors: Array | None) -> None:
        """Save these arrays, of which the one whose gradient is wanted is None, for `backward`."""
        self.saved = factors

    def as_factor(self, i: int) -> Tensor:
        """Input i, which was saved."""
        return self.as_input(i, self.saved[i])  # type: ignore[index]

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        form = alone(self)
        gradients: list[Tensor | None] = [None] * len(self.needs)
        for i in range(self.factors):
            if self.needs[i]:
                others = [self.as_factor(j) for j in range(self.factors) if j != i]
                gradients[i] = Face.apply(*others, dy, form=form, to=i)
        return tuple(gradients)


class Face(Op):
    """The derivative of a form to one of its factors, or to ȳ, which comes last: a function of the others."""

    formula = "of z̄ = Σ ȳ f(a, b), linear in a, b and ȳ, one derivative;  its gradients are the others"
    passes_on = False

    def forward(self, *others: Array, form: Form, to: int) -> Array:
        self.form, self.to = form, to
        self.places = [i for i in range(form.factors + 1) if i != to]
        if form.factors > 1:
            self.save(others[0] if self.needs[1] else None, others[1] if self.needs[0] else None)
        return self.face(dict(zip(self.places, others, strict=True)), to)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        arrays = dict(zip(self.places, self.saved or (), strict=False)) | {self.to: dy}
        return tuple([self.face(arrays, i) if need else None for i, need in zip(self.places, self.needs, strict=True)])

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        tensors = {self.to: dy}
        for n, array in enumerate(self.saved or ()):
            if array is not None:
                tensors[self.places[n]] = self.as_input(n, array)
        gradients: list[Tensor | None] = []
        for i, need in zip(self.places, self.needs, strict=True):
            others = [tensors[j] for j in range(self.form.factors + 1) if j != i] if need else []
            gradients.append(Face.apply(*others, form=self.form, to=i) if need else None)
        return tuple(gradients)

    def face(self, arrays: dict[int, Array], to: int) -> Array:
        """The derivative to one place, of arrays at the others."""
        form, result = alone(self.form), self.form.factors
        form.device, form.kernels = self.device, self.kernels
        if to == result:
            return form.again(*[arrays[i] for i in range(result)]).reshape(form.shape)
        form.needs = tuple([i == to for i in range(len(form.needs))])
        if result > 1:
            form.keep(*[None if i == to else arrays[i] for i in range(result)])
        gradient: Any = form.backward(arrays[result])[to]
        return gradient

    def check_saved(self) -> None:
        super().check_saved()
        self.form.check_saved()

    def _title(self) -> str:
        return f"{type(self.form).__name__} " + ("again" if self.to == self.form.factors else f"gradient {self.to}")


def alone(form: Form) -> Form:
    """An op without its place on the tape, and of several factors without these, which come as inputs."""
    form = copy.copy(form)
    form.sources, form.hooks, form.retained, form.recorded, form.total = (), None, None, None, None
    if form.factors > 1:
        form.saved, form.versions = (), ()
    return form
