"""The two factors of a matrix product as kernels read them, from a matrix or from the pixels of images.

A product of (m, k) by (k, n) has two factors, each of many lines (the rows of A, the columns of B) of a common depth k.
Line and depth are numbers of three digits, because a convolution's are: a pixel is (image, row, column), a depth in its
window (row of the tap, column of the tap, channel). Taking a number apart costs divisions, which happen once per thread;
from then on it advances by a fixed number of the same digits, two additions with carry.

A factor has, beside its numbers in Factor, a function place(where, line, depth) -> (whether there is such an element, its index
in memory). What is not there counts as zero: the padding of an image, lines and depths beyond the last.

A factor is deep if neighbours along the depth are neighbours in memory, else its lines are. Every thread loads groups of
four neighbours, of 16 bytes where the memory is so aligned (`wide`), else one by one.
"""

from typing import Any, NamedTuple

from minigrad.kernels.cuda.tools.async_copies import copy4, copy16
from minigrad.kernels.cuda.tools.language import Choice, device_function, load4, load4_if, real, store4, uint32

READ4, WRITE4 = Choice("READ4", load4), Choice("WRITE4", store4)  # float64 has no such instructions: see four, put_four


class Factor(NamedTuple):
    """How a factor's lines and depths count, and what its `place` wants."""

    lines: Any  # (middle, low), the radices of the two lower digits of a line; low 0 for a plain number, all in its last digit
    depths: Any  # (middle, low), those of a depth
    step: Any  # three digits: how far the depth advances from one load of a thread to the next
    where: Any


@device_function
def four(memory, i):
    return memory[i], memory[i + 1], memory[i + 2], memory[i + 3]


@device_function
def put_four(memory, i, a, b, c, d):
    memory[i] = a
    memory[i + 1] = b
    memory[i + 2] = c
    memory[i + 3] = d


@device_function
def number(x, radices):
    """The digits of x."""
    middle, low = radices
    if low == uint32(0):
        return uint32(0), uint32(0), uint32(x)
    high = uint32(x // low)
    return uint32(high // middle), uint32(high % middle), uint32(x % low)


@device_function
def advanced(x, step, radices):
    """The sum of two numbers."""
    middle, low = radices
    if low == uint32(0):
        return x[0], x[1], uint32(x[2] + step[2])
    first, second, third = uint32(x[0] + step[0]), uint32(x[1] + step[1]), uint32(x[2] + step[2])
    if third >= low:
        third = uint32(third - low)
        second = uint32(second + uint32(1))
    if second >= middle:
        second = uint32(second - middle)
        first = uint32(first + uint32(1))
    return first, second, third


@device_function
def place_in_matrix(where, line, depth):
    """(lines, end of depths, step of a line in memory, step of a depth): an element of a matrix."""
    lines, end, line_step, depth_step = where
    i, k = line[2], depth[2]
    return (i < lines) & (k < end), uint32(i * line_step + k * depth_step)


@device_function
def own_group(thread, deep, size, depths, together):
    """(line, depth) of the first group of four that a thread loads, of a tile of `size` lines.

    Of a deep factor, a warp has so many lines `together`. Turned around in shared memory, the first of each group lie in rows
    that begin at only two banks, 16 apart: so 16 lines of two groups meet all 32 banks.
    """
    if deep:
        groups = uint32(32 // together)  # of a warp's in a line
        sets = uint32(depths // 4 // (32 // together))  # of so many groups, which make the tile's depth
        if sets == uint32(1):
            return uint32(thread // groups), uint32(thread % groups * uint32(4))
        lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
        line = uint32(warp // sets * uint32(together) + lane // groups)
        return line, uint32((warp % sets * groups + lane % groups) * uint32(4))
    groups = uint32(size // 4)
    return uint32(thread % groups * uint32(4)), uint32(thread // groups)


@device_function
def own_lines(factor, first, deep, apart, loads, lines):
    """The digits of the lines that a thread loads: of `loads` lines so far apart, or of only one if not deep."""
    for q in range(loads if deep else 1):
        x = number(uint32(first + uint32(q * apart)), factor.lines)
        lines[3 * q] = x[0]
        lines[3 * q + 1] = x[1]
        lines[3 * q + 2] = x[2]


@device_function
def fetch_group(memory, place, factor, lines, depth, deep, wide, q, values):
    """The q-th group of four to values[4 q] and after. Gives the depth of the next one."""
    one = (uint32(0), uint32(0), uint32(1))
    r = 3 * q if deep else 0
    line = (lines[r], lines[r + 1], lines[r + 2])
    if wide:
        found, i = place(factor.where, line, depth)
        group = (real(0), real(0), real(0), real(0))
        if found:
            group = READ4(memory, i)
        values[4 * q] = group[0]
        values[4 * q + 1] = group[1]
        values[4 * q + 2] = group[2]
        values[4 * q + 3] = group[3]
    else:
        depth_of_e = depth
        for e in range(4):
            found, i = place(factor.where, line, depth_of_e)
            value = real(0)
            if found:
                value = memory[i]
            values[4 * q + e] = value
            if deep:
                depth_of_e = advanced(depth_of_e, one, factor.depths)
            else:
                line = advanced(line, one, factor.lines)
    return depth if deep else advanced(depth, factor.step, factor.depths)


@device_function
def fetch(memory, place, factor, lines, depth, deep, wide, loads, values):
    """A thread's share of a tile, 1, 2 or 4 groups, to registers. Gives its depth in the next tile.

    It is written out, for the compiler would not unroll so long a loop, and put the values into memory.
    """
    depth = fetch_group(memory, place, factor, lines, depth, deep, wide, 0, values)
    if loads > 1:
        depth = fetch_group(memory, place, factor, lines, depth, deep, wide, 1, values)
    if loads > 2:
        depth = fetch_group(memory, place, factor, lines, depth, deep, wide, 2, values)
        depth = fetch_group(memory, place, factor, lines, depth, deep, wide, 3, values)
    return advanced(depth, factor.step, factor.depths) if deep else depth


@device_function
def fetch_four(memory, place, factor, lines, depth, deep, q, values):
    """As fetch_group of 16 bytes, without a branch."""
    r = 3 * q if deep else 0
    found, i = place(factor.where, (lines[r], lines[r + 1], lines[r + 2]), depth)
    group = load4_if(memory, i, found)
    values[4 * q] = group[0]
    values[4 * q + 1] = group[1]
    values[4 * q + 2] = group[2]
    values[4 * q + 3] = group[3]
    return depth if deep else advanced(depth, factor.step, factor.depths)


@device_function
def fetch_fours(memory, place, factor, lines, depth, deep, loads, values):
    """As fetch of groups of 16 bytes, without branches."""
    depth = fetch_four(memory, place, factor, lines, depth, deep, 0, values)
    if loads > 1:
        depth = fetch_four(memory, place, factor, lines, depth, deep, 1, values)
    if loads > 2:
        depth = fetch_four(memory, place, factor, lines, depth, deep, 2, values)
        depth = fetch_four(memory, place, factor, lines, depth, deep, 3, values)
    return advanced(depth, factor.step, factor.depths) if deep else depth


@device_function
def put(values, shared, start, pitch, deep, apart, loads):
    """The registers to shared memory, as rows of one depth each, `pitch` apart."""
    for q in range(loads):
        if deep:
            for e in range(4):
                shared[start + e * pitch + q * apart] = values[4 * q + e]
        else:
            WRITE4(
                shared,
                start + q * apart * pitch,
                values[4 * q],
                values[4 * q + 1],
                values[4 * q + 2],
                values[4 * q + 3],
            )


@device_function
def copy_group(memory, place, factor, lines, depth, deep, wide, q, shared, start):
    """As fetch_group, but begin to copy to shared[start] and after."""
    one = (uint32(0), uint32(0), uint32(1))
    r = 3 * q if deep else 0
    line = (lines[r], lines[r + 1], lines[r + 2])
    if wide:
        found, i = place(factor.where, line, depth)
        copy16(shared, start, memory, i if found else uint32(0), uint32(16) if found else uint32(0))
    else:
        depth_of_e = depth
        for e in range(4):
            found, i = place(factor.where, line, depth_of_e)
            copy4(shared, start + e, memory, i if found else uint32(0), uint32(4) if found else uint32(0))
            if deep:
                depth_of_e = advanced(depth_of_e, one, factor.depths)
            else:
                line = advanced(line, one, factor.lines)
    return depth if deep else advanced(depth, factor.step, factor.depths)


@device_function
def begin_copies(memory, place, factor, lines, depth, deep, wide, loads, shared, start, apart):
    """As fetch, with groups `apart` in shared memory."""
    depth = copy_group(memory, place, factor, lines, depth, deep, wide, 0, shared, start)
    if loads > 1:
        depth = copy_group(memory, place, factor, lines, depth, deep, wide, 1, shared, start + apart)
    if loads > 2:
        depth = copy_group(memory, place, factor, lines, depth, deep, wide, 2, shared, start + 2 * apart)
        depth = copy_group(memory, place, factor, lines, depth, deep, wide, 3, shared, start + 3 * apart)
    return advanced(depth, factor.step, factor.depths) if deep else depth
