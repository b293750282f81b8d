"""Micro-kernels of layer normalization's gradient as LLVM vector code, for some rows of x and dy that follow each other.

    slope_rows      sum of g, and sum of g h, of each row, in float64
    gradient_rows   dx = scale (g - level - h slope); dgamma += sum over the rows of dy h, dbeta += sum of dy, in float64

with h = ((x - high) - low) scale and g = dy gamma. Where the address of gamma is 0, g is dy, and dgamma and dbeta stay as they
are. `table` has a row of ROWS numbers each for high, low, scale, level and slope. Addresses and steps are in bytes, n is the
length of a row. The rows that are taken together are added up in the precision of x, as their products are rounded anyway.
"""

import operator

from numba.core import types

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.values import across, fma

# Rows that are taken together: half as much is read and written of dgamma and dbeta as by single rows. Four at a time are
# faster in the cache and slower in memory, where a large dx is then written in too many places at once.
ROWS = 2
HIGH, LOW, SCALE, LEVEL, SLOPE = range(5)  # rows of the table
DOUBLE = types.float64


def by_affine(code, call, gamma):
    """The function with gamma or the one without."""
    for affine in code.first_case({True: gamma > 0, False: True}):
        call(affine=affine)


def by_rows(code, call, gamma, rows):
    """The same, for ROWS rows or for one."""
    for together in code.first_case({ROWS: rows == ROWS, 1: True}):
        for affine in code.first_case({True: gamma > 0, False: True}):
            call(affine=affine, together=together)


def column(code, table, row, r):
    """A number of the table, for row r of those taken together."""
    return code.broadcast(table + (row * ROWS + r) * code.bytes)


@micro_kernel(by_affine)
def slope_rows(code, dy, x, gamma, dx, step, rows, n, table, sums, *, affine):
    """`sums` is a table of float64 numbers, of two rows of ROWS. dx is fetched, since memory comes fastest in order."""
    whole, rest = n // code.lanes, n % code.lanes
    nothing = code.everywhere(0.0).to(code.doubles)
    for row in code.loop(rows, at_least=1, dy=dy, x=x, dx=dx, table=table, sums=sums):
        high, low, scale = (column(code, row.table, i, 0) for i in (HIGH, LOW, SCALE))

        def add(part, distance, mask, x=row.x, dy=row.dy, high=high, low=low, scale=scale):
            g = code.load(dy + distance, mask)
            g = (g * code.load(gamma + distance, mask) if affine else g).to(code.doubles)
            h = (((code.load(x + distance, mask) - high) - low) * scale).to(code.doubles)
            part.total += g
            part.along = fma(g, h, part.along)

        for part in code.loop(whole, total=nothing, along=nothing):
            add(part, part.number * code.width, None)
            code.prefetch(row.dx + part.number * code.width)
        with code.only_if(rest > 0, total=part.total, along=part.along) as part:
            add(part, whole * code.width, code.first_lanes(rest))
        first = code.first_lanes(code.index(1))
        code.store(across(part.total, operator.add), row.sums, first, stored=DOUBLE)
        code.store(across(part.along, operator.add), row.sums + ROWS * 8, first, stored=DOUBLE)
        row.dy += step
        row.x += step
        row.dx += step
        row.table += code.bytes
        row.sums += 8


@micro_kernel(by_rows)
def gradient_rows(code, dy, x, gamma, dx, step, n, table, dgamma, dbeta, *, affine, together):
    """dgamma and dbeta are the addresses of float64 numbers, one for each column."""
    whole, rest = n // code.lanes, n % code.lanes
    known = [[column(code, table, i, r) for i in range(5)] for r in range(together)]

    def strip(number, mask):
        distance, wide = number * code.width, number * code.lanes * 8
        factor = code.load(gamma + distance, mask) if affine else None
        places = [distance + step * r for r in range(together)]
        # All is loaded before anything is stored: a load would wait for a store that is a multiple of 4,096 bytes away.
        loaded = [(code.load(dy + here, mask), code.load(x + here, mask)) for here in places]
        along = total = None
        for here, (d, value), (high, low, scale, level, slope) in zip(places, loaded, known, strict=True):
            h = ((value - high) - low) * scale
            g = fma(factor, d, -level) if affine else d - level
            code.store(fma(h, -slope, g) * scale, dx + here, mask)
            along = d * h if along is None else fma(d, h, along)
            total = d if total is None else total + d
        if affine:
            for value, sums in ((along, dgamma), (total, dbeta)):
                sum_ = code.load(sums + wide, mask, stored=DOUBLE) + value.to(code.doubles)
                code.store(sum_, sums + wide, mask, stored=DOUBLE)

    for each in code.loop(whole):
        strip(each.number, None)
    with code.only_if(rest > 0):
        strip(whole, code.first_lanes(rest))
