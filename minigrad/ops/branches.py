"""Branches of a network joined: normalization, activation and concatenation in one op."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.ops.elementwise import float_tensor
from minigrad.ops.norm import (
    Normalization,
    Running,
    activation_number,
    check_count,
    checked,
    mark_changed,
    normalize,
    normalize_backward,
)
from minigrad.tape import Op
from minigrad.tensor import Tensor


class Branch(NamedTuple):
    """A tensor that is to be concatenated, and what is done to it on the way."""

    x: Tensor
    norm: Normalization | None
    activation: str | None


class BranchConcat(Op):
    """Branches normalized by the statistics of the batch, activated and concatenated, each written to its place at once."""

    formula = "y = [f(BN(x0)), f(BN(x1)), ...];  dxi, dγi, dβi as of batch norm, from its slice of dy"

    def forward(
        self, *arrays: np.ndarray | None, norms: list[tuple[Running, float, float] | None], activations: list[int]
    ) -> np.ndarray:
        self.norms, self.activations = norms, activations
        xs = arrays[::3]
        first: np.ndarray = xs[0]  # type: ignore[assignment]
        y = self.empty((*first.shape[:-1], sum(x.shape[-1] for x in xs)), first.dtype)  # type: ignore[union-attr]
        matrix = y.reshape(-1, y.shape[-1])
        self.statistics: list[tuple[np.ndarray, np.ndarray] | None] = []
        column = 0
        for x, gamma, beta, norm, activation in zip(xs, arrays[1::3], arrays[2::3], norms, activations, strict=True):
            if norm is None:
                self.kernels.elementwise.activate(x.reshape(-1, x.shape[-1]), activation, matrix, column)  # type: ignore[union-attr]
                self.statistics.append(None)
            else:
                self.statistics.append(normalize(self, x, gamma, beta, *norm, activation, matrix, column))  # type: ignore[arg-type]
            column += x.shape[-1]  # type: ignore[union-attr]
        from_result = any(a == SIGMOID or (a == RELU and n is None) for a, n in zip(activations, norms, strict=True))
        self.save(*arrays, y if from_result else None)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Any, ...]:
        *arrays, y = self.saved  # type: ignore[misc]
        y = dy if y is None else y
        gradients: list[np.ndarray | None] = []
        column = 0
        branches = zip(
            arrays[::3], arrays[1::3], arrays[2::3], self.norms, self.activations, self.statistics, strict=True
        )
        for x, gamma, beta, norm, activation, statistics in branches:
            c = x.shape[-1]
            if norm is None or statistics is None:
                dx = self.empty_like(x)
                wide = (a.reshape(-1, a.shape[-1]) for a in (dy, y))
                self.kernels.elementwise.activate_backward(*wide, column, activation, dx.reshape(-1, c))
                gradients += [dx, None, None]
            else:
                gradients += normalize_backward(self, dy, x, y, column, gamma, beta, *statistics, norm[2], activation)
            column += c
        return tuple([dx if needed else None for dx, needed in zip(gradients, self.needs, strict=True)])


def concat_branches(branches: Sequence[Branch]) -> Tensor:
    """Tensors on the last axis one after another, each normalized as by `batch_norm` in training, activated, or neither.

    The same bits as by separate ops, without the passes over memory of `concat`. Raises as those ops do.
    """
    xs = [branch.x for branch in branches]
    norms: list[tuple[Running, float, float] | None] = []
    inputs: list[Tensor | None] = []
    for i, (x, norm, _) in enumerate(branches):
        data = float_tensor("concat", x)._data
        if data.ndim < 2 or data.shape[:-1] != xs[0].shape[:-1]:
            raise ValueError(f"concat on the last axis: tensor {i} has shape {x.shape}, tensor 0 has {xs[0].shape}")
        if data.dtype != xs[0].dtype:
            raise TypeError(f"concat: tensor {i} is {x.dtype}, tensor 0 is {xs[0].dtype}")
        if norm is None:
            norms.append(None)
            inputs += [x, None, None]
        else:
            running = checked(x, norm)
            check_count(x)
            norms.append((running, float(norm.decay), float(norm.eps)))
            inputs += [x, norm.gamma, norm.beta]
    numbers = [activation_number(branch.activation) for branch in branches]
    y = BranchConcat.apply(*inputs, norms=norms, activations=numbers)
    for branch in branches:
        if branch.norm is not None:
            mark_changed(branch.norm)
    return y
