"""Batch Normalization whose batch is that of all processes of a run: minigrad.ops.norm with an exchange in each direction."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.exchange import Session, launches
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.contract import Array
from minigrad.modes import repeats
from minigrad.ops.branches import Branch, BranchConcat, joined
from minigrad.ops.norm import (
    STATISTICS,
    BatchNorm,
    Normalization,
    Running,
    activation_number,
    checked,
    mark_changed,
    scale_and_shift,
)
from minigrad.ops.shapes import as_matrix
from minigrad.tape import Op
from minigrad.tensor import Tensor

UNCHANGED = 1 << 62  # rows from so many of which the variance's unbiased estimate is the variance itself, in float64


class SyncBatchNorm(BatchNorm):
    """Normalization by the statistics of the batches of all processes, and the activation after it, if there is one.

    Forward merges means and variances. Backward averages dγ and dβ, by rows, for dx alone: as gradients of γ and β they go on
    as what they are here, and are averaged with all others. Each process has the loss of its own rows, a mean; theirs,
    averaged by rows, is the loss whose gradient this is.
    """

    formula = BatchNorm.formula + ",  μ, σ², dβ and dγ of the rows of all processes"

    def forward(  # type: ignore[override]  # it needs to know the processes
        self,
        x: np.ndarray,
        gamma: np.ndarray | None,
        beta: np.ndarray | None,
        *,
        session: Session,
        running: Running,
        decay: float,
        eps: float,
        activation: int = IDENTITY,
    ) -> np.ndarray:
        self.session, self.eps, self.activation = session, eps, activation
        c = x.shape[-1]
        y = self.empty_like(x)
        self.mean, self.var = self.empty((c,), STATISTICS), self.empty((c,), STATISTICS)
        scale, shift = scale_and_shift(self, gamma, beta, x)
        matrix = as_matrix(x)
        unbiased = statistics_of_all(self, session, [matrix], [(self.mean, self.var)])
        self.kernels.norm.batch_norm_normalize(
            matrix, scale, shift, self.mean, self.var, eps, activation, as_matrix(y), 0
        )
        if running is not None:
            self.kernels.norm.running_update(self.mean, unbiased[0], UNCHANGED, decay, *running)
        self.save(x, gamma, beta if activation == RELU else None, y if activation == SIGMOID else None)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, gamma, beta, y = self.saved  # type: ignore[misc]
        c = x.shape[-1]
        dx = self.empty_like(x)
        dgamma, dbeta = self.empty((c,), x.dtype), self.empty((c,), x.dtype)
        scale, shift = scale_and_shift(self, gamma, beta, x)
        dy, x, y, matrix = [as_matrix(a) for a in (dy, x, dy if y is None else y, dx)]
        given = dy, x, y, 0, scale, shift, self.mean, self.var, self.eps, self.activation
        self.kernels.norm.batch_norm_sums(*given, dgamma, dbeta)
        all_dgamma, all_dbeta = sums_of_all(self, self.session, [dgamma, dbeta], len(x))
        self.kernels.norm.batch_norm_gradient(*given, all_dgamma, all_dbeta, matrix)
        return dx, dgamma if self.needs[1] else None, dbeta if self.needs[2] else None

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        return Op.backward_on_tape(self, dy)  # the processes would have to exchange sums of the tape's


class SyncBranchConcat(BranchConcat):
    """Branches normalized by the statistics of the batches of all processes, one exchange in each direction for all of them."""

    formula = (
        "y = [f(BN(x0)), f(BN(x1)), ...];  dxi, dγi, dβi as of batch norm over all processes, from its slice of dy"
    )

    def forward(self, *arrays: Array | None, session: Session, **given: Any) -> np.ndarray:  # type: ignore[override]
        self.session = session
        return super().forward(*arrays, **given)

    def normalize(self, branches: list[tuple[Any, ...]], running: list[tuple[Running, float]], y: np.ndarray) -> None:
        estimates = statistics_of_all(self, self.session, [x for x, *_ in branches], self.statistics)
        for (x, gamma, beta, eps, activation, column), (mean, var), unbiased, (kept, decay) in zip(
            branches, self.statistics, estimates, running, strict=True
        ):
            self.kernels.norm.batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column)
            if kept is not None:
                self.kernels.norm.running_update(mean, unbiased, UNCHANGED, decay, *kept)

    def normalize_backward(self, dy: np.ndarray, y: np.ndarray, branches: list[tuple[Any, ...]]) -> None:
        for x, column, gamma, beta, mean, var, eps, activation, _, dgamma, dbeta in branches:
            self.kernels.norm.batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta)
        own = [array for *_, dgamma, dbeta in branches for array in (dgamma, dbeta)]
        merged = iter(sums_of_all(self, self.session, own, len(dy)))
        for x, column, gamma, beta, mean, var, eps, activation, dx, _, _ in branches:
            self.kernels.norm.batch_norm_gradient(
                dy, x, y, column, gamma, beta, mean, var, eps, activation, next(merged), next(merged), dx
            )

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        return Op.backward_on_tape(self, dy)


def statistics_of_all(
    op: Op, session: Session, xs: list[Array], statistics: list[tuple[Array, Array]]
) -> list[np.ndarray]:
    """Fill (mean, variance) of each matrix over the rows of all processes; the variances' unbiased estimates."""
    unbiased = [op.empty(mean.shape, STATISTICS) for mean, _ in statistics]
    for x, (mean, var) in zip(xs, statistics, strict=True):
        op.kernels.norm.batch_norm_statistics(x, mean, var)
    means, variances = map(list, zip(*statistics, strict=True))
    launches.merge_statistics(session, op.device, len(xs[0]), means, variances, unbiased)
    return unbiased


def sums_of_all(op: Op, session: Session, own: list[np.ndarray], rows: int) -> list[np.ndarray]:
    """Averages over all processes of what each has the sums of, by its rows; `own` stays.

    Where the step has several batches, of which each process has other parts, their losses are not scaled alike here and
    there: then each weighs as much as in the average of the gradients, and what comes is scaled as the loss of this process.
    """
    merged = [op.empty_like(array) for array in own]
    weight, factor = session.part or (float(rows), 1.0)
    launches.average(session, op.device, "batch norm's gradients", own, merged, weight, factor)
    return merged


def sync_batch_norm(x: Tensor, norm: Normalization, session: Session, activation: str | None = None) -> Tensor:
    """`batch_norm` in training, by the statistics of the batches of all processes, which may have different lengths.

    All processes call it, in the same order. Method: Ioffe & Szegedy 2015, Algorithm 1, statistics merged as by Chan, Golub
    and LeVeque 1983. Raises what `batch_norm` does; ValueError for fewer than two values per feature in all.
    """
    running = checked(x, norm)
    number = activation_number("sync_batch_norm", activation)
    check_rows(x)
    if repeats():
        running = None
    y = SyncBatchNorm.apply(
        x, norm.gamma, norm.beta,
        session=session, running=running, decay=float(norm.decay), eps=float(norm.eps), activation=number,
    )  # fmt: skip
    mark_changed(norm)
    return y


def sync_concat_branches(branches: Sequence[Branch], session: Session) -> Tensor:
    """`concat_branches` whose normalizations are those of `sync_batch_norm`; what it says of raising holds for each."""
    return joined(SyncBranchConcat, branches, check_rows, session=session)


def check_rows(x: Tensor) -> None:
    """Raise for what has no rows."""
    if not x._data.size:
        raise ValueError(f"sync_batch_norm: each process needs at least one value per feature, x has shape {x.shape}")
