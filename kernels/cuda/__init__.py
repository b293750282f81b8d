"""Kernels for NVIDIA GPUs: numba.cuda. The families are those of the contract, each imported when first used.

tools   how kernels are made and run
    language        numba.cuda and what it lacks
    launch          how a kernel is written, compiled and launched
    context         where launches go
    driver          the GPU, or a simulated one
    simulator       kernels in plain Python
    block           a block of simulated threads
    array           arrays in a GPU's memory
    machine_code    what the assembler makes of all kernels

parts   what several families are composed of
    walk, units     how kernels find the elements of strided arrays; memory as units of bytes, where it is only moved
    rows            rows of a matrix by number
    columns, sums   sums down columns, in a fixed order; sums of float32 as good as those of float64
    norm_rows       what batch normalization does to a block's rows

Matrix products and convolutions share

    plans           how the host shares out a product
    tiles           what a block does in float32 and float64
    tensor_cores    what it does in TF32
    bfloat16        what it does in bfloat16
    factors         how it reads its two factors
"""

from minigrad.kernels.contract import FAMILIES, importer

__all__ = [*FAMILIES]
__getattr__ = importer(__name__)
