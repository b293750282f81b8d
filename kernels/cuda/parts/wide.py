"""Sums in float64 by the threads of a column: chunks put together, and columns whose squares x's type does not hold.

Blocks are those of `columns`; of each column the uppermost thread has the sums.
"""

from minigrad.kernels.cuda.parts.columns import THREADS, keep, kept, read, write_each
from minigrad.kernels.cuda.tools.language import cuda, device_function, float32, float64, uint32

WIDE_SHARED = 4 * THREADS  # numbers of the shared array that they add up in; of the kernel, which has one


@device_function
def add_down_wide(shared, value, place):
    """The sums of four float64 over the threads of each column, right in the uppermost; log2(down) steps.

    They stay in shared, THREADS apart, for others to read once all have met. Between two of these all threads must meet.
    """
    y, across = place.y, place.across
    me = uint32(y * across + place.x)
    keep(shared, me, value)
    n = place.down
    while n > uint32(1):
        half = uint32((n + uint32(1)) >> uint32(1))
        cuda.syncthreads()
        if uint32(y + half) < n:
            keep(shared, me, added(kept(shared, me), kept(shared, uint32(me + half * across))))
        n = half
    return kept(shared, me)


@device_function
def added(a, b):
    """The sums of four float64 and four other numbers."""
    return a[0] + float64(b[0]), a[1] + float64(b[1]), a[2] + float64(b[2]), a[3] + float64(b[3])


@device_function
def merged(shared, a, b, place):
    """Four numbers each of a and of b, added up over the threads of each column; right in the uppermost."""
    first = add_down_wide(shared, a, place)
    cuda.syncthreads()  # all have added
    return first, add_down_wide(shared, b, place)


@device_function
def total_of_chunks(shared, partial, chunks, c, part):
    """(first numbers, second numbers) of four columns, added up over the chunks; as `merged` gives them."""
    zero = float64(0)
    first, second = (zero, zero, zero, zero), (zero, zero, zero, zero)
    k = part.place.y
    while k < chunks:
        i = uint32(uint32(2) * k * c)
        first, second = added(first, read(partial, i, part.j)), added(second, read(partial, uint32(i + c), part.j))
        k = uint32(k + part.place.down)
    return merged(shared, first, second, part.place)


@device_function
def statistics_of_chunks(shared, partial, chunks, rows, part):
    """(means as offsets from the first row, variances) of four columns, from those of the chunks; as `merged` gives them."""
    zero, m = float64(0), float64(rows.m)
    total, squares = (zero, zero, zero, zero), (zero, zero, zero, zero)
    k = part.place.y
    while k < chunks:
        n = float64(min(rows.chunk, uint32(rows.m - k * rows.chunk)))
        i = uint32(uint32(2) * k * rows.c)
        mean = read(partial, i, part.j)
        a, b, c, d = float64(mean[0]), float64(mean[1]), float64(mean[2]), float64(mean[3])
        total = added(total, (n * a, n * b, n * c, n * d))
        squares = added(
            added(squares, read(partial, uint32(i + rows.c), part.j)), (n * a * a, n * b * b, n * c * c, n * d * d)
        )
        k = uint32(k + part.place.down)
    f, s = merged(shared, total, squares, part.place)
    offset = (f[0] / m, f[1] / m, f[2] / m, f[3] / m)
    return offset, (
        variance(s[0], m, offset[0]), variance(s[1], m, offset[1]), variance(s[2], m, offset[2]),
        variance(s[3], m, offset[3]),
    )  # fmt: skip


@device_function
def variance(squares, m, offset):
    """Of m rows, from the sum of squares and the mean of the same numbers; rounding makes none negative."""
    found = squares / m - offset * offset
    return found if not found < float64(0) else float64(0)


@device_function
def overflowed(squares):
    """1 if a sum of squares is infinite or NaN, else 0."""
    return uint32(0) if squares - squares == float32(0) else uint32(1)


@device_function
def all_overflowed(squares):
    """A bit for each of four sums: whether it is infinite or NaN."""
    return uint32(
        overflowed(squares[0])
        | overflowed(squares[1]) << uint32(1)
        | overflowed(squares[2]) << uint32(2)
        | overflowed(squares[3]) << uint32(3)
    )


@device_function
def put_statistics(shared, x, rows, part, offset, variances, mean, var):
    """mean and var of four columns, from what the uppermost thread of each knows, means as offsets from the first row.

    Whether all threads must meet once more before they read them: squares were too large for x's type.
    """
    too_large = uint32(0)
    if part.place.y == uint32(0):
        too_large = all_overflowed(variances)
        origin = read(x, uint32(0), part.j)
        write_each(mean, part.j, part.owned, (
            float64(origin[0]) + float64(offset[0]), float64(origin[1]) + float64(offset[1]),
            float64(origin[2]) + float64(offset[2]), float64(origin[3]) + float64(offset[3]),
        ))  # fmt: skip
        write_each(var, part.j, part.owned, variances)
    if cuda.syncthreads_or(too_large):
        put_wide_statistics(shared, x, rows, part, too_large, mean, var)
        return True
    return False


@device_function
def put_wide_statistics(shared, x, rows, part, chosen, mean, var):
    """mean and var of those of four columns whose bit is set, anew in float64, by the uppermost thread of each column."""
    place, n, step = part.place, float64(rows.m), uint32(part.place.down * rows.c)
    zero = float64(0)
    total, squares = (zero, zero, zero, zero), (zero, zero, zero, zero)
    row = place.y
    i = uint32(row * rows.c)
    while row < rows.m:
        total = added(total, read(x, i, part.j))
        row, i = uint32(row + place.down), uint32(i + step)
    add_down_wide(shared, total, place)
    cuda.syncthreads()
    total = kept(shared, place.x)
    center = (total[0] / n, total[1] / n, total[2] / n, total[3] / n)
    row = place.y
    i = uint32(row * rows.c)
    while row < rows.m:
        value = read(x, i, part.j)
        squares = added(squares, (
            gap_squared(value[0], center[0]), gap_squared(value[1], center[1]), gap_squared(value[2], center[2]),
            gap_squared(value[3], center[3]),
        ))  # fmt: skip
        row, i = uint32(row + place.down), uint32(i + step)
    cuda.syncthreads()  # all have read the sums
    squares = add_down_wide(shared, squares, place)
    if place.y == uint32(0):
        owned = part.owned
        put_chosen(mean, var, part.j[0], owned > uint32(0) and chosen & uint32(1), center[0], squares[0] / n)
        put_chosen(mean, var, part.j[1], owned > uint32(1) and chosen & uint32(2), center[1], squares[1] / n)
        put_chosen(mean, var, part.j[2], owned > uint32(2) and chosen & uint32(4), center[2], squares[2] / n)
        put_chosen(mean, var, part.j[3], owned > uint32(3) and chosen & uint32(8), center[3], squares[3] / n)


@device_function
def put_chosen(mean, var, j, is_chosen, center, variance):
    if is_chosen:
        mean[j] = center
        var[j] = variance


@device_function
def gap_squared(value, center):
    gap = float64(value) - center
    return gap * gap
