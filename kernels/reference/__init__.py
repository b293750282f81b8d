"""Kernels in plain NumPy: the executable specification of every kernel, and the device "reference"."""

from minigrad.kernels.reference import dropout, elementwise, gemm, loss, movement, norm, optim, reduce

__all__ = ["dropout", "elementwise", "gemm", "loss", "movement", "norm", "optim", "reduce"]
