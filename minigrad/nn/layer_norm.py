"""Layers that normalize each sample by itself, and the embedding: parameters; the math is in minigrad.ops."""

import math

from minigrad import ops
from minigrad.checks import integer, number
from minigrad.nn import init
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor


class LayerNorm(Module):
    """Normalization of each sample over its last axes (Ba, Kiros & Hinton 2016): `features`, or the shape of several axes.

    Parameters `gamma` (ones) and `beta` (zeros) of that shape, unless turned off.
    """

    def __init__(
        self, features: int | tuple[int, ...], *, eps: float = 1e-5, gamma: bool = True, beta: bool = True
    ) -> None:
        self.shape = shape_of(features)
        self.eps = number("eps", eps, math.inf)
        self.gamma = Parameter(init.ones(self.shape)) if gamma else None
        self.beta = Parameter(init.zeros(self.shape)) if beta else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized, scaled and shifted; same shape."""
        return ops.layer_norm(x, self.gamma, self.beta, axes=len(self.shape), eps=self.eps)

    def settings(self) -> str:
        """The shape and what differs from the defaults."""
        off = [f"{name}=False" for name in ("gamma", "beta") if getattr(self, name) is None]
        return ", ".join([shown(self.shape), f"eps={self.eps}", *off])


class RMSNorm(Module):
    """Division of each sample by its root mean square over the last axes (Zhang & Sennrich 2019).

    Parameter `gamma` (ones), unless turned off. eps None is the distance from 1 to the next number of the dtype.
    """

    def __init__(self, features: int | tuple[int, ...], *, eps: float | None = None, gamma: bool = True) -> None:
        self.shape = shape_of(features)
        self.eps = None if eps is None else number("eps", eps, math.inf)
        self.gamma = Parameter(init.ones(self.shape)) if gamma else None

    def forward(self, x: Tensor) -> Tensor:
        """Divided and scaled; same shape."""
        return ops.rms_norm(x, self.gamma, axes=len(self.shape), eps=self.eps)

    def settings(self) -> str:
        """The shape and what differs from the defaults."""
        off = [] if self.gamma is not None else ["gamma=False"]
        return ", ".join([shown(self.shape), *([] if self.eps is None else [f"eps={self.eps}"]), *off])


class GroupNorm(Module):
    """Normalization of each sample's features in so many groups, over the group and all places (Wu & He 2018).

    Parameters `gamma` (ones) and `beta` (zeros) (features,), unless turned off.
    """

    def __init__(self, groups: int, features: int, *, eps: float = 1e-5, gamma: bool = True, beta: bool = True) -> None:
        self.groups, self.features = integer("groups", groups), integer("features", features)
        if self.features % self.groups:
            raise ValueError(f"GroupNorm: {features} features cannot be divided into {groups} groups")
        self.eps = number("eps", eps, math.inf)
        self.gamma = Parameter(init.ones((features,))) if gamma else None
        self.beta = Parameter(init.zeros((features,))) if beta else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized, scaled and shifted; same shape."""
        return ops.group_norm(x, self.groups, self.gamma, self.beta, eps=self.eps)

    def settings(self) -> str:
        """Groups, features and what differs from the defaults."""
        off = [f"{name}=False" for name in ("gamma", "beta") if getattr(self, name) is None]
        return ", ".join([str(self.groups), str(self.features), f"eps={self.eps}", *off])


class Embedding(Module):
    """Rows of a table by their numbers: integers (...) to (..., features).

    Parameter `weight` (count, features), drawn from the normal distribution.
    """

    def __init__(self, count: int, features: int) -> None:
        self.count, self.features = integer("count", count), integer("features", features)
        self.weight = Parameter(init.gaussian((self.count, self.features), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """The rows."""
        return ops.embedding(x, self.weight)

    def settings(self) -> str:
        """Rows and features."""
        return f"{self.count}, {self.features}"


def shape_of(features: int | tuple[int, ...]) -> tuple[int, ...]:
    """What is normalized over, as a shape."""
    shape = tuple(features) if isinstance(features, tuple | list) else (features,)
    if not shape:
        raise ValueError("features must be a number, or the shape of the last axes, not ()")
    return tuple([integer("features", n) for n in shape])


def shown(shape: tuple[int, ...]) -> str:
    """A shape as it was given."""
    return str(shape[0]) if len(shape) == 1 else str(shape)
