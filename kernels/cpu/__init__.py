"""Kernels for the CPU: Numba, all cores, SIMD micro-kernels for matrix products.

Each family is imported when first used, and compiled when first called.
"""

import importlib

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


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
