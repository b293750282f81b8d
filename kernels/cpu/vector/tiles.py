"""Matrix micro-kernels as LLVM vector code: one tile of C += A B held in registers.

A tile is some rows by `vectors` SIMD registers. Both kernels run over the shared index k in order and add one fused
multiply-add per element and k, starting from what C holds (or from zero). An element of C is therefore the same chain of
operations whatever the tile, the blocking or the number of threads: the same bits.

    tile_rows   the rows of A and C are found through tables of addresses, and k runs through one row after another of a
                list of taps: a matrix product has one tap, a convolution one for each position of its window
    tile_cols   a column of A lies contiguous, and k runs through a nest of three loops: transposed products have one,
                the gradient of a convolution's weights runs over images, rows and columns

B is read a row at a time, `b_step` bytes apart, so it may be the matrix itself or a packed panel. The last register of a
tile may be partly used (`lanes` of it; where half is enough, two rows share it), and so may the last rows: a smaller tile is
taken where one fits, and surplus rows compute and store the last row again, the same bits. No memory outside the matrices is
touched.

The idea of addressing rows through a table is M. Dukhan's indirect convolution (2019); tiling and packing follow
K. Goto and R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).
"""

import functools

from llvmlite import ir

from minigrad.kernels.cpu.vector.code import fma, join, micro_kernel, minimum, where
from minigrad.kernels.cpu.vector.copies import LINE
from minigrad.kernels.cpu.vector.target import REGISTERS


def tile_height(vectors):
    """Rows of a tile `vectors` registers wide: accumulators, one row of B and a broadcast must fit in the registers."""
    return min((REGISTERS - vectors - 1) // vectors, 24 // vectors)


MAX_VECTORS = 3  # registers across a tile; wider ones read more of B for each row of A, and gain nothing
WIDTHS = range(1, MAX_VECTORS + 1)
HEIGHTS = (0, *map(tile_height, WIDTHS))


def heights(vectors):
    """The tiles there are for a width, from low to high: a third, two thirds and all of the full height."""
    full = HEIGHTS[vectors]
    return sorted({-(-full // 3), -(-2 * full // 3), full})


def choose_tile(code, call, vectors, rows, lanes):
    """The lowest tile that has enough rows. The highest of several registers come in pairs of rows as well."""
    for width in code.first_case({width: vectors == width for width in WIDTHS}):
        *lower, full = heights(width)
        cases = {(height, False): rows <= height for height in lower}
        if width > 1:
            cases[full, True] = lanes <= code.lanes // 2
        cases[full, False] = True
        for height, pairs in code.first_case(cases):
            call(height=height, width=width, pairs=pairs)


class Tile:
    """The registers of a tile: `width` for each of its rows, the last of them with `lanes` elements.

    With `pairs`, if at most half of its lanes are used, the last register of every second row holds the end of the next row
    too, in its upper half. A row of two and a half registers then costs two and a half, not three.
    """

    def __init__(self, code, height, width, lanes, pairs):
        self.code, self.height, self.width, self.pairs = code, height, width, pairs
        self.places = []  # of every register: the rows it belongs to, and its number in them
        for i in range(height):
            own = width - 1 if pairs else width
            self.places += [((i,), j) for j in range(own)]
            if pairs and i % 2 == 0:
                self.places.append(((i, min(i + 1, height - 1)), width - 1))
        self.half = code.lanes // 2
        self.low, self.high = code.first_lanes(lanes), code.first_lanes(lanes, self.half)

    def halves(self, low, high):
        """The lower half of one vector and the upper half of another."""
        is_upper = ir.Constant(ir.VectorType(ir.IntType(1), self.code.lanes), [i >= self.half for i in range(self.code.lanes)])
        return low.each(lambda low, high: self.code.builder.select(is_upper, high, low), high)

    def parts(self, rows, j):
        """(row, mask, bytes from the row's address to where the register would begin) of a register's halves, or of all."""
        begin = j * self.code.width
        if len(rows) == 1:
            return [(rows[0], self.low if j == self.width - 1 else None, begin)]
        return [(rows[0], self.low, begin), (rows[1], self.high, begin - self.half * self.code.bytes)]

    def start(self, condition, find_rows):
        """The registers: what lies in the rows at the addresses find_rows() if the condition holds, else zeros."""
        code = self.code
        with code.only_if(condition, sums=code.everywhere(0.0, len(self.places))) as tile:
            addresses = find_rows()
            loaded = []
            for rows, j in self.places:
                values = [code.load(addresses[i] + shift, mask) for i, mask, shift in self.parts(rows, j)]
                loaded.append(self.halves(*values) if len(values) == 2 else values[0])
            tile.sums = join(loaded)
        return tile.sums

    def store(self, sums, addresses):
        """Write the registers to the rows at the addresses."""
        for (rows, j), value in zip(self.places, sums, strict=True):
            for i, mask, shift in self.parts(rows, j):
                self.code.store(value, addresses[i] + shift, mask)

    def multiply_add(self, a, b, sums):
        """sums + outer product of a column of A, whose elements are at the addresses `a`, and the row of B at `b`."""
        code = self.code
        row = list(code.load(b, self.low, self.width))
        if self.pairs:  # the end of B's row, for both halves
            row[-1] = code.shuffled(row[-1], row[-1], [i % self.half for i in range(code.lanes)])
        element = functools.cache(lambda i: code.broadcast(a[i]))
        results = []
        for (rows, j), value in zip(self.places, sums, strict=True):
            factors = [element(i) for i in rows]
            factor = self.halves(*factors) if len(factors) == 2 else factors[0]
            results.append(fma(factor, row[j], value))
        return join(results)


@micro_kernel(choose_tile)
def tile_rows(
    code, a_rows, c_rows, c_shift, start_rows, tap_list, taps, b, b_step, lanes, a_ahead, *, height, width, pairs
):  # fmt: skip
    """C[rows, vectors] = S[rows, vectors] + sum over taps, and over the k of each tap, of A(tap, i, k) B(tap, k, :).

    a_rows, c_rows and start_rows are addresses of int64 tables with the addresses of the rows of A, C and S, as many as
    HEIGHTS[vectors]; from `rows` on they repeat the last. c_shift is added to those of C. S may be C itself, or one row of
    biases for all; start_rows 0 stands for zeros. tap_list is the address of an int64 table (taps, 3): what a tap adds to
    the addresses of A's rows, the first of its rows of B, and its depth in k. Steps and shifts are in bytes. On the way the
    cache is asked for what lies a_ahead bytes further on than A, for as many bytes in order as the tile has of A, or for
    nothing if it is None.
    """
    tile = Tile(code, height, width, lanes, pairs)
    # 1. Start from S.
    start = tile.start(start_rows != 0, lambda: code.entries(start_rows, height))
    for tap in code.loop(taps, at_least=1, sums=start):
        # 2. A tap says where its rows of A and B are, and how many k it has.
        a_shift, b_first, depth = code.entries(tap_list + tap.number * 24, 3)
        a, tap_b = code.entries(a_rows, height) + a_shift, b + b_first * b_step
        for k in code.loop(depth, at_least=1, sums=tap.sums, b=tap_b):
            # 3. Of each k, a column of A times a row of B.
            if a_ahead is not None:
                column = height * code.bytes  # what a step in k uses up of the tile's memory
                place = a[0] + a_ahead + k.number * column
                for line in range(0, column, LINE):
                    code.prefetch(place + line)
            k.sums = tile.multiply_add(a + k.number * code.bytes, k.b, k.sums)
            k.b += b_step
        tap.sums = k.sums
    tile.store(tap.sums, code.entries(c_rows, height) + c_shift)


@micro_kernel(choose_tile)
def tile_cols(
    code, a, b, outer, middle, inner, c, c_step, rows, lanes, accumulate, a_ahead, b_ahead, *, height, width, pairs
):  # fmt: skip
    """C[rows, vectors] (+)= sum of A(k, i) B(k, :) over a nest of three loops.

    A(k, i) lies i elements after `a`, B(k, :) at `b`. A loop is (count, step of a, step of b), in bytes. On the way the
    cache is asked for what lies a_ahead and b_ahead bytes further on.
    """
    tile = Tile(code, height, width, lanes, pairs)
    # 1. What there are less rows than the tile is high, the last stands for: it is computed several times, to the same bits.
    row = join([code.index(0), *(minimum(i, rows - 1) for i in range(1, height))])
    c_rows, offsets = c + row * c_step, row * code.bytes
    # 2. Start from C or from zeros. The loops move a and b by their own steps, each from where its own round began.
    start = tile.start(accumulate != 0, lambda: c_rows)
    outer_count, *outer_steps = outer
    middle_count, *middle_steps = middle
    inner_count, *inner_steps = inner
    for i in code.loop(outer_count, at_least=1, sums=start, a=a, b=b):
        for j in code.loop(middle_count, at_least=1, sums=i.sums, a=i.a, b=i.b):
            for k in code.loop(inner_count, at_least=1, sums=j.sums, a=j.a, b=j.b):
                code.prefetch(k.a + a_ahead)
                code.prefetch(k.b + b_ahead)
                # 3. A column of A times a row of B.
                k.sums = tile.multiply_add(k.a + offsets, k.b, k.sums)
                move(k, *inner_steps)
            j.sums = k.sums
            move(j, *middle_steps)
        i.sums = j.sums
        move(i, *outer_steps)
    tile.store(i.sums, c_rows)


def move(state, a_step, b_step):
    """A step of a loop of `tile_cols`."""
    state.a += a_step
    state.b += b_step
