"""Local response normalization (Krizhevsky, Sutskever & Hinton 2012, section 3.3) over the last axis of an array."""

import functools
from typing import SupportsIndex, TypedDict

import numpy as np

from minigrad.checks import MOST, integer
from minigrad.kernels.contract import Array
from minigrad.ops.arithmetic import add, mul, sub
from minigrad.ops.checks import float_tensor
from minigrad.ops.elementwise import power
from minigrad.ops.movement import Slice
from minigrad.ops.shape_functions import Pad
from minigrad.tape import Op
from minigrad.tensor import Tensor


class LrnArguments(TypedDict):
    """The arguments of local_response_norm but for x."""

    size: int
    alpha: float
    beta: float
    k: float


class LocalResponseNorm(Op):
    """Each channel divided by a power of the sum of squares around it."""

    formula = "s = k + α Σ x² of the neighbours;  y = x s^-β;  dx = dy s^-β - 2 α β x Σ dy x s^(-β-1) of the neighbours"
    passes_on = False

    def forward(self, x: np.ndarray, *, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
        self.constants = size, alpha, beta, k
        y = self.empty_like(x)
        if y.size:
            c = x.shape[-1]
            self.kernels.lrn.local_response_norm_forward(x.reshape(-1, c), *self.constants, y.reshape(-1, c))
        self.save(x)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        (x,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        if dx.size:
            dy, x, matrix = (a.reshape(-1, a.shape[-1]) for a in (dy, x, dx))
            self.kernels.lrn.local_response_norm_backward(dy, x, *self.constants, matrix)
        return (dx,)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x = self.as_input(0, self.saved[0])  # type: ignore[index]
        size, alpha, beta, k = self.constants
        before, after = [min(n, x.shape[-1]) for n in (size // 2, (size - 1) // 2)]
        s = add(mul(neighbours(mul(x, x), before, after), alpha), k)
        shares = neighbours(mul(mul(dy, x), power(s, -beta - 1)), after, before)
        return (sub(mul(dy, power(s, -beta)), mul(mul(x, shares), 2 * alpha * beta)),)


def neighbours(x: Tensor, before: int, after: int) -> Tensor:
    """The sum over so many channels before each, itself, and after it."""
    c = x.shape[-1]
    wide = Pad.apply(x, widths=(*[(0, 0)] * (x.ndim - 1), (before, after)), value=0.0)
    parts = [Slice.apply(wide, index=(..., slice(i, i + c))) for i in range(before + after + 1)]
    return functools.reduce(add, parts)


def local_response_norm(x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Tensor:
    """x / (k + alpha * sum of squares over `size` neighbouring channels) ** beta; channels are the last axis.

    The channels around j are j - size // 2 to j + (size - 1) // 2, as far as they exist. Method and defaults: Krizhevsky,
    Sutskever & Hinton 2012, section 3.3. PyTorch's function of this name divides alpha by `size`: it gives the same
    with alpha * size in place of alpha. Raises ValueError for size < 1 or >= 2^31, k <= 0, and negative or infinite
    alpha or beta.
    """
    if float_tensor("local_response_norm", x).ndim < 2:
        raise ValueError(
            f"local_response_norm: x needs a batch axis and channels on the last axis, not shape {x.shape}"
        )
    return LocalResponseNorm.apply(x, **constants(size, alpha, beta, k))


def constants(size: SupportsIndex, alpha: float, beta: float, k: float) -> LrnArguments:
    """The arguments of local_response_norm by name, checked."""
    size = integer("local_response_norm: size", size)
    if size > MOST:
        raise ValueError(f"local_response_norm: size must be at most {MOST}, not {size}")
    alpha, beta, k = float(alpha), float(beta), float(k)
    if not (0 <= alpha < np.inf and 0 <= beta < np.inf and 0 < k < np.inf):
        raise ValueError(
            f"local_response_norm: alpha and beta must be at least 0 and k above 0, all finite, not {alpha}, {beta} and {k}"
        )
    return {"size": size, "alpha": alpha, "beta": beta, "k": k}
