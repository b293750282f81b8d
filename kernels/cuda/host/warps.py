"""What the threads of a warp do together, once all that an instruction names are there. Compiled by Numba into machine.py.

A thread's frame is a row of words; the words from GIVEN on are what it brings, those from RECEIVED on what it takes away.
"""

import numpy as np

from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cuda.host.layout import (
    ANY,
    BALLOT,
    EVERY,
    FOREIGN,
    GIVEN,
    MATRICES,
    NO_LANE,
    PRODUCT_BF16,
    PRODUCT_TF32,
    RECEIVED,
    SHUFFLE_DOWN,
    SHUFFLE_UP,
    SHUFFLE_XOR,
    TURNED_MATRICES,
    UNNAMED,
    WARP_ALL,
)

LANES = 32
MASK, VALUE, LANE, CLAMP = GIVEN, GIVEN + 1, GIVEN + 2, GIVEN + 3
LEFT, RIGHT, SUMS = GIVEN + 1, GIVEN + 5, GIVEN + 7
TF32_BITS = 0xFFFFE000


@inlined
def exchange(kind, frames, states, point, first, last):
    """(a fault or 0, the thread at fault, the other) of the threads first to last, of which those at `point` meet."""
    mask = 0
    for t in range(first, last):
        if states[t] == point:
            mask = frames[t, MASK]
    for t in range(first, last):
        named = (mask >> (t - first)) & 1
        if states[t] == point and (frames[t, MASK] != mask or not named):
            return UNNAMED, t, 0
        if named and states[t] > 0 and states[t] != point:
            return FOREIGN, t, 0
    if kind == WARP_ALL:
        return 0, 0, 0
    if kind in (PRODUCT_TF32, PRODUCT_BF16, MATRICES, TURNED_MATRICES):
        for t in range(first, first + LANES):
            if t >= last or states[t] != point:
                return NO_LANE, first, t
        if kind == PRODUCT_TF32:
            multiply_tf32(frames, first)
        elif kind == PRODUCT_BF16:
            multiply_bf16(frames, first)
        else:
            share_matrices(frames, first, kind == TURNED_MATRICES)
        return 0, 0, 0
    if kind in (BALLOT, ANY, EVERY):
        votes = 0
        there = 0
        for t in range(first, last):
            if states[t] == point:
                there |= 1 << (t - first)
                votes |= (frames[t, VALUE] & 1) << (t - first)
        found = votes if kind == BALLOT else int(votes != 0) if kind == ANY else int(votes == there)
        for t in range(first, last):
            if states[t] == point:
                frames[t, RECEIVED] = found
        return 0, 0, 0
    for t in range(first, last):
        if states[t] == point:
            lane, found = source(kind, t - first, frames[t, LANE], frames[t, CLAMP])
            s = first + lane
            if s >= last or states[s] != point:
                return NO_LANE, t, s
            frames[t, RECEIVED] = frames[s, VALUE]
            frames[t, RECEIVED + 1] = found
    return 0, 0, 0


@inlined
def source(kind, lane, given, clamp):
    """(the lane that a shuffle reads, whether it lies in reach); out of reach a lane reads itself. PTX ISA, shfl.sync."""
    given &= 31
    segment = (clamp >> 8) & 31
    bound = clamp & 31
    most = (lane & segment) | (bound & ~segment & 31)
    least = lane & segment
    if kind == SHUFFLE_UP:
        j = lane - given
        reached = j >= most
    elif kind == SHUFFLE_DOWN:
        j = lane + given
        reached = j <= most
    elif kind == SHUFFLE_XOR:
        j = lane ^ given
        reached = j <= most
    else:
        j = least | (given & ~segment & 31)
        reached = j <= most
    return (j, 1) if reached else (lane, 0)


@inlined
def multiply_tf32(frames, first):
    """C + A B of 16 x 8 and 8 x 8 numbers in TF32, each sum rounded once; see mma.mma_tf32 for who holds what."""
    words = np.empty(10, np.uint32)
    floats = words.view(np.float32)
    left = np.empty((16, 8))
    right = np.empty((8, 8))
    for lane in range(LANES):
        g, t = lane >> 2, lane & 3
        for k in range(6):
            words[k] = frames[first + lane, LEFT + k] & TF32_BITS
        left[g, t], left[g + 8, t], left[g, t + 4], left[g + 8, t + 4] = floats[0], floats[1], floats[2], floats[3]
        right[t, g], right[t + 4, g] = floats[4], floats[5]
    add_products(frames, first, left, right)


@inlined
def multiply_bf16(frames, first):
    """C + A B of 16 x 16 and 16 x 8 numbers in bfloat16, each sum rounded once; see mma.mma_bf16."""
    words = np.empty(2, np.uint32)
    floats = words.view(np.float32)
    left = np.empty((16, 16))
    right = np.empty((16, 8))
    for lane in range(LANES):
        g, t = lane >> 2, lane & 3
        for k in range(6):
            pair = frames[first + lane, LEFT + k]
            words[0], words[1] = (pair & 0xFFFF) << 16, pair & 0xFFFF0000
            for i in range(2):
                if k < 4:
                    left[g + 8 * (k & 1), 2 * t + 8 * (k >> 1) + i] = floats[i]
                else:
                    right[2 * t + 8 * (k - 4) + i, g] = floats[i]
    add_products(frames, first, left, right)


@inlined
def add_products(frames, first, left, right):
    """To the sums of a warp's threads the product of two matrices."""
    words = np.empty(1, np.uint32)
    floats = words.view(np.float32)
    for lane in range(LANES):
        g, t = lane >> 2, lane & 3
        for k in range(4):
            row, column = g + 8 * (k >> 1), 2 * t + (k & 1)
            words[0] = frames[first + lane, SUMS + k]
            total = float(floats[0])
            for i in range(left.shape[1]):
                total += left[row, i] * right[i, column]
            floats[0] = np.float32(total)
            frames[first + lane, RECEIVED + k] = words[0]


@inlined
def share_matrices(frames, first, turned):
    """Of four matrices of 8 x 8 halves of words, of which each lane brings a row, to each lane its four words."""
    for lane in range(LANES):
        g, t = lane >> 2, lane & 3
        for m in range(4):
            if turned:
                half = 16 * (g & 1)
                low = frames[first + 8 * m + 2 * t, VALUE + (g >> 1)] >> half & 0xFFFF
                high = frames[first + 8 * m + 2 * t + 1, VALUE + (g >> 1)] >> half & 0xFFFF
                frames[first + lane, RECEIVED + m] = high << 16 | low
            else:
                frames[first + lane, RECEIVED + m] = frames[first + 8 * m + g, VALUE + t]
