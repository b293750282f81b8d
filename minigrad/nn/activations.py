"""Activations of a formula (minigrad.ops.table) as layers."""

from minigrad import ops
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class GELU(Module):
    """x Φ(x), Φ the normal distribution function; with approximate="tanh" by a formula of tanh. ValueError for another."""

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f'GELU: approximate is "none" or "tanh", not {approximate!r}')
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """x Φ(x)."""
        return ops.gelu(x, self.approximate)


class SiLU(Module):
    """x sigmoid(x), also called swish."""

    def forward(self, x: Tensor) -> Tensor:
        """x sigmoid(x)."""
        return ops.silu(x)


class LeakyReLU(Module):
    """x above 0, else negative_slope x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """x above 0, else negative_slope x."""
        return ops.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x above 0, else alpha (e^x - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """x above 0, else alpha (e^x - 1)."""
        return ops.elu(x, self.alpha)


class Softplus(Module):
    """log(1 + e^x), without overflow."""

    def forward(self, x: Tensor) -> Tensor:
        """log(1 + e^x)."""
        return ops.softplus(x)
