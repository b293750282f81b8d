"""Kernels for the CPU: Numba, all cores, SIMD micro-kernels for matrix products. Compiled when first used."""

from minigrad.kernels.cpu import dropout, elementwise, gemm, loss, movement, norm, optim, reduce

__all__ = ["dropout", "elementwise", "gemm", "loss", "movement", "norm", "optim", "reduce"]
