"""Kernels for the CPU: Numba, all cores, SIMD micro-kernels for matrix products.

Each family is imported when first used, and compiled when first called.
"""

from minigrad.kernels.contract import FAMILIES, importer

__all__ = [*FAMILIES]
__getattr__ = importer(__name__)
