"""Kernels in plain NumPy: the executable specification of every kernel, and the device "reference"."""

from minigrad.kernels.reference import (
    augment,
    conv,
    dropout,
    elementwise,
    gemm,
    loss,
    lrn,
    movement,
    norm,
    optim,
    pool,
    reduce,
)

__all__ = [
    "augment",
    "conv",
    "dropout",
    "elementwise",
    "gemm",
    "loss",
    "lrn",
    "movement",
    "norm",
    "optim",
    "pool",
    "reduce",
]
