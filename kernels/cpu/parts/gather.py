"""Gathering: each pixel of a target is a sum, over the taps of a window that meet the source, of source row times weight.

Pixels are sorted into groups that meet the same taps at the same distances, so within a group nothing is tested. A tile is
some pixels of a group by some channels of the target; the weights lie in panels, a matrix of (taps x channels of the source,
channels of the target).
"""

import functools

import numpy as np

from minigrad.kernels.cpu.parts.panels import panel, panel_at, split
from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cpu.tools.pointers import pixel_at, row_at
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import transpose_tile
from minigrad.kernels.cpu.vector.tiles import HEIGHTS, tile_rows

CHUNK = 192  # pixels that go through all panels of weights together; a multiple of all tile heights
TALLEST = max(HEIGHTS)


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
            # The group's taps: one whose pixels follow those of the tap before, in the source and in B, makes that longer.
            for a, down in zip(rows, row_distances, strict=True):
                for b, right in zip(columns, column_distances, strict=True):
                    distance, first = (down * width + right) * channels * item, (a * window.kw + b) * channels
                    last = taps[-1] if len(taps) > start else None
                    if last and last[0] + last[2] * item == distance and last[1] + last[2] == first:
                        last[2] += channels
                    else:
                        taps.append([distance, first, channels])
            # Where the group's results are, and what the first tap of each reads.
            h = len(positions), len(row_positions)
            positions += row_positions
            w = len(positions), len(column_positions)
            positions += column_positions
            groups.append((*h, *w, start, len(taps) - start))
    groups.sort(key=lambda group: -group[1] * group[3])  # the largest first, so that threads end together
    shapes = ((groups, 6), (positions, 2), (taps, 3))
    return tuple(np.array(rows, np.int64).reshape(-1, columns) for rows, columns in shapes)


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
    """Rows r0:r1 of a group, all channels. A row is (image, row position, column position), the last running fastest.

    The source is of the target's dtype, or of words that hold two numbers each (vector/bfloat16.py), as the weights then are.
    """
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
                    source.dtype, wide, min(HEIGHTS[wide], count - r), a_rows.ctypes.data + 8 * r, c_rows.ctypes.data + 8 * r,
                    shift, start, tap_list, tap_count, b, b_step, used, None,
                )  # fmt: skip


@inlined
def gather_share(source, target, bias, packed, groups, positions, taps, depth, t, threads):
    """Share t of the pixels of every group, of as many as there are threads; those that no tap meets are the bias alone."""
    k = target.shape[3]
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
