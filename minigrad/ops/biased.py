"""Forms of two factors, with a bias added to the last axis of the result."""

from typing import ClassVar

from minigrad.ops.forms import Form
from minigrad.ops.reduce import sum
from minigrad.tensor import Tensor


class Biased(Form):
    """y = f(x, w) + b, f linear in x and in w; b may be None."""

    factors: ClassVar[int] = 2

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw, _ = super().backward_on_tape(dy)
        return dx, dw, sum(dy, range(dy.ndim - 1)) if self.needs[2] else None
