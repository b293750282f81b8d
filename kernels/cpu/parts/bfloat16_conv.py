"""Convolution whose factors are rounded to bfloat16, on words of two of them (vector/bfloat16.py).

Forward, and for the gradient of the image, two neighbouring channels of a pixel make a word: the source is rounded once, pixel
by pixel, to half its size, and then gathered (parts/gather.py) as if it had half the channels. For the gradient of the weights
two neighbouring outputs of a row make a word, and so does every pixel with the one a stride further on, whichever taps meet
them; of a block of rows both are rounded, and multiplied tap by tap. There what lies outside the image is zeros, so a pixel or
a dy that is not finite can make NaNs of the gradients of all taps of its channels, also of those that do not meet it.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts.gather import (
    backward_axis,
    forward_axis,
    gather_plan,
    gather_share,
    pack_weights_transposed,
)
from minigrad.kernels.cpu.parts.panels import (
    NO_BIAS,
    convolution_is_large,
    gradient_of_weights_is_large,
    panel,
    panel_at,
    split,
)
from minigrad.kernels.cpu.tools.launch import FLAGS, CpuKernel, inlined, team_size
from minigrad.kernels.cpu.tools.pointers import keep, pixel_at, row_at
from minigrad.kernels.cpu.vector.bfloat16 import pair_rows, round_row
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.tiles import COLUMN_HEIGHTS, tile_cols

WORD = 4  # bytes
PAIRS = 64  # of outputs that a tap's product is of at a time: what a tile reads of them stays in the first-level cache
PART_PAIRS = 1024  # of a part, at least
MOST_PARTS = 32
MOST_SUMS = 1 << 22  # elements of all parts together


@inlined
def round_pixels(x, r0, r1, words):
    """The words of pixels r0:r1 of images, or of rows of weights, counted through all axes but the last."""
    c = x.shape[-1]
    if c % 2 == 0:  # one row
        round_row(x.dtype, row_at(x, r0), (r1 - r0) * c, row_at(words, r0))
    else:
        for r in range(r0, r1):
            round_row(x.dtype, row_at(x, r), c, row_at(words, r))


def prepare_forward(x, w, bias, window, y):
    plan = gather_plan(forward_axis, x.shape[1:3], window, (x.shape[3] + 1) // 2, WORD)
    return x, w, bias, y, False, *plan


def prepare_backward_x(dy, w, window, dx):
    plan = gather_plan(backward_axis, dx.shape[1:3], window, (dy.shape[3] + 1) // 2, WORD)
    return dy, w, NO_BIAS[dy.dtype], dx, True, *plan


def convolve(source, w, bias, target, transposed, groups, positions, taps):
    """target[pixel] = bias + sum over the taps of its group of source[pixel, tap] B[tap]; with `transposed`, as for dx."""
    n, height, width, c = source.shape
    kh, kw, rows, columns = w.shape
    k = target.shape[3]
    pairs = (c + 1) // 2
    words = np.empty((n, height, width, pairs), np.uint32)
    for row in prange(n * height):
        round_pixels(source, row * width, (row + 1) * width, words)
    # The weights as a matrix (taps x pairs of channels of the source, channels of the target) in panels.
    dtype, lanes = words.dtype, vector_lanes(words.dtype)
    vectors, panels = split(k, dtype)
    depth = kh * kw * pairs
    packed = np.empty(vectors * lanes * depth, np.uint32)
    if transposed:
        turned = np.empty((kh, kw, rows, pairs), np.uint32)
        for tap in prange(kh * kw):
            round_pixels(w, tap * rows, (tap + 1) * rows, turned)
        for p in prange(panels):
            pack_weights_transposed(turned, p, packed)
    else:
        for p in prange(panels):
            j, wide, used = panel(p, k, dtype)
            for tap in range(kh * kw):
                for q in range(pairs):
                    first, both = row_at(w, tap * c + 2 * q) + j * WORD, 1 if 2 * q + 1 < c else 0
                    target_row = panel_at(packed, j, depth) + (tap * pairs + q) * wide * lanes * WORD
                    pair_rows(w.dtype, first, first + columns * WORD, both, (wide - 1) * lanes + used, target_row)
    threads = team_size()
    for t in prange(threads):
        gather_share(words, target, bias, packed, groups, positions, taps, depth, t, threads)


forward = CpuKernel(convolve, FLAGS, is_large=convolution_is_large, prepare=prepare_forward)
backward_x = CpuKernel(convolve, FLAGS, is_large=convolution_is_large, prepare=prepare_backward_x, shares=forward)


def prepare_backward_w(x, dy, window, dw):
    return x, dy, dw, window.sh, window.sw, window.dil_h, window.dil_w, window.top, window.left


@inlined
def pair_pixels(x, image, row, left, stride, columns, zeros, words):
    """words[q] = the words of pixels q - left and q - left + stride of a row of an image, with zeros outside."""
    _, h, w, c = x.shape
    for q in range(columns):
        j = q - left
        inside = 0 <= row < h
        first = pixel_at(x, image, row, j) if inside and 0 <= j < w else zeros
        second = pixel_at(x, image, row, j + stride) if inside and 0 <= j + stride < w else zeros
        pair_rows(x.dtype, first, second, 1, c, row_at(words, q))


@inlined
def pair_outputs(dy, image, row, pairs, block, place, words):
    """Row `row` of dy in words: pairs of neighbours, in panels of `block` rows from row `place` on."""
    _, _, ow, k = dy.shape
    dtype = words.dtype
    lanes = vector_lanes(dtype)
    for p in range(split(k, dtype)[1]):
        j, wide, used = panel(p, k, dtype)
        for q in range(pairs):
            both = 1 if 2 * q + 1 < ow else 0
            first = pixel_at(dy, image, row, 2 * q) + j * WORD
            target = panel_at(words, j, block) + (place + q) * wide * lanes * WORD
            pair_rows(dy.dtype, first, first + k * WORD, both, (wide - 1) * lanes + used, target)


def reduce_pixels(x, dy, dw, stride_h, stride_w, dilation_h, dilation_w, top, left):
    """dw[tap] = sum over the outputs of x[the pixel that it meets at the tap] (c) times dy[output] (k), in parts."""
    n, oh, ow, k = dy.shape
    kh, kw, c, _ = dw.shape
    taps = kh * kw
    lanes, (vectors, panels) = vector_lanes(dw.dtype), split(k, dw.dtype)
    # 1. A block is some rows of one image, or some images: of each tap's product it is that many pairs of outputs.
    pairs = (ow + 1) // 2
    rows = max(1, min(oh, PAIRS // pairs))
    images = max(1, min(n, PAIRS // (oh * pairs))) if rows == oh else 1
    blocks_down, blocks_along = -(-oh // rows), -(-n // images)
    # 2. Its words: of pixels each with the one a stride further on, in an odd number of cache lines, and of neighbours in dy.
    across = (-(-c // lanes) | 1) * lanes
    high = (rows - 1) * stride_h + (kh - 1) * dilation_h + 1
    wide_x = (pairs - 1) * 2 * stride_w + (kw - 1) * dilation_w + 1
    # 3. A task is some of the blocks; where there are more threads than such parts, they share out the taps as well.
    blocks = blocks_down * blocks_along
    parts = max(1, min(MOST_PARTS, blocks * rows * pairs * images // PART_PAIRS, blocks, MOST_SUMS // (taps * c * k)))
    sides = min(taps, -(-team_size() // parts))
    sums = np.empty((parts, taps, c, k), dw.dtype)
    for task in prange(parts * sides):
        part, side = task // sides, task % sides
        x_words = np.empty((images, high, wide_x, across), np.uint32)
        dy_words = np.empty(images * rows * pairs * vectors * lanes, np.uint32)
        zeros = np.zeros(c, x.dtype)
        first = part * blocks // parts
        for block in range(first, (part + 1) * blocks // parts):
            n0, i0 = block // blocks_down * images, block % blocks_down * rows
            some, down = min(images, n - n0), min(rows, oh - i0)
            for image in range(some):
                for r in range((down - 1) * stride_h + (kh - 1) * dilation_h + 1):
                    row = i0 * stride_h + r - top
                    pair_pixels(x, n0 + image, row, left, stride_w, wide_x, zeros.ctypes.data, x_words[image, r])
                for r in range(down):
                    place = (image * down + r) * pairs
                    pair_outputs(dy, n0 + image, i0 + r, pairs, some * down * pairs, place, dy_words)
            # 4. Of each tap the product of both, over the images, rows and pairs of the block.
            for tap in range(side * taps // sides, (side + 1) * taps // sides):
                a = row_at(x_words, (tap // kw * dilation_h) * wide_x + tap % kw * dilation_w)
                for p in range(panels):
                    j, wide, used = panel(p, k, dw.dtype)
                    step = wide * lanes * WORD
                    tall = COLUMN_HEIGHTS[wide]
                    for i in range(0, c, tall):
                        tile_cols(
                            x_words.dtype, wide, a + i * WORD, panel_at(dy_words, j, some * down * pairs),
                            (some, high * wide_x * across * WORD, down * pairs * step),
                            (down, stride_h * wide_x * across * WORD, pairs * step),
                            (pairs, 2 * stride_w * across * WORD, step),
                            row_at(sums, (part * taps + tap) * c + i) + j * WORD, k * WORD, min(tall, c - i), used,
                            1 if block > first else 0, 0, 0,
                        )  # fmt: skip
        keep(x_words)
        keep(dy_words)
        keep(zeros)
    # 5. The parts in order.
    for row in prange(taps * c):
        tap, i = row // c, row % c
        for j in range(k):
            total = sums[0, tap, i, j]
            for part in range(1, parts):
                total += sums[part, tap, i, j]
            dw[tap // kw, tap % kw, i, j] = total


backward_w = CpuKernel(
    reduce_pixels,
    FLAGS,
    is_large=gradient_of_weights_is_large,
    prepare=prepare_backward_w,
)
