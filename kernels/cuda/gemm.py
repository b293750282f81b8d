"""Matrix products; see kernels/reference/gemm.py, and tiles.py, tensor_cores.py and bfloat16.py for what a block does.

The factors are read as they lie, transposed or not: A B, A^T B and A B^T have their kernels, which turn a tile on its way
to shared memory if they must; the rare A^T B^T, and all in float64, goes by that of A^T B, one element at a time. The
blocks of a launch are numbered along the tiles of C, then along the parts of the depth or the products of a batch;
neighbours share rows of A. For its ROWS * COLUMNS multiply-adds of a depth a block reads ROWS + COLUMNS numbers, which it
shares with the other blocks of its row and column by way of the second-level cache.
"""

from typing import NamedTuple

from minigrad.kernels.cuda.parts.bfloat16 import product_bf16
from minigrad.kernels.cuda.parts.factors import Factor, place_in_matrix
from minigrad.kernels.cuda.parts.plans import (
    BF16_3X_TILES,
    BF16_TILES,
    DOUBLE,
    FLOAT32_TILES,
    SMALL,
    SMALL_WORK,
    TF32_KERNELS,
    aligned,
    best_tiling,
    fitting,
    kernels_for,
    run_tiled,
    tensor_tiles,
)
from minigrad.kernels.cuda.parts.tensor_cores import product_tf32
from minigrad.kernels.cuda.parts.tiles import ADDS, HAS_BIAS, WIDE_A, WIDE_B, WIDE_C, Result, product
from minigrad.kernels.cuda.tools.language import Choice, at, cuda, uint32, uint64
from minigrad.kernels.cuda.tools.launch import FLOAT64, Reals, UInt, ULong

PRODUCT = Choice("PRODUCT", product)  # product, product_tf32 or product_bf16
MOST_PRODUCTS = 65535  # of a batch in one launch


class Sizes(NamedTuple):
    """C of m x n from factors of depth k, in tiles `across` along a row and parts of so many depths."""

    m: UInt
    n: UInt
    k: UInt
    across: UInt
    part: UInt  # 0: there is a product for each z, of a batch


class Lie(NamedTuple):
    """How a factor lies in memory, and how far the depth goes from one load of a thread to the next."""

    line: UInt
    depth: UInt
    load: UInt


class Steps(NamedTuple):
    """From each matrix of a batch, or from a part of C, to the next."""

    a: ULong
    b: ULong
    c: ULong


def multiply(
    a: Reals, b: Reals, bias: Reals, c: Reals, size: Sizes, a_lies: Lie, b_lies: Lie, step: Steps, flags: UInt
):  # fmt: skip
    """Block (tile, 0, z): a tile of the z-th product of a batch, or of the z-th part of the depth."""
    z = uint32(cuda.blockIdx.z)
    begin = uint32(z * size.part)
    end = uint32(min(size.k, uint32(begin + size.part))) if size.part else size.k
    plain = (uint32(0), uint32(0))
    factor_a = Factor(plain, plain, (uint32(0), uint32(0), a_lies.load), (size.m, end, a_lies.line, a_lies.depth))
    factor_b = Factor(plain, plain, (uint32(0), uint32(0), b_lies.load), (size.n, end, b_lies.line, b_lies.depth))
    a, b = at(a, uint64(z) * step.a), at(b, uint64(z) * step.b)
    result = Result(bias, c, step.c, size.m, size.n, size.across, flags)
    PRODUCT(a, place_in_matrix, factor_a, b, place_in_matrix, factor_b, result, begin, end)


ORDERS = [{"A_DEEP": a, "B_DEEP": b} for a, b in ((False, False), (True, False), (True, True))]
KERNELS = (
    kernels_for(multiply, [*FLOAT32_TILES, SMALL], ORDERS)
    | kernels_for(multiply, TF32_KERNELS, ORDERS, PRODUCT=product_tf32)
    | kernels_for(multiply, [*BF16_TILES, *BF16_3X_TILES], ORDERS, PRODUCT=product_bf16)
    | kernels_for(multiply, [DOUBLE], ORDERS[:1], "float64")
)


def tiles_for(dtype, work):
    """The tiles to choose from, for so many multiply-adds."""
    if dtype == FLOAT64:
        return [DOUBLE]
    return tensor_tiles(work) or ([SMALL] if work <= SMALL_WORK else FLOAT32_TILES)


def launcher(a, b, m, n, k, trans_a, trans_b, how, batch=None):
    """A function fill(bias, c, flags) that launches the product, or of `batch` products one after another in memory."""
    tile = how.tile
    a_deep, b_deep = (not trans_a, trans_b) if (tile, not trans_a, trans_b) in KERNELS else (False, False)
    found = 0
    if a_deep == (not trans_a) and aligned(a, m if trans_a else k):
        found |= WIDE_A
    if b_deep == trans_b and aligned(b, k if trans_b else n):
        found |= WIDE_B
    step = Steps(0, 0, m * n) if batch is None else Steps(m * k, k * n, m * n)
    parts, part = (how.parts, how.part) if batch is None else (batch, 0)
    size = Sizes(m, n, k, how.across, part)
    a_lies = Lie(*((1, m) if trans_a else (k, 1)), tile.step(a_deep, tile.rows))
    b_lies = Lie(*((k, 1) if trans_b else (1, n)), tile.step(b_deep, tile.columns))
    grid = how.tiles, 1, parts
    configured = KERNELS[fitting(tile, a.itemsize, a_deep, b_deep), a_deep, b_deep][grid, tile.threads]

    def fill(bias, c, flags):
        configured(a, b, bias, c, size, a_lies, b_lies, step, flags | found)

    return fill


def run(a, b, bias, c, trans_a, trans_b, flags):
    m, n = c.shape
    k = a.shape[0] if trans_a else a.shape[1]
    if c.size:
        how = best_tiling(tiles_for(c.dtype, m * n * k), m, n, k)
        run_tiled(launcher(a, b, m, n, k, trans_a, trans_b, how), how, bias, c, n, flags)


def gemm(a, b, bias, c, trans_a, trans_b):
    run(a, b, bias, c, trans_a, trans_b, HAS_BIAS if bias.size else 0)


def gemm_add(a, b, c, trans_a, trans_b):
    run(a, b, c, c, trans_a, trans_b, ADDS)


def gemm_batched(a, b, c, trans_a, trans_b):
    batch, m, n = c.shape
    k = a.shape[1] if trans_a else a.shape[2]
    if not c.size:
        return
    how = best_tiling(tiles_for(c.dtype, m * n * k), m, n, k)
    for first in range(0, batch, MOST_PRODUCTS):
        count = min(batch - first, MOST_PRODUCTS)
        left, right, result = (
            x.reshape(-1).part(first * size, (first + count) * size) for x, size in ((a, m * k), (b, k * n), (c, m * n))
        )
        flags = WIDE_C if aligned(result, n) else 0
        launcher(left, right, m, n, k, trans_a, trans_b, how, count)(result, result, flags)
