"""The layer of local response normalization."""

from minigrad import ops
from minigrad.nn.module import Module
from minigrad.ops.lrn import constants
from minigrad.tensor import Tensor


class LocalResponseNorm(Module):
    """x / (k + alpha * sum of squares over `size` neighbouring channels) ** beta; see `mg.local_response_norm`."""

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        self.constants = constants(size, alpha, beta, k)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized."""
        return ops.local_response_norm(x, **self.constants)

    def settings(self) -> str:
        """The four constants."""
        return ", ".join(f"{name}={value}" for name, value in self.constants.items())
