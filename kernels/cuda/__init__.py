"""Kernels for NVIDIA GPUs: numba.cuda. The families are those of kernels/reference, each imported when first used.

language    numba.cuda and what it lacks
launch      how a kernel is written, compiled and launched
driver      the GPU, or a simulated one
simulator   kernels in plain Python
array       arrays in a GPU's memory
walk        how kernels find the elements of strided arrays
units       memory as units of bytes, for kernels that only move it

Matrix products and convolutions share

plans         how the host shares out a product
tiles         what a block does in float32 and float64
tensor_cores  what it does in TF32
factors       how it reads its two factors
"""

from minigrad.kernels.families import FAMILIES, importer

__all__ = [*FAMILIES]
__getattr__ = importer(__name__)
