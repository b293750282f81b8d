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

from minigrad.kernels.cpu.parts import winograd
from minigrad.kernels.cpu.parts.panels import NO_BIAS, PARALLEL_WORK, panel, panel_at, split
from minigrad.kernels.cpu.tools.launch import FLAGS, CpuKernel, inlined, team_size
from minigrad.kernels.cpu.tools.pointers import pixel_at, row_at
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import copy_row, transpose_tile
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.tiles import HEIGHTS, tile_cols, tile_rows

CHUNK = 192  # pixels that go through all panels of weights together; a multiple of all tile heights
TALLEST = max(HEIGHTS)
REDUCED = 512  # pixels that the gradient of the weights sums up at a time: both images of them stay in the cache


def forward_axis(size, out, taps, stride, padding, dilation):
    """For each output on one axis: [(tap, input), ...] for the taps that meet the input."""
    return [
        [
            (a, i * stride + a * dilation - padding)
            for a in range(taps)
            if 0 <= i * stride + a * dilation - padding < size
        ]
        for i in range(out)
    ]


def backward_axis(size, out, taps, stride, padding, dilation):
    """For each input on one axis: [(tap counted from the last, output), ...], outputs ascending."""
    return [
        [
            (taps - 1 - a, (i + padding - a * dilation) // stride)
            for a in reversed(range(taps))
            if (i + padding - a * dilation) % stride == 0 and 0 <= (i + padding - a * dilation) // stride < out
        ]
        for i in range(size)
    ]


def axis_groups(meetings):
    """Targets that meet the same taps at the same distances: [(taps, distances, [(target, first source), ...]), ...]."""
    groups = {}
    for target, pairs in enumerate(meetings):
        first = pairs[0][1] if pairs else 0
        key = tuple(a for a, _ in pairs), tuple(s - first for _, s in pairs)
        groups.setdefault(key, []).append((target, first))
    return [(taps, distances, positions) for (taps, distances), positions in groups.items()]


@functools.lru_cache(maxsize=1024)
def gather_plan(axis, image, window, channels, item):
    """The groups as arrays: (groups (g, 6), positions (p, 2), taps (t, 3)).

    `image` is (height, width) of what the window goes over; the target is its results (forward_axis) or the image itself
    (backward_axis), the source the other.

    A group is (first and number of its row positions, the same of its column positions, first and number of its taps). A
    position is (target, source of the first tap) on its axis. A tap is (distance in bytes, first row of B, depth): taps
    that are neighbours in the source and in B are joined to one, of as many times the depth.
    """
    vertical = axis_groups(axis(image[0], window.oh, window.kh, window.sh, window.top, window.dil_h))
    horizontal = axis_groups(axis(image[1], window.ow, window.kw, window.sw, window.left, window.dil_w))
    width = image[1] if axis is forward_axis else window.ow
    groups, positions, taps = [], [], []
    for rows, row_distances, row_positions in vertical:
        for columns, column_distances, column_positions in horizontal:
            start = len(taps)
            for a, down in zip(rows, row_distances, strict=True):
                for b, right in zip(columns, column_distances, strict=True):
                    distance, first = (down * width + right) * channels * item, (a * window.kw + b) * channels
                    last = taps[-1] if len(taps) > start else None
                    if last and last[0] + last[2] * item == distance and last[1] + last[2] == first:
                        last[2] += channels
                    else:
                        taps.append([distance, first, channels])
            h = len(positions), len(row_positions)
            positions += row_positions
            w = len(positions), len(column_positions)
            positions += column_positions
            groups.append((*h, *w, start, len(taps) - start))
    groups.sort(key=lambda group: -group[1] * group[3])
    shapes = ((groups, 6), (positions, 2), (taps, 3))
    return tuple(np.array(rows, np.int64).reshape(-1, columns) for rows, columns in shapes)


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


@inlined
def pack_weights_transposed(w, p, packed):
    """Panel p of B = the transposed weights with taps in reverse order: (kh kw k, c), zeros beyond the last column."""
    kh, kw, c, k = w.shape
    lanes = vector_lanes(w.dtype)
    item = np.intp(w.itemsize)
    register = lanes * item
    j0, width, _ = panel(p, c, w.dtype)
    begin = panel_at(packed, j0, kh * kw * k)
    for tap in range(kh * kw):
        for v in range(width):
            j = j0 + v * lanes
            for q in range(0, k, lanes):
                source = row_at(w, tap * c + j) + q * item
                target = begin + (((kh * kw - 1 - tap) * k + q) * width + v) * register
                rows, columns = min(lanes, c - j), min(lanes, k - q)
                transpose_tile(w.dtype, source, k * item, rows, columns, target, width * register)


@inlined
def gather_rows(source, target, bias, packed, group, positions, taps, depth, r0, r1):
    """Rows r0:r1 of a group, all channels. A row is (image, row position, column position), the last running fastest."""
    k = target.shape[3]
    item = np.intp(target.itemsize)
    h_first, h_count, w_first, w_count, tap_first, tap_count = group
    tables = np.empty(2 * (CHUNK + TALLEST) + TALLEST, np.int64)
    a_rows, c_rows, starts = tables[: CHUNK + TALLEST], tables[CHUNK + TALLEST : -TALLEST], tables[-TALLEST:]
    tap_list = row_at(taps, tap_first)
    for q0 in range(r0, r1, CHUNK):
        count = min(CHUNK, r1 - q0)
        # 1. Where each row's pixel is in the target, and where its first tap meets the source.
        image, inside = q0 // (h_count * w_count), q0 % (h_count * w_count)
        i, j = inside // w_count, inside % w_count
        for r in range(count):
            h, w = positions[h_first + i], positions[w_first + j]
            a_rows[r] = pixel_at(source, image, h[1], w[1])
            c_rows[r] = pixel_at(target, image, h[0], w[0])
            j += 1
            if j == w_count:
                i, j = i + 1, 0
                if i == h_count:
                    image, i = image + 1, 0
        # 2. A tile that is higher than what is left computes the last row several times.
        a_rows[count : count + TALLEST] = a_rows[count - 1]
        c_rows[count : count + TALLEST] = c_rows[count - 1]
        # 3. Panel by panel of the weights, tile by tile down the rows, from the biases or from zeros.
        for p in range(split(k, target.dtype)[1]):
            j, wide, used = panel(p, k, target.dtype)
            shift, b_step = j * item, wide * vector_lanes(target.dtype) * item
            starts[:] = bias.ctypes.data + shift
            start = starts.ctypes.data if bias.size else 0
            b = panel_at(packed, j, depth)
            for r in range(0, count, HEIGHTS[wide]):
                tile_rows(
                    target.dtype, wide, min(HEIGHTS[wide], count - r), a_rows.ctypes.data + 8 * r, c_rows.ctypes.data + 8 * r,
                    shift, start, tap_list, tap_count, b, b_step, used, None,
                )  # fmt: skip


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
    # 3. Each thread has its share of the pixels of every group; those that no tap meets are the bias alone.
    threads = team_size()
    for t in prange(threads):
        for g in range(groups.shape[0]):
            rows = target.shape[0] * groups[g, 1] * groups[g, 3]
            r0, r1 = t * rows // threads, (t + 1) * rows // threads
            if groups[g, 5]:
                gather_rows(source, target, bias, packed, groups[g], positions, taps, depth, r0, r1)
            else:
                h_first, h_count, w_first, w_count = groups[g, 0], groups[g, 1], groups[g, 2], groups[g, 3]
                for r in range(r0, r1):
                    i, j = r % (h_count * w_count) // w_count, r % w_count
                    pixel = target[r // (h_count * w_count), positions[h_first + i, 0], positions[w_first + j, 0]]
                    for q in range(k):
                        pixel[q] = bias[q] if bias.size else 0


def gather_is_large(source, w, bias, target, *rest):
    """Whether there is work for all threads."""
    return target.size * w.shape[0] * w.shape[1] * source.shape[3] >= PARALLEL_WORK


conv_forward = CpuKernel(
    gather,
    FLAGS,
    is_large=gather_is_large,
    prepare=prepare_forward,
    instead=(lambda x, w, bias, window, y: winograd.pays(x, y, window), winograd.winograd_forward),
)
conv_backward_x = CpuKernel(
    gather,
    FLAGS,
    is_large=gather_is_large,
    prepare=prepare_backward_x,
    shares=conv_forward,
    instead=(lambda dy, w, window, dx: winograd.pays(dy, dx, window), winograd.winograd_backward_x),
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
    for i in range(c0, c1, HEIGHTS[wide]):
        tile_cols(
            dy.dtype, wide, a + i * item, b, (n1 - n0, h * w * c * item, oh * ow * k * item),
            (hi - lo, stride_h * w * c * item, ow * k * item), (columns, stride_w * c * item, k * item),
            row_at(dw, tap * c + i) + j * item, k * item, min(HEIGHTS[wide], c1 - i), used, 1, x_ahead, dy_ahead,
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
    tall = 4 * HEIGHTS[-(-vectors // panels)]  # channels of a unit of work
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
    is_large=lambda x, dy, dw, *rest: dy.size * dw.shape[0] * dw.shape[1] * x.shape[3] >= PARALLEL_WORK,
    prepare=prepare_backward_w,
    instead=(lambda x, dy, window, dw: winograd.pays(x, dy, window), winograd.winograd_backward_w),
)
