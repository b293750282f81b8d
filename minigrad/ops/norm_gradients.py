"""Gradients of normalization as ops on tensors, which can be derived again; those of kernels are in minigrad.ops.norm."""

from collections.abc import Sequence

from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.axes import Shape
from minigrad.ops.arithmetic import add, mul, sub
from minigrad.ops.elementwise import ReLU, Sigmoid, power
from minigrad.ops.reduce import mean, sum
from minigrad.tensor import Tensor


def normalized(x: Tensor, axes: Shape, eps: float, centered: bool = True) -> tuple[Tensor, Tensor]:
    """(x with mean 0 and variance 1 over the axes, 1 / standard deviation); not centered, by the root mean square."""
    if centered:
        x = sub(x, mean(x, axes, True))
        x = sub(x, mean(x, axes, True))  # what the first mean lost by rounding, where it is large beside the deviation
    root = power(add(mean(mul(x, x), axes, True), eps), -0.5)
    return mul(x, root), root


def input_gradient(dunit: Tensor, unit: Tensor, root: Tensor, axes: Shape, centered: bool = True) -> Tensor:
    """The gradient of what was normalized from that of the result."""
    along = mul(unit, mean(mul(dunit, unit), axes, True))
    if centered:
        dunit = sub(dunit, mean(dunit, axes, True))
    return mul(root, sub(dunit, along))


def affine_gradients(dz: Tensor, unit: Tensor, axes: Shape, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """(dgamma, dbeta), those of inputs 1 and 2 that need one."""
    return sum(mul(dz, unit), axes) if needs[1] else None, sum(dz, axes) if needs[2] else None


def scaled(unit: Tensor, gamma: Tensor | None) -> Tensor:
    """unit gamma, if there is a gamma."""
    return unit if gamma is None else mul(unit, gamma)


def activation_gradient(
    dy: Tensor, unit: Tensor, gamma: Tensor | None, beta: Tensor | None, y: Tensor | None, activation: int
) -> Tensor:
    """The gradient of what an activation was applied to, gamma unit + beta; of a sigmoid's from its result y."""
    if activation == SIGMOID and y is not None:
        return Sigmoid.slope.op.apply(dy, y)
    if activation != RELU:
        return dy
    if y is None:
        y = scaled(unit, gamma).detach()
        y = y if beta is None else add(y, beta.detach())
    return ReLU.slope.op.apply(dy, y.detach())
