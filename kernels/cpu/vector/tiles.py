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

from minigrad.kernels.cpu.vector.bfloat16 import multiply_add_words
from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.copies import LINE
from minigrad.kernels.cpu.vector.target import MACHINE, REGISTERS
from minigrad.kernels.cpu.vector.values import fma, join, minimum, where

MOST_ADDRESSES = 24 if MACHINE in ("aarch64", "arm64") else 12  # in general registers, of which x86 has 16
MAX_VECTORS = 3  # registers across a tile; wider ones read more of B for each row of A, and gain nothing
WIDTHS = range(1, MAX_VECTORS + 1)


def tile_height(vectors):
    """Rows of a tile `vectors` registers wide: accumulators, one row of B and a broadcast must fit in the registers."""
    return min((REGISTERS - vectors - 1) // vectors, 24 // vectors)


COLUMN_HEIGHTS = (0, *map(tile_height, WIDTHS))  # of tile_cols, by width
HEIGHTS = tuple(min(height, MOST_ADDRESSES) for height in COLUMN_HEIGHTS)  # of tile_rows: an address for each row


def choose_tile(highest):
    """Choose the lowest tile that has enough rows: a third, two thirds or all of the highest of that width.

    The highest of several registers come in pairs of rows as well.
    """

    def choose(code, call, vectors, rows, lanes):
        for width in code.first_case({width: vectors == width for width in WIDTHS}):
            full = highest[width]
            cases = {(height, False): rows <= height for height in sorted({-(-full // 3), -(-2 * full // 3)} - {full})}
            if width > 1:
                cases[full, True] = lanes <= code.lanes // 2
            cases[full, False] = True
            for height, pairs in code.first_case(cases):
                call(height=height, width=width, pairs=pairs)

    return choose


class Tile:
    """The registers of a tile: `width` for each of its rows, the last of them with `lanes` elements.

    With `pairs`, if at most half of its lanes are used, the last register of every second row holds the end of the next row
    too, in its upper half. A row of two and a half registers then costs two and a half, not three.
    """

    def __init__(self, code, height, width, lanes, pairs):
        self.code, self.width, self.pairs = code, width, pairs
        self.half = code.lanes // 2
        self.low, self.high, self.is_upper = (
            code.first_lanes(lanes),
            code.first_lanes(lanes, self.half),
            code.from_lane(self.half),
        )
        # Of every register: its number in a row, and (row, mask, bytes from the row's address to where the register would
        # begin) for it or for each half.
        self.layout = []
        for i in range(height):
            for j in range(width):
                begin = j * code.width
                if j < width - 1 or not pairs:
                    self.layout.append((j, [(i, None if j < width - 1 else self.low, begin)]))
                elif i % 2 == 0:
                    following = min(i + 1, height - 1), self.high, begin - self.half * code.bytes
                    self.layout.append((j, [(i, self.low, begin), following]))

    def merged(self, vectors):
        """One vector as it is, or of two the lower half of the first and the upper half of the second."""
        return vectors[0] if len(vectors) == 1 else where(self.is_upper, vectors[1], vectors[0])

    def start(self, condition, find_rows):
        """The registers: what lies in the rows at the addresses find_rows() if the condition holds, else zeros."""
        code = self.code
        with code.only_if(condition, sums=code.everywhere(0.0, len(self.layout))) as tile:
            rows = find_rows()
            loads = ([code.load(rows[i] + begin, mask) for i, mask, begin in parts] for _, parts in self.layout)
            tile.sums = join([self.merged(vectors) for vectors in loads])
        return tile.sums

    def store(self, sums, rows):
        """Write the registers to the rows at the addresses."""
        for (_, parts), value in zip(self.layout, sums, strict=True):
            for i, mask, begin in parts:
                self.code.store(value, rows[i] + begin, mask)

    def multiply_add(self, a, b, sums):
        """sums + outer product of a column of A, whose elements are at the addresses `a`, and the row of B at `b`."""
        code = self.code
        b_row = list(code.load(b, self.low, self.width))
        if self.pairs:  # the end of B's row, for both halves
            b_row[-1] = code.shuffled(b_row[-1], b_row[-1], [i % self.half for i in range(code.lanes)])
        a_element = functools.cache(lambda i: code.broadcast(a[i]))
        # One by one: were all elements of A broadcast before they are multiplied, they would need registers of their own.
        factors = (self.merged([a_element(i) for i, _, _ in parts]) for _, parts in self.layout)
        multiply = functools.partial(multiply_add_words, code) if code.of_words else fma
        return join([multiply(a, b_row[j], c) for a, (j, _), c in zip(factors, self.layout, sums, strict=True)])


@micro_kernel(choose_tile(HEIGHTS))
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


@micro_kernel(choose_tile(COLUMN_HEIGHTS))
def tile_cols(
    code, a, b, outer, middle, inner, c, c_step, rows, lanes, accumulate, a_ahead, b_ahead, *, height, width, pairs
):  # fmt: skip
    """C[rows, vectors] (+)= sum of A(k, i) B(k, :) over a nest of three loops.

    A(k, i) lies i elements after `a`, B(k, :) at `b`. A loop is (count, step of a, step of b), in bytes. On the way the
    cache is asked for what lies a_ahead and b_ahead bytes further on.
    """
    # 1. Where the tile is higher than there are rows, it computes the last one several times, to the same bits.
    row = join([code.index(0), *(minimum(i, rows - 1) for i in range(1, height))])
    c_rows, offsets = c + row * c_step, row * code.bytes
    tile = Tile(code, height, width, lanes, pairs)
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
