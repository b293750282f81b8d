"""Convolution in float32 with fewer multiplications: Winograd's F(4 x 4, 3 x 3) and F(2 x 2, 5 x 5), by the size of the window.

A tile of 4 x 4 outputs, or with 5 x 5 windows of 2 x 2, depends on 6 x 6 pixels. Transformed, the tile costs 36 products for
each pair of channels, where the direct way has 144 or 100. For each of the 36 places in a tile there is a matrix product, of
tiles by channels, on the micro-kernels of vector/tiles.py; a block of tiles goes through all of it while it is in the cache.
The gradient of the weights goes the same way: there the pixels meet the gradients of the outputs, and the products are summed
over the tiles.

The sums are those of other numbers than the direct way's, with twice its error or so. What is not finite in a pixel makes NaNs
or infinities of the outputs whose windows see it and, with 3 x 3 windows, of all outputs of the tile that has it among its
middle 4 x 4 pixels, so of some that are up to two pixels beyond the windows. Gradients of the weights are sums of all places,
so all taps of a pair of channels are lost to it, also those that it does not meet at an edge.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts.panels import (
    NO_BIAS,
    convolution_is_large,
    gradient_of_weights_is_large,
    pack_transposed,
    panel,
    panel_at,
    split,
    tiles_down,
)
from minigrad.kernels.cpu.tools.launch import FLAGS, CpuKernel, inlined, team_size
from minigrad.kernels.cpu.tools.pointers import element_at, keep, pixel_at, row_at
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import touch
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.tiles import HEIGHTS, tile_rows
from minigrad.kernels.cpu.vector.winograd import (
    PIXELS_ACROSS,
    TAPS,
    outputs_across,
    transform_outputs,
    transform_pixels,
    transform_result,
    transform_weights,
    transform_window,
)

PLACES = PIXELS_ACROSS**2  # in a tile
ROWS = 24  # a multiple of all tile heights of the products
BLOCK_BYTES = 3 << 17  # of transformed tiles that are worked on together
SAME_SETS = 4096  # bytes from one address to the next whose lines fall into the same set of the first-level cache
APART = 192  # bytes more than a multiple of that from place to place: the lines of a tile fall into sets of their own
LEAST_CHANNELS = 8  # on both sides, and
LEAST_WEIGHTS = 128 if REGISTER_BITS == 512 else 256  # of a place, for transforms to pay; and
LEAST_TARGET = {3: 8, 5: 12}  # channels of the target, by the window: with fewer, pairs of pixels (conv.py) are as fast
LEAST_TILES = 16
LEAST_SAVED = 2.2  # times as many products the direct way, with the pixels of the last tiles that lie outside the image
MOST_SUMS = 1 << 22  # elements of all parts of the gradient of the weights together
PART_TILES = 256  # of a part, at least


def pays(source, target, window):
    """Whether a convolution goes this way."""
    if source.dtype != np.float32 or window.kh != window.kw or window.kh not in TAPS:
        return False
    n, oh, ow, k = target.shape
    c = source.shape[3]
    across = outputs_across(window.kh)
    tiles = n * -(-oh // across) * -(-ow // across)
    return (
        window.sh == window.sw == window.dil_h == window.dil_w == 1
        and c >= LEAST_CHANNELS
        and k >= LEAST_TARGET[window.kh]
        and c * k >= LEAST_WEIGHTS
        and tiles >= LEAST_TILES
        and n * oh * ow * window.kh**2 >= LEAST_SAVED * PLACES * tiles
    )


@inlined
def block_tiles(channels, item):
    """Tiles that are worked on together, with so many channels on both sides."""
    return max(2, BLOCK_BYTES // (PLACES * item * channels * ROWS)) * ROWS


@inlined
def place_step(elements, item):
    """Elements from one place to the next, of which each has so many."""
    return (-(-elements * item // SAME_SETS) * SAME_SETS + APART) // item


@inlined
def find_tiles(x, t, most, across, down, step, size, top, left, outside, table):
    """Where the size x size pixels from (step i - top, step j - left) on lie, of tile t and of those beside it.

    (tiles, at most `most`, address of a table of their pixels or 0, address of the first pixel). Tiles that lie in the image
    come together, since their pixels need no table; another one comes alone, with `outside` for what is not in the image.
    """
    _, h, w, c = x.shape
    image, inside = t // (across * down), t % (across * down)
    row, column = inside // across * step - top, inside % across * step - left
    first = pixel_at(x, image, row, column)
    if row >= 0 and column >= 0 and row + size <= h and column + size <= w:
        return min(most, across - inside % across, (w - size - column) // step + 1), 0, first
    for a in range(size):
        for b in range(size):
            i, j = row + a, column + b
            if 0 <= i < h and 0 <= j < w:
                table[a * size + b] = first + (a * w + b) * c * x.itemsize
            else:
                table[a * size + b] = outside
    return 1, table.ctypes.data, first


@inlined
def pixels_to_places(x, t0, count, across, down, step, top, left, zeros, table, places):
    """The pixels of tiles t0:t0 + count, transformed: rows 0:count of a matrix (tiles, c) for each place."""
    _, _, w, c = x.shape
    pixel = c * np.intp(x.itemsize)
    t = 0
    while t < count:
        some, found, first = find_tiles(
            x, t0 + t, count - t, across, down, step, PIXELS_ACROSS, top, left, zeros.ctypes.data, table
        )
        transform_pixels(
            x.dtype, found, first, w * pixel, pixel, step, element_at(places, 0, t * c), places.strides[0], c, some
        )
        t += some
    keep(zeros)
    keep(table)


@inlined
def touch_pixels(x, t0, t1, across, down, step, size, top):
    """Have the rows of pixels of tiles t0:t1 in the cache."""
    n, h, w, c = x.shape
    first = t0 // (across * down) * h + t0 % (across * down) // across * step - top
    last = (t1 - 1) // (across * down) * h + (t1 - 1) % (across * down) // across * step - top + size
    first, last = max(first, 0), min(last, n * h)
    touch(row_at(x, first * w), (last - first) * w * c * x.itemsize)


@inlined
def find_places(start, step, table):
    """Addresses one step apart."""
    for i in range(table.size):
        table[i] = start + i * step


@inlined
def find_rows(matrices, i, table):
    """Addresses of row i of each of many matrices (places, rows, columns)."""
    find_places(row_at(matrices, i), matrices.strides[0], table)


def convolve(source, w, bias, target, top, left, transposed):
    """target = source convolved with w, whose padding is (top, left); with `transposed`, with w turned round, as for dx."""
    n, c = source.shape[0], source.shape[3]
    _, oh, ow, k = target.shape
    dtype = target.dtype
    item = np.intp(target.itemsize)
    lanes = vector_lanes(dtype)
    vectors, panels = split(k, dtype)
    taps = w.shape[0]
    step = PIXELS_ACROSS + 1 - taps  # outputs of a tile on an axis
    # 1. The weights, transformed: one matrix (c, k) for each place, in panels.
    rows, columns = w.shape[2], w.shape[3]
    packed = np.empty((PLACES, vectors * lanes * c), dtype)
    if transposed:
        plain = np.empty((PLACES, rows, columns), dtype)
        for r in prange(rows):
            sources, targets = np.empty(taps * taps, np.int64), np.empty(PLACES, np.int64)
            find_places(
                row_at(w, (taps * taps - 1) * rows + r), -rows * columns * item, sources
            )  # from the last tap to the first
            find_rows(plain, r, targets)
            transform_window(dtype, taps, sources.ctypes.data, targets.ctypes.data, columns)
            keep(sources)
            keep(targets)
        for task in prange(PLACES * panels):
            pack_transposed(plain[task // panels], task % panels, packed[task // panels])
    else:
        packed[:] = 0
        for r in prange(rows):
            sources, targets = np.empty(taps * taps, np.int64), np.empty(PLACES, np.int64)
            for p in range(panels):
                j, wide, _ = panel(p, k, dtype)
                find_places(row_at(w, r) + j * item, rows * columns * item, sources)
                find_places(panel_at(packed, j, c) + r * wide * lanes * item, packed.strides[0], targets)
                count = min(wide * lanes, columns - j)
                transform_window(dtype, taps, sources.ctypes.data, targets.ctypes.data, count)
    # 2. Each thread takes one block of tiles after another through all of it.
    down, across = -(-oh // step), -(-ow // step)
    tiles = n * down * across
    size = block_tiles(c + k, item)
    blocks = (tiles + size - 1) // size
    threads = team_size()
    for thread in prange(threads):
        block = np.empty(PLACES * (place_step(size * c, item) + place_step(size * k, item)), dtype)
        zeros, spare, table = np.zeros(c, dtype), np.empty(k, dtype), np.empty(PLACES, np.int64)
        pixels = block[: PLACES * place_step(size * c, item)].reshape((PLACES, -1))
        results = block[pixels.size :].reshape((PLACES, -1))
        rows_of = np.empty((2, size), np.int64)  # addresses of the rows of both at the first place
        for r in range(size):
            rows_of[0, r], rows_of[1, r] = element_at(pixels, 0, r * c), element_at(results, 0, r * k)
        tap = np.array([0, 0, c])  # from there to another place, and the depth of a product
        for b in range(thread * blocks // threads, (thread + 1) * blocks // threads):
            t0 = b * size
            count = min(size, tiles - t0)
            # 3. The pixels, transformed: one matrix (tiles, c) for each place. A tile reaches into the padding, which is zero.
            touch_pixels(source, t0, t0 + count, across, down, step, PIXELS_ACROSS, top)
            pixels_to_places(source, t0, count, across, down, step, top, left, zeros, table, pixels)
            # 4. The products of these matrices: (tiles, c) (c, k) -> (tiles, k) for each place.
            for place in range(PLACES):
                tap[0] = place * pixels.strides[0]
                for p in range(panels):
                    j, wide, used = panel(p, k, dtype)
                    weights, shift = panel_at(packed[place], j, c), place * results.strides[0] + j * item
                    for r in range(0, count, HEIGHTS[wide]):
                        tile_rows(
                            dtype, wide, min(HEIGHTS[wide], count - r), element_at(rows_of, 0, r), element_at(rows_of, 1, r),
                            shift, 0, tap.ctypes.data, 1, weights, wide * lanes * item, used, None,
                        )  # fmt: skip
            # 5. Back to pixels of the target; those beyond its edge are written where nobody looks.
            t = 0
            while t < count:
                some, found, first = find_tiles(
                    target, t0 + t, count - t, across, down, step, step, 0, 0, spare.ctypes.data, table
                )
                transform_result(
                    dtype, taps, found, first, ow * k * item, k * item, element_at(results, 0, t * k), results.strides[0],
                    k, some, bias.ctypes.data if bias.size else 0,
                )  # fmt: skip
                t += some
        keep(table)
        keep(tap)
        keep(rows_of)
        keep(pixels)
        keep(results)


def prepare_forward(x, w, bias, window, y):
    return x, w, bias, y, window.top, window.left, False


def prepare_backward_x(dy, w, window, dx):
    return dy, w, NO_BIAS[dy.dtype], dx, window.kh - 1 - window.top, window.kw - 1 - window.left, True


winograd_forward = CpuKernel(convolve, FLAGS, is_large=convolution_is_large, prepare=prepare_forward)
winograd_backward_x = CpuKernel(
    convolve, FLAGS, is_large=convolution_is_large, prepare=prepare_backward_x, shares=winograd_forward
)


def reduce_tiles(x, dy, dw, top, left):
    """dw = sum over tiles of pixels times gradients, transformed; summed up in parts that depend on shapes alone."""
    n, oh, ow, k = dy.shape
    c = x.shape[3]
    dtype = dw.dtype
    item = np.intp(dw.itemsize)
    taps = dw.shape[0]
    step = PIXELS_ACROSS + 1 - taps
    down, across = -(-oh // step), -(-ow // step)
    tiles = n * down * across
    # 1. A part sums over some of the tiles, block after block: one matrix (c, k) for each place. Blocks take up no less memory
    # than the sums, which each of them goes over.
    size = max(block_tiles(c + k, item), -(-c * k // ((c + k) * ROWS)) * ROWS)
    parts = max(2, min(16, tiles // PART_TILES, MOST_SUMS // (PLACES * c * k)))
    sums = np.empty((parts, PLACES, c, k), dtype)
    for part in prange(parts):
        block = np.empty(PLACES * (place_step(size * c, item) + place_step(size * k, item)), dtype)
        zeros, table = np.zeros(max(c, k), dtype), np.empty(PLACES, np.int64)
        pixels = block[: PLACES * place_step(size * c, item)].reshape((PLACES, -1))
        gradients = block[pixels.size :].reshape((PLACES, -1))
        begin, last = part * tiles // parts, (part + 1) * tiles // parts
        for t0 in range(begin, last, size):
            count = min(size, last - t0)
            # 2. Pixels and gradients, transformed: matrices (tiles, c) and (tiles, k).
            touch_pixels(x, t0, t0 + count, across, down, step, PIXELS_ACROSS, top)
            touch_pixels(dy, t0, t0 + count, across, down, step, step, 0)
            pixels_to_places(x, t0, count, across, down, step, top, left, zeros, table, pixels)
            t = 0
            while t < count:
                some, found, first = find_tiles(
                    dy, t0 + t, count - t, across, down, step, step, 0, 0, zeros.ctypes.data, table
                )
                transform_outputs(
                    dtype, taps, found, first, ow * k * item, k * item, element_at(gradients, 0, t * k), gradients.strides[0],
                    k, some,
                )  # fmt: skip
                t += some
            # 3. Their products over the tiles, added to the sums.
            for place in range(PLACES):
                for p in range(split(k, dtype)[1]):
                    j, wide, used = panel(p, k, dtype)
                    tiles_down(
                        dtype, wide, True, row_at(pixels, place), c * item, c, count,
                        element_at(gradients, place, j), k * item, 0,
                        element_at(sums[part, place], 0, j), k * item, used, t0 > begin, 0, 0,
                    )  # fmt: skip
    # 4. The parts in order, and back to the window's weights.
    for r in prange(c):
        for part in range(1, parts):
            for place in range(PLACES):
                for j in range(k):
                    sums[0, place, r, j] += sums[part, place, r, j]
        sources, targets = np.empty(PLACES, np.int64), np.empty(taps * taps, np.int64)
        find_rows(sums[0], r, sources)
        find_rows(dw.reshape((taps * taps, c, k)), r, targets)
        transform_weights(dtype, taps, sources.ctypes.data, targets.ctypes.data, k)
        keep(sources)
        keep(targets)


def prepare_backward_w(x, dy, window, dw):
    return x, dy, dw, window.top, window.left


winograd_backward_w = CpuKernel(
    reduce_tiles,
    FLAGS,
    is_large=gradient_of_weights_is_large,
    prepare=prepare_backward_w,
)
