"""Images sampled anew; see kernels/reference/resample.py.

One thread computes four neighbouring channels of a pixel of the result, or one, as in pooling (kernels/cuda/pool.py), and adds
up the pixels that it is made of, row by row, in the order of the tables.
"""

from minigrad.kernels.cuda.pool import (
    THREADS,
    Over,
    blocks_over,
    load,
    own_place,
    plus,
    repeated,
    row_step,
    store,
    times,
    width_for,
)
from minigrad.kernels.cuda.tools.language import device_function, real, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT32, Longs, Reals, UInt, kernel


@device_function
def entry_of(table, i):
    """(first, how many, place of their weights)."""
    at = uint32(i * uint32(3))
    return uint32(table[at]), uint32(table[uint32(at + uint32(1))]), uint32(table[uint32(at + uint32(2))])


@kernel(threads=THREADS, min_blocks=4)
def weighted(
    x: Reals, rows: Longs, row_weights: Reals, columns: Longs, column_weights: Reals, y: Reals, over: Over, oh: UInt, ow: UInt,
):  # fmt: skip
    tiles, all_rows, h, w, c = over
    k, j, row = own_place(tiles)
    if k < c and j < ow:
        first_q, across, from_q = entry_of(columns, j)
        while row < all_rows:
            image = uint32(row // oh)
            r, down, at = entry_of(rows, uint32(row - image * oh))
            total = repeated(real(0))
            place = uint32(uint32(uint32(image * h + r) * w + first_q) * c + k)
            a = uint32(0)
            while a < down:
                part = repeated(real(0))
                b, pixel = uint32(0), place
                while b < across:
                    part = plus(part, times(load(x, pixel), column_weights[uint32(from_q + b)]))
                    b, pixel = uint32(b + uint32(1)), uint32(pixel + c)
                total = plus(total, times(part, row_weights[uint32(at + a)]))
                a, place = uint32(a + uint32(1)), uint32(place + w * c)
            store(y, uint32(uint32(row * ow + j) * c + k), total)
            row = uint32(row + row_step())


KERNELS = {1: weighted.variant(WIDTH=1), 4: weighted.variant(WIDTH=4, types=(FLOAT32,))}


def resample(x, rows, row_weights, columns, column_weights, y):
    if y.size == 0:
        return
    width = width_for(x, y)
    groups = y.shape[3] // width
    grid, block, tiles, all_rows = blocks_over(y, groups)
    KERNELS[width][grid, block](
        x, rows, row_weights, columns, column_weights, y, Over(tiles, all_rows, *x.shape[1:3], groups), *y.shape[1:3]
    )
