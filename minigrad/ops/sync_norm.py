"""Batch Normalization whose batch is that of all processes of a run: minigrad.ops.norm with an exchange in each direction."""

import numpy as np

from minigrad.exchange import Session
from minigrad.exchange.sums import Sum, average, merge_statistics, room_for
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.contract import Array
from minigrad.modes import repeats
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
        add: Sum,
        running: Running,
        decay: float,
        eps: float,
        activation: int = IDENTITY,
    ) -> np.ndarray:
        self.session, self.add, self.eps, self.activation = session, add, eps, activation
        c = x.shape[-1]
        y = self.empty_like(x)
        self.mean, self.var, unbiased = [self.empty((c,), STATISTICS) for _ in range(3)]
        scale, shift = scale_and_shift(self, gamma, beta, x)
        matrix = as_matrix(x)
        self.kernels.norm.batch_norm_statistics(matrix, self.mean, self.var)
        self.device.launch(
            "exchange", "merge_statistics", merge_statistics, (session, len(matrix), self.mean, self.var, unbiased)
        )
        self.kernels.norm.batch_norm_normalize(
            matrix, scale, shift, self.mean, self.var, eps, activation, as_matrix(y), 0
        )
        if running is not None:
            self.kernels.norm.running_update(self.mean, unbiased, UNCHANGED, decay, *running)
        self.save(x, gamma, beta if activation == RELU else None, y if activation == SIGMOID else None)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, gamma, beta, y = self.saved  # type: ignore[misc]
        c = x.shape[-1]
        dx = self.empty_like(x)
        own = self.empty((c,), x.dtype), self.empty((c,), x.dtype)
        scale, shift = scale_and_shift(self, gamma, beta, x)
        dy, x, y, matrix = [as_matrix(a) for a in (dy, x, dy if y is None else y, dx)]
        given = dy, x, y, 0, scale, shift, self.mean, self.var, self.eps, self.activation
        self.kernels.norm.batch_norm_sums(*given, *own)
        merged = [self.device.copy(array) for array in own]
        room = room_for(2 * c, self.session.world, x.dtype, self.empty)
        exchanged = self.session, "batch norm's gradients", self.add, merged, float(len(x)), *room
        self.device.launch("exchange", "average", average, exchanged)
        self.kernels.norm.batch_norm_gradient(*given, merged[0], merged[1], matrix)
        dgamma, dbeta = own
        return dx, dgamma if self.needs[1] else None, dbeta if self.needs[2] else None

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        return Op.backward_on_tape(self, dy)  # the processes would have to exchange sums of the tape's


def sync_batch_norm(x: Tensor, norm: Normalization, session: Session, activation: str | None = None) -> Tensor:
    """`batch_norm` in training, by the statistics of the batches of all processes, which may have different lengths.

    All processes call it, in the same order. Method: Ioffe & Szegedy 2015, Algorithm 1, statistics merged as by Chan, Golub
    and LeVeque 1983. Raises what `batch_norm` does; ValueError for fewer than two values per feature in all, RuntimeError on a
    GPU, between which nothing is exchanged yet.
    """
    running = checked(x, norm)
    number = activation_number("sync_batch_norm", activation)
    if not x._data.size:
        raise ValueError(f"sync_batch_norm: each process needs at least one value per feature, x has shape {x.shape}")
    refuse_gpu(x)
    if repeats():
        running = None
    y = SyncBatchNorm.apply(
        x, norm.gamma, norm.beta,
        session=session, add=x._device.kernels.reduce.sum_forward, running=running, decay=float(norm.decay),
        eps=float(norm.eps), activation=number,
    )  # fmt: skip
    mark_changed(norm)
    return y


def refuse_gpu(x: Tensor) -> None:
    """Raise RuntimeError for a tensor whose memory MPI cannot reach."""
    if x._device.array_type is not np.ndarray:
        raise RuntimeError(
            f"processes exchange arrays in the memory of the host, and this tensor is on {x.device!r}: minigrad has no "
            "exchange between GPUs yet; train on device='cpu', or in one process"
        )
