"""The tile of a matrix product that a block computes on tensor cores, from float32 rounded to TF32.

A warp computes height x width elements of the TILE by products of 16 x 8 by 8 x 8, of factors rounded to 10 bits, with sums in
float32. Tiles come into one of three buffers by asynchronous copies, two steps ahead, as they lie in memory: a row of shared
memory is a line of a deep factor, else a depth. A GPU that lacks the room for three buffers of the blocks that should be at
work at once gets two buffers, one step ahead. Rows are 4 or 8 numbers longer than the tile: then the 32 threads, which read the
parts of a small product, meet 32 different banks. A warp's 64 x 64 elements take half of its registers and 32 reads of a number
for 32 small products; smaller ones would keep the shared memory busier than the tensor cores (reckoned, not measured).
"""

from minigrad.kernels.cuda.parts.factors import begin_copies
from minigrad.kernels.cuda.parts.tiles import (
    A_DEEP,
    B_DEEP,
    BIAS_FLAG,
    TILE,
    WIDE_A,
    WIDE_B,
    add_bias,
    finish_row,
    finish_rows,
    own_share,
    tile_corner,
)
from minigrad.kernels.cuda.tools.async_copies import copy_commit, copy_wait_all, copy_wait_but_one
from minigrad.kernels.cuda.tools.language import at, cuda, device_function, int64, real, uint32, uint64
from minigrad.kernels.cuda.tools.mma import mma_tf32, to_tf32


@device_function
def multiply_eight(shared, left, right, sums):
    """Add the product of eight depths of two tiles, which begin at `left` and `right` for this warp."""
    a = cuda.local.array(16, uint32)
    b = cuda.local.array(16, uint32)
    lane = uint32(cuda.threadIdx.x) & uint32(31)
    g, t = lane >> uint32(2), lane & uint32(3)
    line_a, k_a = (TILE.depth + 4, 1) if A_DEEP else (1, TILE.rows + 8)
    line_b, k_b = (TILE.depth + 4, 1) if B_DEEP else (1, TILE.columns + 8)
    left = left + int64(g * uint32(line_a) + t * uint32(k_a))
    right = right + int64(g * uint32(line_b) + t * uint32(k_b))
    for i in range(TILE.height // 16):
        o = left + 16 * i * line_a
        a[4 * i] = to_tf32(shared[o])
        a[4 * i + 1] = to_tf32(shared[o + 8 * line_a])
        a[4 * i + 2] = to_tf32(shared[o + 4 * k_a])
        a[4 * i + 3] = to_tf32(shared[o + (8 * line_a + 4 * k_a)])
    for j in range(TILE.width // 8):
        o = right + 8 * j * line_b
        b[2 * j] = to_tf32(shared[o])
        b[2 * j + 1] = to_tf32(shared[o + 4 * k_b])
    for i in range(TILE.height // 16):
        for j in range(TILE.width // 8):
            s = 4 * (i * (TILE.width // 8) + j)
            total = mma_tf32(
                (sums[s], sums[s + 1], sums[s + 2], sums[s + 3]),
                (a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]),
                (b[2 * j], b[2 * j + 1]),
            )
            sums[s] = total[0]
            sums[s + 1] = total[1]
            sums[s + 2] = total[2]
            sums[s + 3] = total[3]


@device_function
def multiply_fragments(shared, left, right, sums):
    """Add the product of two tiles; their 16 depths are written out, so that reads of one half hide behind the other."""
    multiply_eight(shared, left, right, sums)
    further_a, further_b = 8 if A_DEEP else 8 * (TILE.rows + 8), 8 if B_DEEP else 8 * (TILE.columns + 8)
    multiply_eight(shared, left + further_a, right + further_b, sums)


@device_function
def product_tf32(a, place_a, factor_a, b, place_b, factor_b, result, begin, end):
    """As product, by warps on tensor cores."""
    flags = result.flags
    pitch_a = TILE.depth + 4 if A_DEEP else TILE.rows + 8
    pitch_b = TILE.depth + 4 if B_DEEP else TILE.columns + 8
    size_a = TILE.rows * (TILE.depth + 4) if A_DEEP else TILE.depth * (TILE.rows + 8)
    size_b = TILE.columns * (TILE.depth + 4) if B_DEEP else TILE.depth * (TILE.columns + 8)
    shared = cuda.shared.array(0, real, 16)
    buffer = uint32(size_a + size_b)
    sums = cuda.local.array(128, real)
    lines_a = cuda.local.array(12, uint32)
    lines_b = cuda.local.array(12, uint32)

    thread = uint32(cuda.threadIdx.x)
    first_row, first_column = tile_corner(result.across)
    line_a, k_a, depth_a, loads_a, apart_a = own_share(factor_a, first_row, begin, A_DEEP, TILE.rows, 8, lines_a)
    line_b, k_b, depth_b, loads_b, apart_b = own_share(factor_b, first_column, begin, B_DEEP, TILE.columns, 8, lines_b)
    to_a = uint32(line_a * uint32(pitch_a) + k_a if A_DEEP else k_a * uint32(pitch_a) + line_a)
    to_b = uint32(line_b * uint32(pitch_b) + k_b if B_DEEP else k_b * uint32(pitch_b) + line_b) + uint32(size_a)

    row, column = warp_corner(thread)
    left = uint32(row * uint32(TILE.depth + 4 if A_DEEP else 1))
    right = uint32(column * uint32(TILE.depth + 4 if B_DEEP else 1) + uint32(size_a))

    for i in range(TILE.height * TILE.width // 32):
        sums[i] = real(0)
    steps = uint32((end - begin + uint32(TILE.depth - 1)) // uint32(TILE.depth))
    step, ahead = uint32(0), uint32(TILE.stages - 1)
    filled, used = uint32(0), uint32(buffer)  # where the buffers begin that are filled and used in a step
    while step < steps + ahead:
        if step >= ahead:
            if TILE.stages == 3:
                copy_wait_but_one()
            else:
                copy_wait_all()
            cuda.syncthreads()  # all have the tiles of `ahead` steps ago, and are done with those of the step before that
        if step < steps:
            if A_DEEP and B_DEEP:
                depth_b = depth_a
            depth_a = begin_copies(
                a, place_a, factor_a, lines_a, depth_a, A_DEEP, flags & uint32(WIDE_A), loads_a,
                shared, int64(filled + to_a), pitch_a * apart_a,
            )  # fmt: skip
            depth_b = begin_copies(
                b, place_b, factor_b, lines_b, depth_b, B_DEEP, flags & uint32(WIDE_B), loads_b,
                shared, int64(filled + to_b), pitch_b * apart_b,
            )  # fmt: skip
        copy_commit()
        if step >= ahead:
            multiply_fragments(shared, int64(used + left), int64(used + right), sums)
        filled = uint32(0) if filled == ahead * buffer else uint32(filled + buffer)
        used = uint32(0) if used == ahead * buffer else uint32(used + buffer)
        step = uint32(step + uint32(1))

    finish_fragments(result, sums, uint32(first_row + row), uint32(first_column + column))


@device_function
def warp_corner(thread):
    """(first row, first column) of a warp's part of the tile."""
    warp, warps = uint32(thread >> uint32(5)), uint32(TILE.columns // TILE.width)
    return uint32(warp // warps * uint32(TILE.height)), uint32(warp % warps * uint32(TILE.width))


@device_function
def finish_fragments(result, sums, row, column):
    """A warp's sums, as its threads have them of products by tensor cores, to C from that row and column on."""
    lane = uint32(cuda.threadIdx.x) & uint32(31)
    exchange_halves(sums)
    row = uint32(row + (lane >> uint32(2)) + ((lane & uint32(1)) << uint32(3)))
    column = uint32(column + ((lane & uint32(2)) << uint32(1)))
    if result.flags & uint32(BIAS_FLAG):
        add_bias(result, sums, TILE.height // 16, column, TILE.width // 8, 8)
    c = at(result.c, uint64(cuda.blockIdx.z) * result.step)
    if TILE.height == 64:
        finish_rows(c, result, sums, 0, row, 16, column, TILE.width // 8, 8)
    else:
        finish_row(c, result, row, sums, 0, column, TILE.width // 8, 8)
        finish_row(c, result, uint32(row + uint32(16)), sums, TILE.width // 2, column, TILE.width // 8, 8)


@device_function
def exchange_halves(sums):
    """Of each 16 x 8, threads of even t get four columns of row g, those of odd t of row g + 8, from two of both each."""
    odd = (uint32(cuda.threadIdx.x) & uint32(1)) == uint32(1)
    for f in range(TILE.height // 16 * (TILE.width // 8)):
        upper0, upper1, lower0, lower1 = sums[4 * f], sums[4 * f + 1], sums[4 * f + 2], sums[4 * f + 3]
        got0 = cuda.shfl_xor_sync(uint32(0xFFFFFFFF), upper0 if odd else lower0, 1)
        got1 = cuda.shfl_xor_sync(uint32(0xFFFFFFFF), upper1 if odd else lower1, 1)
        sums[4 * f] = got0 if odd else upper0
        sums[4 * f + 1] = got1 if odd else upper1
        sums[4 * f + 2] = lower0 if odd else got0
        sums[4 * f + 3] = lower1 if odd else got1
