"""Depthwise convolution; see kernels/reference/depthwise.py.

Forward and the gradient of the image go over the pixels of their result as pooling does (kernels/cuda/pool.py): one thread
computes four neighbouring channels of a pixel, or one where the channels are no multiple of four, where a channel of x gives
several of y, and in float64. It goes over the taps of the window in a fixed order and adds up what it finds in the image;
neighbouring threads read neighbouring memory, and what windows share comes from the L1 cache.

The gradient of the weights is, for each tap, a sum down the columns of (pixels of y, channels), by the means of
kernels/cuda/parts/columns.py. Chunks of pixels, of a length that depends on the shape alone, are summed up by one block for
each tap, and what they gave by `reduce`, in order. There are no atomics.
"""

from typing import NamedTuple

from minigrad.kernels.cuda import reduce
from minigrad.kernels.cuda.parts.columns import (
    add_down,
    by_fours,
    in_fours,
    my_columns,
    owned_columns,
    place_in_block,
    read,
    tile,
    write,
)
from minigrad.kernels.cuda.pool import (
    THREADS,
    WIDTH,
    blocks_over,
    load,
    own_place,
    repeated,
    row_step,
    store,
    width_for,
)
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, real, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT32, Reals, UInt, UIntWindow, kernel

ONE_EACH = Choice("ONE_EACH")  # whether a channel of x gives one of y, which saves divisions
BLOCKS = 1024  # that share out the pixels for the gradient of the weights, at most; reckoned, not measured
LEAST = 16  # pixels of a thread, at least


class Images(NamedTuple):
    """The size of x, its channels and those of y in as many as a thread has, and how many of y one of x gives."""

    h: UInt
    w: UInt
    c: UInt
    k: UInt
    m: UInt


@device_function
def plus_product(total, a, b):
    if WIDTH == 4:
        return total[0] + a[0] * b[0], total[1] + a[1] * b[1], total[2] + a[2] * b[2], total[3] + a[3] * b[3]
    return total + a * b


@device_function
def source_of(channel, m):
    """The channel of x that a channel of y sees."""
    return channel if ONE_EACH else uint32(channel // m)


@kernel(threads=THREADS, min_blocks=4)
def forward(
    x: Reals, w: Reals, bias: Reals, y: Reals, tiles: UInt, rows: UInt, images: Images, window: UIntWindow,
    biased: UInt,
):  # fmt: skip
    h, width, c, k, m = images
    q, j, row = own_place(tiles)
    if q < k and j < window.ow:
        own = source_of(q, m)
        while row < rows:
            image = uint32(row // window.oh)
            i = uint32(row - image * window.oh)
            total = repeated(real(0))
            if biased != uint32(0):
                total = load(bias, q)
            a = uint32(0)
            while a < window.kh:
                r = uint32(i * window.sh + a * window.dil_h - window.top)
                if r < h:
                    b = uint32(0)
                    while b < window.kw:
                        column = uint32(j * window.sw + b * window.dil_w - window.left)
                        if column < width:
                            pixel = load(x, uint32(uint32(uint32(image * h + r) * width + column) * c + own))
                            total = plus_product(total, pixel, load(w, uint32(uint32(a * window.kw + b) * k + q)))
                        b = uint32(b + uint32(1))
                a = uint32(a + uint32(1))
            store(y, uint32(uint32(row * window.ow + j) * k + q), total)
            row = uint32(row + row_step())


@kernel(threads=THREADS, min_blocks=4)
def backward_x(
    dy: Reals, w: Reals, dx: Reals, tiles: UInt, rows: UInt, images: Images, window: UIntWindow
):  # fmt: skip
    h, width, c, k, m = images
    own, column, row = own_place(tiles)
    if own < c and column < width:
        while row < rows:
            image = uint32(row // h)
            r = uint32(row - image * h)
            total = repeated(real(0))
            a = uint32(0)
            while a < window.kh:
                i_moved = uint32(r + window.top - a * window.dil_h)
                i = uint32(i_moved // window.sh)
                if i < window.oh and uint32(i * window.sh) == i_moved:
                    b = uint32(0)
                    while b < window.kw:
                        j_moved = uint32(column + window.left - b * window.dil_w)
                        j = uint32(j_moved // window.sw)
                        if j < window.ow and uint32(j * window.sw) == j_moved:
                            pixel = uint32(uint32(uint32(image * window.oh + i) * window.ow + j) * k + own * m)
                            tap = uint32(uint32(a * window.kw + b) * k + own * m)
                            p = uint32(0)
                            while p < m:
                                total = plus_product(total, load(dy, uint32(pixel + p)), load(w, uint32(tap + p)))
                                p = uint32(p + uint32(1))
                        b = uint32(b + uint32(1))
                a = uint32(a + uint32(1))
            store(dx, uint32(uint32(row * width + column) * c + own), total)
            row = uint32(row + row_step())


def backward_w(
    x: Reals, dy: Reals, sums: Reals, pixels: UInt, images: Images, window: UIntWindow, chunk: UInt
):  # fmt: skip
    h, width, c, k, m = images
    taps = uint32(window.kh * window.kw)
    part = uint32(uint32(cuda.blockIdx.x) // taps)
    tap = uint32(uint32(cuda.blockIdx.x) - part * taps)
    a = uint32(tap // window.kw)
    b = uint32(tap - a * window.kw)
    place = place_in_block(cuda.blockIdx.y)
    q = my_columns(k, place)
    own = source_of(q[0], m), source_of(q[1], m), source_of(q[2], m), source_of(q[3], m)
    total = real(0), real(0), real(0), real(0)
    p = uint32(part * chunk + place.y)
    end = uint32(min(pixels, uint32(uint32(part + uint32(1)) * chunk)))
    while p < end:
        row = uint32(p // window.ow)
        j = uint32(p - row * window.ow)
        image = uint32(row // window.oh)
        i = uint32(row - image * window.oh)
        r = uint32(i * window.sh + a * window.dil_h - window.top)
        column = uint32(j * window.sw + b * window.dil_w - window.left)
        if r < h and column < width:
            g = read(dy, uint32(p * k), q)
            v = read(x, uint32(uint32(uint32(image * h + r) * width + column) * c), own)
            total = total[0] + g[0] * v[0], total[1] + g[1] * v[1], total[2] + g[2] * v[2], total[3] + g[3] * v[3]
        p = uint32(p + place.down)
    total = add_down(total, place)
    if place.y == uint32(0):
        write(sums, uint32(uint32(cuda.blockIdx.x) * k), q, owned_columns(k, place), total)


# {(channels of a thread, whether a channel of x gives one of y): kernel}
FORWARD = {
    (1, False): forward.variant(WIDTH=1, ONE_EACH=False),
    (1, True): forward.variant(WIDTH=1, ONE_EACH=True),
    (4, True): forward.variant(WIDTH=4, ONE_EACH=True, types=(FLOAT32,)),
}
# {channels of a thread: kernel}
BACKWARD_X = {1: backward_x.variant(WIDTH=1), 4: backward_x.variant(WIDTH=4, types=(FLOAT32,))}
# {whether channels are read by fours: kernel}
BACKWARD_W = {fours: made.variant(ONE_EACH=fours) for fours, made in by_fours(backward_w).items()}


def widths(x, y, *others):
    """(channels of y to one of x, channels of a thread)."""
    m = y.shape[3] // x.shape[3]
    return m, width_for(x, y, *others) if m == 1 else 1


def depthwise_forward(x, w, bias, window, y):
    if y.size == 0:
        return
    m, width = widths(x, y, w)
    if bias.size and bias.pointer % 16:
        width = 1
    groups = y.shape[3] // width
    grid, block, tiles, rows = blocks_over(y, groups)
    FORWARD[width, m == 1][grid, block](
        x, w, bias, y, tiles, rows, Images(*x.shape[1:3], x.shape[3] // width, groups, m), window, int(bias.size > 0)
    )


def depthwise_backward_x(dy, w, window, dx):
    if dx.size == 0:
        return
    m, width = widths(dx, dy, w)
    groups = dx.shape[3] // width
    grid, block, tiles, rows = blocks_over(dx, groups)
    BACKWARD_X[width][grid, block](
        dy, w, dx, tiles, rows, Images(*dx.shape[1:3], groups, dy.shape[3] // width, m), window
    )


def depthwise_backward_w(x, dy, window, dw):
    if dw.size == 0:
        return
    n, oh, ow, k = dy.shape
    h, width, c = x.shape[1:]
    taps = window.kh * window.kw
    (parts, panels), block, chunk = tile(n * oh * ow, k, BLOCKS, LEAST)
    sums = dw.reshape(1, taps, k) if parts == 1 else context.empty((parts, taps, k), dw.dtype)
    fours = k == c and in_fours(k, 0, 0, dy, x, sums)
    BACKWARD_W[fours][(parts * taps, panels), block](
        x, dy, sums, n * oh * ow, Images(h, width, c, k, k // c), window, chunk
    )
    if parts > 1:
        reduce.sum_forward(sums.reshape(1, parts, taps * k), dw.reshape(1, taps * k))


def depthwise_backward(x, dy, w, window, dx, dw):
    depthwise_backward_x(dy, w, window, dx)
    depthwise_backward_w(x, dy, window, dw)
