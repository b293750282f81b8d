"""How CUDA kernels find the elements of layouts (kernels/axes.py): which element is the i-th, without a division.

A thread knows the number of its element in C order and needs its place along every axis. Dividing by a number that is
known only at run time takes some thirty instructions; multiplying by its reciprocal takes five, and `Walk` has those
reciprocals (T. Granlund and P. Montgomery, "Division by Invariant Integers using Multiplication", 1994, figure 4.1).
Positions are computed modulo 2^32, which negative strides need and which is exact for arrays below 2^32 elements.
"""

import functools
from typing import NamedTuple

from minigrad.kernels.axes import DIMS
from minigrad.kernels.cuda.tools.language import device_function, uint32, uint64
from minigrad.kernels.cuda.tools.launch import Axes, TupleParameter, UInt

WORD = 1 << 32


class Walk(NamedTuple):
    """A merged layout of two arrays as kernels take it; pointwise.py takes one of more arrays apart.

    The outermost axis stands at 0, the others at the end, the innermost last; there are at least two.
    """

    rank: UInt
    lengths: Axes
    multipliers: Axes
    shifts: Axes
    steps: TupleParameter([Axes, Axes])  # of each array


def reciprocal(d):
    """(multiplier, shift) that `divided` takes for d >= 2; for 1, of which nobody needs the quotient, zeros."""
    if d == 1:
        return 0, 0
    bits = (d - 1).bit_length()
    return WORD * ((1 << bits) - d) // d + 1, bits - 1


def walk(axes):
    """The Walk over axes as `axes.merged` gives them."""
    arrays = len(axes[0]) - 1 if axes else 1
    one = [1] + [0] * arrays
    while len(axes) < 2:
        axes = [one, *axes]
    outer, *inner = axes
    full = [outer, *[one] * (DIMS - len(axes)), *inner]
    lengths, *steps = zip(*full, strict=True)
    multipliers, shifts = zip(*map(reciprocal, lengths), strict=True)
    return Walk(len(axes), lengths, multipliers, shifts, tuple([tuple([s % WORD for s in each]) for each in steps]))


@functools.lru_cache(maxsize=4096)
def contiguous_steps(shape):
    """Strides of a C-contiguous array."""
    steps = [1]
    for length in reversed(shape[1:]):
        steps.append(steps[-1] * length)
    return tuple(reversed(steps))


@device_function
def divided(i, multiplier, shift):
    """i // d in uint32, for reciprocal(d) = (multiplier, shift)."""
    high = uint32((uint64(i) * uint64(multiplier)) >> uint64(32))
    return uint32((high + (uint32(i - high) >> uint32(1))) >> shift)


@device_function
def both_positions(i, walk):
    """Where element i lies in two arrays."""
    rank, lengths, multipliers, shifts = walk.rank, walk.lengths, walk.multipliers, walk.shifts
    a_steps, b_steps = walk.steps
    rest = divided(i, multipliers[5], shifts[5])
    k = uint32(i - rest * lengths[5])
    a, b = uint32(k * a_steps[5]), uint32(k * b_steps[5])
    if rank > uint32(2):
        i, rest = rest, divided(rest, multipliers[4], shifts[4])
        k = uint32(i - rest * lengths[4])
        a, b = uint32(a + k * a_steps[4]), uint32(b + k * b_steps[4])
    if rank > uint32(3):
        i, rest = rest, divided(rest, multipliers[3], shifts[3])
        k = uint32(i - rest * lengths[3])
        a, b = uint32(a + k * a_steps[3]), uint32(b + k * b_steps[3])
    if rank > uint32(4):
        i, rest = rest, divided(rest, multipliers[2], shifts[2])
        k = uint32(i - rest * lengths[2])
        a, b = uint32(a + k * a_steps[2]), uint32(b + k * b_steps[2])
    if rank > uint32(5):
        i, rest = rest, divided(rest, multipliers[1], shifts[1])
        k = uint32(i - rest * lengths[1])
        a, b = uint32(a + k * a_steps[1]), uint32(b + k * b_steps[1])
    return uint32(a + rest * a_steps[0]), uint32(b + rest * b_steps[0])
