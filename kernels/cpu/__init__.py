"""Kernels for the CPU: Numba, all cores, SIMD micro-kernels for matrix products. Compiled when first used."""
