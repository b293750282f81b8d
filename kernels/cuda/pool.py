"""Pooling over windows of images; see kernels/reference/pool.py.

One thread computes four neighbouring channels of one pixel of the result, read and written 16 bytes at a time; where the
channels are no multiple of four, and in float64, it computes one channel. Every element of a result has one thread:
forward passes run over the pixels of its window, backward passes over the windows that cover its pixel, always in the
same order. Nothing is added in memory, so there are no atomics, and no two runs differ in a bit.

A block is a tile of the result, say 8 rows by 4 columns by 32 channels. The threads of a warp read whole cache lines (32
channels of float32 are one), and the windows of a tile overlap within it: each line comes from memory once and for the
other windows from the L1 cache. So a pass moves about what its arrays weigh: forward x, y and winner (a byte for each
element of y), backward dy, winner and dx.

All arithmetic on places is unsigned.
"""

import math
from typing import NamedTuple

from minigrad.kernels import window as windows
from minigrad.kernels.cuda.tools.language import (
    Choice,
    cuda,
    device_function,
    int32,
    load4,
    real,
    store4,
    uint8,
    uint32,
)
from minigrad.kernels.cuda.tools.launch import FLOAT32, Of, Reals, UInt, UIntWindow, blocks_for, kernel

THREADS = 256
MOST_BLOCKS = 65535  # along a grid's second axis; its blocks go on with further rows
LOWEST = -math.inf

WIDTH = Choice("WIDTH")  # channels of a thread: 1 or 4
PLACES = Choice(
    "PLACES"
)  # winner's type: uint8 or int32, one place each, or for four channels uint32, four places of a byte
UNIT_STRIDE = Choice("UNIT_STRIDE", False)  # whether windows are one pixel apart both ways, which saves divisions


# One channel or four: numbers, or tuples of four of them. `at` counts ones or fours.


@device_function
def load(memory, at):
    if WIDTH == 4:
        return load4(memory, uint32(at * uint32(4)))
    return memory[at]


@device_function
def store(memory, at, values):
    if WIDTH == 4:
        store4(memory, uint32(at * uint32(4)), values[0], values[1], values[2], values[3])
    else:
        memory[at] = values


@device_function
def load_places(winner, at):
    if WIDTH == 4:
        word, byte = winner[at], uint32(255)
        return (
            uint32(word & byte),
            uint32(word >> uint32(8) & byte),
            uint32(word >> uint32(16) & byte),
            uint32(word >> uint32(24)),
        )
    return uint32(winner[at])


@device_function
def store_places(winner, at, places):
    if WIDTH == 4:
        low = places[0] | places[1] << uint32(8)
        winner[at] = uint32(low | places[2] << uint32(16) | places[3] << uint32(24))
    else:
        winner[at] = PLACES(places)


@device_function
def repeated(value):
    """The same in each channel."""
    if WIDTH == 4:
        return value, value, value, value
    return value


@device_function
def larger_one(value, place, best, winner):
    """The larger of two numbers with its place: the first of equals, or the first NaN."""
    if best == best and not value <= best:
        return value, place
    return best, winner


@device_function
def larger(values, place, best, winners):
    if WIDTH == 4:
        a, i = larger_one(values[0], place, best[0], winners[0])
        b, j = larger_one(values[1], place, best[1], winners[1])
        c, k = larger_one(values[2], place, best[2], winners[2])
        d, l = larger_one(values[3], place, best[3], winners[3])  # noqa: E741 - the fourth of i, j, k, l
        return (a, b, c, d), (i, j, k, l)
    return larger_one(values, place, best, winners)


@device_function
def plus(a, b):
    if WIDTH == 4:
        return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
    return a + b


@device_function
def times(values, share):
    if WIDTH == 4:
        return values[0] * share, values[1] * share, values[2] * share, values[3] * share
    return values * share


@device_function
def won_one(value, winner, place):
    return value if winner == place else real(0)


@device_function
def won(values, winners, place):
    """The gradients of windows that a pixel won, 0 for others."""
    if WIDTH == 4:
        return (
            won_one(values[0], winners[0], place),
            won_one(values[1], winners[1], place),
            won_one(values[2], winners[2], place),
            won_one(values[3], winners[3], place),
        )
    return won_one(values, winners, place)


# Who does what


class Over(NamedTuple):
    """A result's tiles along the channels, and rows of all images; the size of what windows go over, in a thread's channels."""

    tiles: UInt
    rows: UInt
    h: UInt
    w: UInt
    c: UInt


@device_function
def own_place(tiles):
    """(channels, column, row) of this thread; `tiles` blocks lie side by side along the channels."""
    block = uint32(cuda.blockIdx.x)
    column = uint32(block // tiles)
    channel = uint32(block - column * tiles)
    return (
        uint32(channel * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x)),
        uint32(column * uint32(cuda.blockDim.y) + uint32(cuda.threadIdx.y)),
        uint32(uint32(cuda.blockIdx.y) * uint32(cuda.blockDim.z) + uint32(cuda.threadIdx.z)),
    )


@device_function
def row_step():
    """How far it is from a row of this thread to its next."""
    return uint32(uint32(cuda.gridDim.y) * uint32(cuda.blockDim.z))


covered = device_function(windows.covered)
covering_at = device_function(windows.covering)


@device_function
def covering(pixel, size, stride, padding, count):
    """covering_at, whose divisions are none by a constant 1."""
    return covering_at(pixel, size, uint32(1) if UNIT_STRIDE else stride, padding, count, uint32)


@kernel(threads=THREADS, min_blocks=4)
def max_forward(
    x: Reals, y: Reals, winner: Of(PLACES), over: Over, window: UIntWindow
):  # fmt: skip
    tiles, rows, h, w, c = over
    k, j, row = own_place(tiles)
    if k < c and j < window.ow:
        columns_before, first_q, last_q = covered(j, window.kw, window.sw, window.left, w, uint32)
        while row < rows:
            image = uint32(row // window.oh)
            rows_before, r, last_r = covered(
                uint32(row - image * window.oh), window.kh, window.sh, window.top, h, uint32
            )
            first_at = uint32(uint32(uint32(image * h + r) * w + first_q) * c + k)
            first_place = uint32(rows_before * window.kw + columns_before)
            best, winners = repeated(real(LOWEST)), repeated(first_place)
            while r < last_r:
                at, place, q = first_at, first_place, first_q
                while q < last_q:
                    best, winners = larger(load(x, at), place, best, winners)
                    at, place, q = uint32(at + c), uint32(place + uint32(1)), uint32(q + uint32(1))
                first_at, first_place, r = (
                    uint32(first_at + w * c),
                    uint32(first_place + window.kw),
                    uint32(r + uint32(1)),
                )
            at = uint32(uint32(row * window.ow + j) * c + k)
            store(y, at, best)
            store_places(winner, at, winners)
            row = uint32(row + row_step())


@kernel(threads=THREADS, min_blocks=4)
def max_backward(
    dy: Reals, winner: Of(PLACES), dx: Reals, over: Over, window: UIntWindow
):  # fmt: skip
    tiles, rows, h, w, c = over
    k, q, row = own_place(tiles)
    if k < c and q < w:
        first_j, last_j = covering(q, window.kw, window.sw, window.left, window.ow)
        while row < rows:
            image = uint32(row // h)
            r = uint32(row - image * h)
            i, last_i = covering(r, window.kh, window.sh, window.top, window.oh)
            total = repeated(real(0))
            while i < last_i:
                at = uint32(uint32(uint32(image * window.oh + i) * window.ow + first_j) * c + k)
                place = uint32(
                    uint32(r + window.top - i * window.sh) * window.kw + uint32(q + window.left - first_j * window.sw)
                )
                j = first_j
                while j < last_j:
                    total = plus(total, won(load(dy, at), load_places(winner, at), place))
                    at, place, j = uint32(at + c), uint32(place - window.sw), uint32(j + uint32(1))
                i = uint32(i + uint32(1))
            store(dx, uint32(uint32(row * w + q) * c + k), total)
            row = uint32(row + row_step())


@kernel(threads=THREADS, min_blocks=4)
def max_take(
    x: Reals, winner: Of(PLACES), y: Reals, over: Over, window: UIntWindow
):  # fmt: skip
    tiles, rows, h, w, c = over
    k, j, row = own_place(tiles)
    if k < c and j < window.ow:
        while row < rows:
            image = uint32(row // window.oh)
            at = uint32(uint32(row * window.ow + j) * c + k)
            place = uint32(winner[at])
            line = uint32(place // window.kw)
            r = uint32(uint32(row - image * window.oh) * window.sh + line - window.top)
            q = uint32(j * window.sw + uint32(place - line * window.kw) - window.left)
            y[at] = x[uint32(uint32(uint32(image * h + r) * w + q) * c + k)]
            row = uint32(row + row_step())


@kernel(threads=THREADS, min_blocks=4)
def mean_forward(
    x: Reals, y: Reals, over: Over, window: UIntWindow
):  # fmt: skip
    tiles, rows, h, w, c = over
    k, j, row = own_place(tiles)
    if k < c and j < window.ow:
        _, first_q, last_q = covered(j, window.kw, window.sw, window.left, w, uint32)
        while row < rows:
            image = uint32(row // window.oh)
            _, r, last_r = covered(uint32(row - image * window.oh), window.kh, window.sh, window.top, h, uint32)
            share = real(1) / real(uint32(uint32(last_r - r) * uint32(last_q - first_q)))
            first_at = uint32(uint32(uint32(image * h + r) * w + first_q) * c + k)
            total = repeated(real(0))
            while r < last_r:
                part = repeated(real(0))  # rows are added up by themselves, which rounds less
                at, q = first_at, first_q
                while q < last_q:
                    part = plus(part, load(x, at))
                    at, q = uint32(at + c), uint32(q + uint32(1))
                total = plus(total, part)
                first_at, r = uint32(first_at + w * c), uint32(r + uint32(1))
            store(y, uint32(uint32(row * window.ow + j) * c + k), times(total, share))
            row = uint32(row + row_step())


@kernel(threads=THREADS, min_blocks=4)
def mean_backward(
    dy: Reals, dx: Reals, over: Over, window: UIntWindow
):  # fmt: skip
    tiles, rows, h, w, c = over
    k, q, row = own_place(tiles)
    if k < c and q < w:
        whole = uint32(window.kh * window.kw)
        share_of_whole = real(1) / real(whole)
        first_j, last_j = covering(q, window.kw, window.sw, window.left, window.ow)
        while row < rows:
            image = uint32(row // h)
            i, last_i = covering(uint32(row - image * h), window.kh, window.sh, window.top, window.oh)
            total = repeated(real(0))
            while i < last_i:
                _, first_r, last_r = covered(i, window.kh, window.sh, window.top, h, uint32)
                at = uint32(uint32(uint32(image * window.oh + i) * window.ow + first_j) * c + k)
                j = first_j
                while j < last_j:
                    _, first_q, last_q = covered(j, window.kw, window.sw, window.left, w, uint32)
                    count = uint32(uint32(last_r - first_r) * uint32(last_q - first_q))
                    share = share_of_whole
                    if count != whole:  # only windows that reach over an edge cost a division
                        share = real(1) / real(count)
                    total = plus(total, times(load(dy, at), share))
                    at, j = uint32(at + c), uint32(j + uint32(1))
                i = uint32(i + uint32(1))
            store(dx, uint32(uint32(row * w + q) * c + k), total)
            row = uint32(row + row_step())


# {(channels of a thread, bytes of a place): kernel}
MAX_FORWARD = {
    (1, 1): max_forward.variant(WIDTH=1, PLACES=uint8),
    (1, 4): max_forward.variant(WIDTH=1, PLACES=int32),
    (4, 1): max_forward.variant(WIDTH=4, PLACES=uint32, types=(FLOAT32,)),
}
# {(channels of a thread, bytes of a place, windows one pixel apart): kernel}
MAX_BACKWARD = {
    (1, 1, False): max_backward.variant(WIDTH=1, PLACES=uint8),
    (1, 4, False): max_backward.variant(WIDTH=1, PLACES=int32),
    (4, 1, False): max_backward.variant(WIDTH=4, PLACES=uint32, types=(FLOAT32,)),
    (4, 1, True): max_backward.variant(WIDTH=4, PLACES=uint32, UNIT_STRIDE=True, types=(FLOAT32,)),
}
# {bytes of a place: kernel}
MAX_TAKE = {1: max_take.variant(PLACES=uint8), 4: max_take.variant(PLACES=int32)}
MEAN_FORWARD = {1: mean_forward.variant(WIDTH=1), 4: mean_forward.variant(WIDTH=4, types=(FLOAT32,))}
MEAN_BACKWARD = {
    (1, False): mean_backward.variant(WIDTH=1),
    (4, False): mean_backward.variant(WIDTH=4, types=(FLOAT32,)),
    (4, True): mean_backward.variant(WIDTH=4, UNIT_STRIDE=True, types=(FLOAT32,)),
}


def width_for(*arrays):
    """Channels of a thread, 4 where the arrays' last axis and addresses allow it."""
    fits = all(a.shape[3] % 4 == 0 and a.dtype == FLOAT32 and a.pointer % 16 == 0 for a in arrays)
    return 4 if fits else 1


def next_power_of_two(n):
    """The smallest that is no smaller than n."""
    return 1 << (n - 1).bit_length()


def blocks_over(result, groups):
    """(grid, block, tiles along the channels, rows of all images) for a thread at each group of the result's channels."""
    n, h, w, _ = result.shape
    x = min(next_power_of_two(groups), 8 if groups < result.shape[3] else 16)
    y = min(next_power_of_two(w), 32 // x)
    z = min(next_power_of_two(n * h), THREADS // (x * y), 64)
    tiles = blocks_for(groups, x)
    return (tiles * blocks_for(w, y), blocks_for(n * h, z, MOST_BLOCKS)), (x, y, z), tiles, n * h


def launch_over(result, kernel, width, arrays, image, window):
    """Launch a kernel over the result; `image` is what the window goes over."""
    groups = result.shape[3] // width
    grid, block, tiles, rows = blocks_over(result, groups)
    kernel[grid, block](*arrays, Over(tiles, rows, *image.shape[1:3], groups), window)


def max_pool_forward(x, window, y, winner):
    if y.size == 0:
        return
    width = width_for(x, y) if winner.itemsize == 1 and winner.pointer % 4 == 0 else 1
    launch_over(y, MAX_FORWARD[width, winner.itemsize], width, (x, y, winner), x, window)


def max_pool_backward(dy, winner, window, dx):
    if dx.size == 0:
        return
    width = width_for(dy, dx) if winner.itemsize == 1 and winner.pointer % 4 == 0 else 1
    kernel = MAX_BACKWARD[width, winner.itemsize, width == 4 and window.sh == window.sw == 1]
    launch_over(dx, kernel, width, (dy, winner, dx), dx, window)


def max_pool_take(x, winner, window, y):
    if y.size == 0:
        return
    launch_over(y, MAX_TAKE[winner.itemsize], 1, (x, winner, y), x, window)


def avg_pool_forward(x, window, y):
    if y.size == 0:
        return
    width = width_for(x, y)
    launch_over(y, MEAN_FORWARD[width], width, (x, y), x, window)


def avg_pool_backward(dy, window, dx):
    if dx.size == 0:
        return
    width = width_for(dy, dx)
    kernel = MEAN_BACKWARD[width, width == 4 and window.sh == window.sw == 1]
    launch_over(dx, kernel, width, (dy, dx), dx, window)
