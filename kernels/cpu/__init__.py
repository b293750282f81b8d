"""Kernels for the CPU: Numba, all cores, SIMD micro-kernels for matrix products. Compiled when first used."""

from minigrad.kernels.cpu import (
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
