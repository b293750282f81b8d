"""Convolution on the micro-kernels of vector/tiles.py: the contracts are in kernels/reference/conv.py.

Forward and the gradient of the image are one loop: each pixel of the target gathers, over the taps of the window that
meet the source, source row times weight. Pixels are sorted into groups that meet the same taps at the same distances (the
interior, each edge, each corner; with strides, each remainder), so within a group nothing is tested and no zero of the
padding is ever multiplied. Nothing is unfolded. A tile is some pixels of a group by some channels.

The gradient of the weights runs, for each tap, over the rectangle of outputs that the tap meets inside the image.

Every element is one chain of fused multiply-adds in a fixed order; threads share out elements, never sums. Two cases go
another way: 3 x 3 windows in float32 where Winograd's way pays (parts/winograd.py), and targets with few channels, of which two
neighbouring pixels are computed at once, by a window that is one column wider, with zeros where a pixel does not look.
"""

import functools

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts import bfloat16, bfloat16_conv, winograd
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
from minigrad.kernels.cpu.tools.pointers import pixel_at, row_at
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import copy_row
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.tiles import COLUMN_HEIGHTS, tile_cols

REDUCED = 512  # pixels that the gradient of the weights sums up at a time: both images of them stay in the cache


def prepare_forward(x, w, bias, window, y):
    if pairs_pay(y, window):
        return prepare_pairs(x, w, bias, window, y, False)
    plan = gather_plan(forward_axis, x.shape[1:3], window, x.shape[3], x.itemsize)
    return x, w, bias, y, False, False, *plan


def prepare_backward_x(dy, w, window, dx):
    no_bias = NO_BIAS[dy.dtype]
    if pairs_pay(dx, window):
        return prepare_pairs(dy, w, no_bias, turned_round(window, dx.shape[1:3]), dx, True)
    plan = gather_plan(backward_axis, dx.shape[1:3], window, dy.shape[3], dy.itemsize)
    return dy, w, no_bias, dx, True, False, *plan


def pairs_pay(target, window):
    """Whether two neighbouring pixels of the target are better computed as one of twice the channels.

    They fill a register that one of them would leave half empty, and share all but two columns of the window.
    """
    half = REGISTER_BITS // 8 // target.itemsize // 2
    return (
        target.shape[3] <= half
        and target.shape[2] % 2 == 0
        and target.size > 0
        and window.sh == window.sw == window.dil_h == window.dil_w == 1
    )


def turned_round(window, image):
    """The window over the results that gives the image's gradient; strides and dilations are 1."""
    kh, kw = window.kh - 1, window.kw - 1
    return window._replace(
        top=kh - window.top, bottom=kh - window.bottom, left=kw - window.left, right=kw - window.right,
        oh=image[0], ow=image[1],
    )  # fmt: skip


def prepare_pairs(source, w, bias, window, target, transposed):
    n, h, width, k = target.shape
    pairs = target.reshape(n, h, width // 2, 2 * k)
    wider = window._replace(kw=window.kw + 1, sw=2, ow=width // 2)
    plan = gather_plan(forward_axis, source.shape[1:3], wider, source.shape[3], source.itemsize)
    return source, w, bias, pairs, transposed, True, *plan


@inlined
def pair_weights(w, turned):
    """Weights that give two neighbouring pixels at once, by a window one column wider: (kh, kw + 1, c, 2 k).

    With `turned`, of w as the gradient of the image takes it: taps in reverse order, both kinds of channels exchanged.
    """
    kh, kw, c, k = w.shape
    inputs, outputs = (k, c) if turned else (c, k)
    pairs = np.zeros((kh, kw + 1, inputs, 2 * outputs), w.dtype)
    for a in range(kh):
        for b in range(kw):
            for i in range(inputs):
                for j in range(outputs):
                    weight = w[kh - 1 - a, kw - 1 - b, j, i] if turned else w[a, b, i, j]
                    pairs[a, b, i, j] = weight
                    pairs[a, b + 1, i, outputs + j] = weight
    return pairs


@inlined
def pack_weights(w, p, packed):
    """Panel p of B = the rows of w one after another: (kh kw c, k), zeros beyond the last column."""
    kh, kw, c, k = w.shape
    item = np.intp(w.itemsize)
    j, width, used = panel(p, k, w.dtype)
    depth, step = kh * kw * c, width * vector_lanes(w.dtype) * item
    for row in range(depth):
        copy_row(w.dtype, width, row_at(w, row) + j * item, panel_at(packed, j, depth) + row * step, used)


def gather(source, weights, biases, target, turned, paired, groups, positions, taps):
    """target[pixel] = bias + sum over the taps of its group of source[pixel, tap] B[tap]."""
    # 1. Of two pixels at once, the weights are those of a wider window with twice the channels.
    w, bias, transposed = weights, biases, turned
    if paired:
        w = pair_weights(weights, turned)
        transposed = False
        bias = np.concatenate((biases, biases))
    # 2. The weights as a matrix B (taps x channels of the source, channels of the target) in panels.
    k = target.shape[3]
    depth = w.shape[0] * w.shape[1] * source.shape[3]
    lanes = vector_lanes(target.dtype)
    vectors, panels = split(k, target.dtype)
    packed = np.empty(vectors * lanes * depth, target.dtype)
    for p in prange(panels):
        if transposed:
            pack_weights_transposed(w, p, packed)
        else:
            pack_weights(w, p, packed)
    # 3. Each thread has its share of the pixels.
    threads = team_size()
    for t in prange(threads):
        gather_share(source, target, bias, packed, groups, positions, taps, depth, t, threads)


conv_forward = CpuKernel(
    gather,
    FLAGS,
    is_large=convolution_is_large,
    prepare=prepare_forward,
    instead=(
        (bfloat16.asked, bfloat16_conv.forward),
        (lambda x, w, bias, window, y: winograd.pays(x, y, window), winograd.winograd_forward),
    ),
)
conv_backward_x = CpuKernel(
    gather,
    FLAGS,
    is_large=convolution_is_large,
    prepare=prepare_backward_x,
    shares=conv_forward,
    instead=(
        (bfloat16.asked, bfloat16_conv.backward_x),
        (lambda dy, w, window, dx: winograd.pays(dy, dx, window), winograd.winograd_backward_x),
    ),
)


@functools.lru_cache(maxsize=1024)
def reduce_plan(image, window):
    """For each tap: (first output row, number, first input row, first output column, number, first input column)."""
    plan = []
    for a in range(window.kh):
        for b in range(window.kw):
            row = []
            for n, m, stride, start in (
                (image[0], window.oh, window.sh, a * window.dil_h - window.top),
                (image[1], window.ow, window.sw, b * window.dil_w - window.left),
            ):
                inside = [i for i in range(m) if 0 <= i * stride + start < n]
                row += [inside[0], len(inside), inside[0] * stride + start] if inside else [0, 0, 0]
            plan.append(row)
    return np.array(plan, np.int64)


def prepare_backward_w(x, dy, window, dw):
    return x, dy, dw, window.sh, window.sw, reduce_plan(x.shape[1:3], window)


@inlined
def reduce_tap(x, dy, dw, stride_h, stride_w, plan, tap, n0, n1, o0, o1, p, c0, c1, x_ahead, dy_ahead):
    """dw[tap, c0:c1, panel p] += sum over images n0:n1 and output rows o0:o1.

    On the way the cache is asked for what lies x_ahead and dy_ahead bytes further on.
    """
    _, h, w, c = x.shape
    _, oh, ow, k = dy.shape
    item = np.intp(dy.itemsize)
    first, count, row, left, columns, column = plan
    lo, hi = max(o0, first), min(o1, first + count)
    if lo >= hi or columns == 0:
        return
    row += (lo - first) * stride_h
    j, wide, used = panel(p, k, dy.dtype)
    a, b = pixel_at(x, n0, row, column), pixel_at(dy, n0, lo, left) + j * item
    for i in range(c0, c1, COLUMN_HEIGHTS[wide]):
        tile_cols(
            dy.dtype, wide, a + i * item, b, (n1 - n0, h * w * c * item, oh * ow * k * item),
            (hi - lo, stride_h * w * c * item, ow * k * item), (columns, stride_w * c * item, k * item),
            row_at(dw, tap * c + i) + j * item, k * item, min(COLUMN_HEIGHTS[wide], c1 - i), used, 1, x_ahead, dy_ahead,
        )  # fmt: skip


def reduce_pixels(x, dy, dw, stride_h, stride_w, plan):
    """dw[tap] = sum over the outputs that the tap meets of x[pixel + tap] (c) times dy[pixel] (k)."""
    n = x.shape[0]
    _, oh, ow, k = dy.shape
    c = x.shape[3]
    kw = dw.shape[1]
    vectors, panels = split(k, dw.dtype)
    # 1. A unit of work is a panel of dw, at a tap, for some channels of x; a thread has some units that are neighbours.
    taps = plan.shape[0]
    tall = 4 * COLUMN_HEIGHTS[-(-vectors // panels)]  # channels of a unit of work
    blocks = -(-c // tall)
    units = panels * taps * blocks
    # 2. All go through the same REDUCED pixels or so before the next ones: some images, or some rows of one.
    images = max(1, REDUCED // (oh * ow))
    rows = max(1, min(oh, REDUCED // ow))
    if images > 1 or rows == oh:
        x_ahead, dy_ahead = images * x.strides[0], images * dy.strides[0]
    else:
        x_ahead, dy_ahead = rows * stride_h * x.strides[1], rows * dy.strides[1]
    threads = team_size()
    for t in prange(threads):
        u0, u1 = t * units // threads, (t + 1) * units // threads
        # 3. The sums begin from zeros,
        for u in range(u0, u1):
            p, tap, block = u // (taps * blocks), u // blocks % taps, u % blocks
            j, wide, _ = panel(p, k, dw.dtype)
            j1 = min(k, j + wide * vector_lanes(dw.dtype))
            dw[tap // kw, tap % kw, block * tall : min(c, (block + 1) * tall), j:j1] = 0
        # 4. and every unit adds what it meets of the pixels, in order. The thread's first tap fetches the next ones.
        for n0 in range(0, n, images):
            for o0 in range(0, oh, rows):
                for u in range(u0, u1):
                    p, tap, block = u // (taps * blocks), u // blocks % taps, u % blocks
                    first = 1 if tap == u0 // blocks % taps else 0
                    reduce_tap(
                        x, dy, dw, stride_h, stride_w, plan[tap], tap, n0, min(n, n0 + images), o0, min(oh, o0 + rows),
                        p, block * tall, min(c, (block + 1) * tall), first * x_ahead, first * dy_ahead,
                    )  # fmt: skip


conv_backward_w = CpuKernel(
    reduce_pixels,
    FLAGS,
    is_large=gradient_of_weights_is_large,
    prepare=prepare_backward_w,
    instead=(
        (bfloat16.asked, bfloat16_conv.backward_w),
        (lambda x, dy, window, dw: winograd.pays(x, dy, window), winograd.winograd_backward_w),
    ),
)
