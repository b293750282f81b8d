"""Branches of a network joined: normalization, activation and concatenation in one op."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.contract import Array
from minigrad.modes import repeats
from minigrad.ops.checks import float_tensor
from minigrad.ops.movement import Slice, concat
from minigrad.ops.norm import (
    STATISTICS,
    Normalization,
    Running,
    activation_number,
    batch_gradients,
    check_count,
    checked,
    mark_changed,
    running_arrays,
    scale_and_shift,
)
from minigrad.ops.norm_gradients import activation_gradient
from minigrad.ops.shapes import as_matrix
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
    passes_on = False

    def forward(
        self, *arrays: Array | None, norms: list[tuple[Running, float, float] | None], activations: list[int]
    ) -> np.ndarray:
        xs = cast("tuple[Array, ...]", arrays[::3])  # those that may be None are gamma and beta
        y = self.empty((*xs[0].shape[:-1], sum(x.shape[-1] for x in xs)), xs[0].dtype)
        matrix = as_matrix(y)
        self.branches: list[tuple[int, int, int, float | None]] = []  # column, features, activation, eps or no norm
        saved: list[np.ndarray | None] = []
        normalized, statistics = [], []
        column = 0
        for x, gamma, beta, norm, activation in zip(xs, arrays[1::3], arrays[2::3], norms, activations, strict=True):
            c = x.shape[-1]
            self.branches.append((column, c, activation, None if norm is None else norm[2]))
            if norm is None:
                if x.size:
                    self.kernels.elementwise.activate(as_matrix(x), activation, matrix, column)
                saved += [None, None, None]
            else:
                normalized.append((as_matrix(x), *scale_and_shift(self, gamma, beta, x), norm[2], activation, column))
                statistics.append((self.empty((c,), STATISTICS), self.empty((c,), STATISTICS)))
                saved += [x, gamma, beta if activation == RELU else None]
            column += c
        self.statistics = statistics
        if normalized:
            self.normalize(normalized, [norm[:2] for norm in norms if norm is not None], matrix)
        from_result = any(a == SIGMOID or (a == RELU and n is None) for a, n in zip(activations, norms, strict=True))
        self.save(*saved, y if from_result else None)
        return y

    def normalize(self, branches: list[tuple[Any, ...]], running: list[tuple[Running, float]], y: np.ndarray) -> None:
        """Each branch with a norm, (x, gamma, beta, eps, activation, column), to its columns of y; running statistics."""
        xs, gammas, betas, eps, activations, columns = map(list, zip(*branches, strict=True))
        means, variances = map(list, zip(*self.statistics, strict=True))
        given = xs, gammas, betas, eps, activations, y, columns, means, variances
        decays = [decay for _, decay in running]
        running_means, running_vars = map(
            list, zip(*[running_arrays(self, kept, y) for kept, _ in running], strict=True)
        )
        self.kernels.norm.batch_norms_forward(*given, decays, running_means, running_vars)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        *arrays, y = self.saved  # type: ignore[misc]
        y = dy if y is None else y
        dy_matrix, y_matrix = as_matrix(dy), as_matrix(y)
        gradients: list[np.ndarray | None] = []
        normalized = []
        statistics = iter(self.statistics)
        for x, gamma, beta, (column, c, activation, eps) in zip(
            arrays[::3], arrays[1::3], arrays[2::3], self.branches, strict=True
        ):
            dx = self.empty((*dy.shape[:-1], c), dy.dtype)
            dgamma = dbeta = None
            if eps is not None:
                dgamma, dbeta = self.empty((c,), dy.dtype), self.empty((c,), dy.dtype)
                affine = scale_and_shift(self, gamma, beta, x)
                given = (*affine, *next(statistics), eps, activation)
                normalized.append((as_matrix(x), column, *given, as_matrix(dx), dgamma, dbeta))
            elif dx.size:
                self.kernels.elementwise.activate_backward(dy_matrix, y_matrix, column, activation, as_matrix(dx))
            gradients += [dx, dgamma, dbeta]
        if normalized:
            self.normalize_backward(dy_matrix, y_matrix, normalized)
        return tuple([dx if needed else None for dx, needed in zip(gradients, self.needs, strict=True)])

    def normalize_backward(self, dy: np.ndarray, y: np.ndarray, branches: list[tuple[Any, ...]]) -> None:
        """Each (x, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta); the last three are filled."""
        xs, *rest = map(list, zip(*branches, strict=True))
        self.kernels.norm.batch_norms_backward(dy, xs, y, *rest)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, y = self.saved  # type: ignore[misc]
        result = None if y is None else self.as_result(y)
        gradients: list[Tensor | None] = []
        for i, (column, c, activation, eps) in enumerate(self.branches):
            needs = self.needs[3 * i : 3 * i + 3]
            own = (..., slice(column, column + c))
            part = Slice.apply(dy, index=own)
            done = Slice.apply(result, index=own) if result is not None and activation != IDENTITY else None
            if eps is None:
                dx = part if done is None else activation_gradient(part, part, None, None, done, activation)
                gradients += [dx if needs[0] else None, None, None]
                continue
            affine = [None if arrays[k] is None else self.as_input(k, arrays[k]) for k in (3 * i + 1, 3 * i + 2)]
            x = self.as_input(3 * i, arrays[3 * i])
            gradients += batch_gradients(part, x, affine, done, eps, activation, needs)
        return tuple(gradients)


def concat_branches(branches: Sequence[Branch]) -> Tensor:
    """Tensors on the last axis one after another, each normalized as by `batch_norm` in training, activated, or neither.

    The same bits as by separate ops, without the passes over memory of `concat`. Raises as those ops do.
    """
    if all(norm is None and activation is None for _, norm, activation in branches):
        return concat([branch.x for branch in branches])
    return joined(BranchConcat, branches, check_count)


def joined(
    op: type[BranchConcat], branches: Sequence[Branch], check: Callable[[Tensor], None], **more: object
) -> Tensor:
    """Branches through an op that concatenates them, which may be given more; `check` refuses an x to normalize."""
    xs = [branch.x for branch in branches]
    norms: list[tuple[Running, float, float] | None] = []
    inputs: list[Tensor | None] = []
    for i, (x, norm, _) in enumerate(branches):
        data = float_tensor("concat", x)._data
        if not data.ndim:
            raise ValueError(f"concat on the last axis: tensor {i} has none")
        if data.ndim != xs[0].ndim or data.shape[:-1] != xs[0].shape[:-1]:
            raise ValueError(f"concat on the last axis: tensor {i} has shape {x.shape}, tensor 0 has {xs[0].shape}")
        if data.dtype != xs[0].dtype:
            raise TypeError(f"concat: tensor {i} is {x.dtype}, tensor 0 is {xs[0].dtype}")
        if norm is None:
            norms.append(None)
            inputs += [x, None, None]
        else:
            running = checked(x, norm)
            check(x)
            norms.append((None if repeats() else running, float(norm.decay), float(norm.eps)))
            inputs += [x, norm.gamma, norm.beta]
    numbers = [activation_number("concat_branches", branch.activation) for branch in branches]
    y = op.apply(*inputs, norms=norms, activations=numbers, **more)
    for branch in branches:
        if branch.norm is not None:
            mark_changed(branch.norm)
    return y
