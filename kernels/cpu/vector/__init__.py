"""Micro-kernels written as LLVM vector code, which CPU kernels call."""
