"""Normalization of each sample by itself: over its last axes, by its root mean square, over groups of features."""

import math

import numpy as np

from minigrad.checks import integer, number
from minigrad.kernels.contract import Array
from minigrad.ops.arithmetic import add, mul
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.movement import transpose
from minigrad.ops.norm_gradients import affine_gradients, input_gradient, normalized, scaled
from minigrad.tape import Op
from minigrad.tensor import FLOATS, Tensor


class RowNorm(Op):
    """Normalization over the last axes, and what gamma and beta make of it."""

    passes_on = False
    centered: bool

    def forward(self, x: Array, gamma: Array | None, beta: Array | None, *, axes: int, eps: float) -> Array:
        n = math.prod(x.shape[x.ndim - axes :])
        m = x.size // n if n else 0
        y, self.mean, self.scale = self.empty_like(x), self.empty((m,), FLOATS[1]), self.empty((m,), FLOATS[1])
        self.matrix, self.axes, self.eps = (m, n), axes, eps
        scale, shift = gamma, beta
        if gamma is None and beta is None:
            scale = shift = self.device.shared_constant(1.0, (0,), x.dtype)
        elif gamma is None:
            scale = self.device.shared_constant(1.0, (n,), x.dtype)
        elif beta is None:
            shift = self.device.shared_constant(0.0, (n,), x.dtype)
        scale, shift = scale.reshape(-1), shift.reshape(-1)  # type: ignore[union-attr]  # both are there now
        if y.size:
            self.kernels.layer_norm.layer_norm_forward(
                x.reshape(m, n), scale, shift, eps, self.centered, y.reshape(m, n), self.mean, self.scale
            )
        self.parameters = None if gamma is None else gamma.shape, None if beta is None else beta.shape
        self.save(x, scale)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        x, scale = self.saved  # type: ignore[misc]
        m, n = self.matrix
        dx, dgamma, dbeta = self.empty_like(x), self.empty_like(scale), self.empty_like(scale)
        if dx.size:
            self.kernels.layer_norm.layer_norm_backward(
                dy.reshape(m, n), x.reshape(m, n), scale, self.mean, self.scale, self.centered,
                dx.reshape(m, n), dgamma, dbeta,
            )  # fmt: skip
        elif scale.size:
            for empty in (dgamma, dbeta):
                self.kernels.movement.fill(0.0, empty)
        gamma, beta = self.parameters
        return dx, None if gamma is None else dgamma.reshape(gamma), None if beta is None else dbeta.reshape(beta)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = self.saved  # type: ignore[misc]
        shape = self.parameters[0]
        gamma = None if shape is None else self.as_input(1, scale.reshape(shape))
        own = tuple(range(dy.ndim - self.axes, dy.ndim))
        unit, root = normalized(self.as_input(0, x), own, self.eps, self.centered)
        dx = input_gradient(scaled(dy, gamma), unit, root, own, self.centered) if self.needs[0] else None
        return dx, *affine_gradients(dy, unit, tuple(range(dy.ndim - self.axes)), self.needs)


class LayerNorm(RowNorm):
    """By the mean and the variance of the sample."""

    formula = (
        "x̂ = (x - μ) / √(σ² + ε) over the last axes;  y = γ x̂ + β;  dβ = Σ dy;  dγ = Σ dy x̂;  "
        "dx = (γ dy - mean(γ dy) - x̂ mean(γ dy x̂)) / √(σ² + ε)"
    )
    centered = True


class RMSNorm(RowNorm):
    """By the root mean square of the sample."""

    formula = (
        "x̂ = x / √(mean(x²) + ε) over the last axes;  y = γ x̂;  dγ = Σ dy x̂;  "
        "dx = (γ dy - x̂ mean(γ dy x̂)) / √(mean(x²) + ε)"
    )
    centered = False


def layer_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, axes: int | None = None, eps: float = 1e-5
) -> Tensor:
    """gamma (x - mean) / sqrt(variance + eps) + beta, over the last axes of each sample (Ba, Kiros & Hinton 2016).

    gamma and beta have the shape of the axes that are normalized over, by default the last one; either may be None. `axes` is
    how many there are, where neither says. x of any rank; same shape out. Raises ValueError for shapes that do not match and
    for axes without elements, TypeError for dtypes that differ.
    """
    count = checked_axes("layer_norm", x, axes, gamma=gamma, beta=beta)
    return LayerNorm.apply(x, gamma, beta, axes=count, eps=number("eps", eps, math.inf))


def rms_norm(x: Tensor, gamma: Tensor | None = None, *, axes: int | None = None, eps: float | None = None) -> Tensor:
    """gamma x / sqrt(mean of squares + eps), over the last axes of each sample (Zhang & Sennrich 2019).

    As `layer_norm` without mean and beta. By default eps is, as in PyTorch, the distance from 1 to the next number.
    """
    count = checked_axes("rms_norm", x, axes, gamma=gamma)
    least = float(np.finfo(x.dtype).eps) if eps is None else number("eps", eps, math.inf)
    return RMSNorm.apply(x, gamma, None, axes=count, eps=least)


def group_norm(
    x: Tensor, groups: int, gamma: Tensor | None = None, beta: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Each sample's features in so many groups, normalized over group and places, then gamma y + beta (Wu & He 2018).

    x (N, ..., features), images (N, H, W, C) for one; gamma and beta (features,) or None. Raises ValueError for shapes that do
    not match and for features that the groups do not divide, TypeError for dtypes that differ.
    """
    groups = integer("groups", groups)
    if float_tensor("group_norm", x).ndim < 2:
        raise ValueError(f"group_norm needs x (N, ..., features), not shape {x.shape}")
    samples, *places, features = x.shape
    if features % groups:
        raise ValueError(f"group_norm: {features} features cannot be divided into {groups} groups")
    check_parameters("group_norm", x, (features,), gamma=gamma, beta=beta)
    if not x.size:
        raise ValueError(f"group_norm: there is nothing to normalize in shape {x.shape}")
    apart = x.reshape(samples, math.prod(places), groups, features // groups)
    rows = layer_norm(transpose(apart, (0, 2, 1, 3)), axes=2, eps=number("eps", eps, math.inf))
    y = transpose(rows, (0, 2, 1, 3)).reshape(x.shape)
    y = y if gamma is None else mul(y, gamma)
    return y if beta is None else add(y, beta)


def checked_axes(name: str, x: Tensor, axes: int | None, **parameters: Tensor | None) -> int:
    """How many of the last axes to normalize over; ValueError unless gamma and beta fit them."""
    float_tensor(name, x)
    given = next((p for p in parameters.values() if isinstance(p, Tensor)), None)
    count = integer("axes", axes) if axes is not None else 1 if given is None else given.ndim
    if not 1 <= count <= x.ndim:
        raise ValueError(f"{name}: there are no {count} last axes in shape {x.shape}")
    shape = x.shape[x.ndim - count :]
    check_parameters(name, x, shape, **parameters)
    if not math.prod(shape):
        raise ValueError(f"{name}: axes without elements cannot be normalized over (shape {x.shape})")
    return count


def check_parameters(name: str, x: Tensor, shape: tuple[int, ...], **parameters: Tensor | None) -> None:
    """Raise unless gamma and beta are tensors of this shape and of x's dtype."""
    for which, p in parameters.items():
        if p is None:
            continue
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: {which} must be a Tensor or None, not {type(p).__name__}")
        if p.shape != shape:
            raise ValueError(f"{name}: {which} must have shape {shape}, that of what is normalized, not {p.shape}")
        if p.dtype != x.dtype:
            refuse_dtypes(name, x=x, **{which: p})
