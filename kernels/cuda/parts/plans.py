"""How the host shares out a matrix product: the tile of a block, and the parts of the depth.

If the result has too few tiles to fill a GPU, the depth is cut into parts: the blocks of one part fill one matrix of
scratch memory, and a second launch adds these up in order. How many parts depends on the shapes alone, so that a sum has
the same bits on every GPU.
"""

from typing import NamedTuple

import numpy as np

from minigrad.kernels.cuda.parts.tiles import ADDS, HAS_BIAS, WIDE_C, TileSize
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT64, RESERVED_SHARED, Reals, UInt, blocks_for, kernel

LARGE = TileSize(128, 128, 8, 8, 8, 256, 2, 1.0)
TALL = TileSize(128, 64, 16, 8, 4, 256, 2, 1.2)
NARROW = TileSize(128, 32, 16, 8, 4, 128, 4, 1.4)
SMALL = TileSize(32, 32, 32, 4, 4, 64, 6, 2.0)
DOUBLE = TileSize(32, 32, 16, 4, 4, 64, 4, 1.0)
TF32_LARGE = TileSize(128, 128, 16, 64, 64, 128, 2, 1.0, 3)
TF32_TALL = TileSize(128, 64, 16, 64, 32, 128, 3, 1.2, 3)
BF16_LARGE = TileSize(128, 128, 16, 64, 64, 128, 2, 1.0, 4, parts=1)  # costs by the instructions of a step, counted
BF16_TALL = TileSize(128, 64, 16, 64, 32, 128, 3, 1.5, 4, parts=1)
BF16_NARROW = TileSize(128, 32, 16, 32, 32, 128, 4, 2.5, 4, parts=1)

FLOAT32_TILES, TF32_TILES = (LARGE, TALL, NARROW), (TF32_LARGE, TF32_TALL)
BF16_TILES = BF16_LARGE, BF16_TALL, BF16_NARROW
BF16_3X_TILES = tuple(
    tile._replace(parts=2, stages=2, cost=cost) for tile, cost in zip(BF16_TILES, (1.0, 1.4, 2.2), strict=True)
)
TF32_KERNELS = [tile._replace(stages=stages) for tile in TF32_TILES for stages in (3, 2)]  # see fitting

# These four are reckoned, not measured.
SMALL_WORK = 1 << 27  # multiply-adds up to which many small tiles are better than few large ones
TENSOR_WORK = 1 << 20  # multiply-adds up to which tensor cores are not worth the loss of digits
WAVE = 264  # blocks that a large GPU has room for; a constant, for sums may not depend on the machine
MIN_PART = 128  # depths that a part of a sum has at least
MOST_SCRATCH = 1 << 24  # elements of all parts together


class Tiling(NamedTuple):
    """How a product is shared out."""

    tile: TileSize
    across: int  # tiles along a row
    tiles: int
    parts: int
    part: int  # depths of each


def tensor_tiles(work):
    """The tiles to choose from for a product of float32 of so many multiply-adds, if it goes to tensor cores."""
    if context.matmul_precision == "bf16":  # of all products, so that they are as the CPU's
        return BF16_TILES
    by_precision = {"tf32": TF32_TILES, "bf16_3x": BF16_3X_TILES}
    return by_precision.get(context.matmul_precision, ()) if work >= TENSOR_WORK else ()


def tiling_by(tile, m, n, k, parts):
    """The tiling by one tile, with at most so many parts of the depth."""
    across = blocks_for(n, tile.columns)
    part = -(-k // (parts * tile.depth)) * tile.depth
    return Tiling(tile, across, across * blocks_for(m, tile.rows), max(1, -(-k // part)) if k else 1, part)


def best_tiling(tiles, m, n, k):
    """The tiling by the tile that costs least for n columns, in parts if it is fewer than half a wave of tiles."""
    tile = min(tiles, key=lambda tile: blocks_for(n, tile.columns) * tile.columns * tile.cost)
    count = blocks_for(n, tile.columns) * blocks_for(m, tile.rows)
    parts = min(WAVE // count, k // MIN_PART, MOST_SCRATCH // (m * n)) if count <= WAVE // 2 else 1
    return tiling_by(tile, m, n, k, max(1, parts))


def shared_bytes(tile, itemsize, a_deep, b_deep):
    """Bytes of shared memory of a block."""
    if not tile.is_of_warps:
        return tile.stages * itemsize * tile.depth * (tile.rows + tile.columns + 8)
    if tile.parts:
        return tile.stages * tile.parts * 2 * tile.depth * (tile.rows + tile.columns)
    factors = (tile.rows, a_deep), (tile.columns, b_deep)
    elements = sum(size * (tile.depth + 4) if deep else tile.depth * (size + 8) for size, deep in factors)
    return tile.stages * itemsize * elements


def fitting(tile, itemsize, a_deep, b_deep):
    """The tile with as many stages as leave room for its blocks on a multiprocessor of this GPU. The bits are the same.

    Three need 141 KB for the three blocks of TF32_TALL: compute capability 8.0 has 164 KB and 9.0 228, but 8.6, 8.9 and 12.0
    have 100.
    """
    room = context.driver.shared_memory // tile.min_blocks - RESERVED_SHARED
    return tile if shared_bytes(tile, itemsize, a_deep, b_deep) <= room else tile._replace(stages=2)


def aligned(array, row):
    """Whether rows of so many elements begin at multiples of 16 bytes, of float32."""
    return array.dtype != FLOAT64 and row % 4 == 0 and array.pointer % 16 == 0


@kernel(threads=256)
def sum_parts(parts: Reals, bias: Reals, c: Reals, size: UInt, n: UInt, count: UInt, flags: UInt):
    i = uint32(cuda.blockIdx.x) * uint32(256) + uint32(cuda.threadIdx.x)
    if i < size:
        total = parts[i]
        p = uint32(1)
        while p < count:
            total += parts[uint32(p * size + i)]
            p = uint32(p + uint32(1))
        if flags & uint32(ADDS):
            total += c[i]
        if flags & uint32(HAS_BIAS):
            total += bias[uint32(i % n)]
        c[i] = total


def run_tiled(fill, how, bias, c, n, flags):
    """Fill C of rows of n by fill(bias, c, flags), at once or by parts in scratch memory that are then added up."""
    if how.parts == 1:
        fill(bias, c, flags | (WIDE_C if aligned(c, n) else 0))
        return
    parts = context.empty((how.parts, c.size), c.dtype)
    fill(bias, parts, WIDE_C if aligned(parts, n) else 0)
    sum_parts[blocks_for(c.size, 256), 256](parts, bias, c, c.size, n, how.parts, flags)


def kernels_for(function, tiles, cases, dtype="float32", **constants):
    """{(tile, *the case's values): kernel}, one for each tile and case, which is a dict of constants."""
    made = {}
    for tile in tiles:
        base = kernel(threads=tile.threads, min_blocks=tile.min_blocks, types=(np.dtype(dtype),))(function)
        for case in cases:
            shared = shared_bytes(tile, np.dtype(dtype).itemsize, case["A_DEEP"], case["B_DEEP"])
            made[(tile, *case.values())] = base.variant(
                shared_bytes=shared, **tile.constants(dtype), **case, **constants
            )
    return made
