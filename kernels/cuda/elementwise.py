"""Functions of every element; see kernels/reference/elementwise.py."""

from minigrad.kernels import formulas
from minigrad.kernels.cuda.language import cuda, uint32
from minigrad.kernels.cuda.launch import Reals, UInt, blocks_for, kernel

THREADS = 256
FORMULA = None  # what a kernel computes, put in by its variants


@kernel(threads=THREADS)
def forward(x: Reals, y: Reals, n: UInt):
    i = uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x)
    if i < n:
        y[i] = FORMULA(x[i])


exp_kernel = forward.variant(FORMULA=formulas.exp)


def exp_forward(x, y):
    exp_kernel[blocks_for(x.size, THREADS), THREADS](x, y, x.size)
