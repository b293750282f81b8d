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
from numba.core import types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.code import INDEX, LANE, Loop, VectorCode, call_function, index
from minigrad.kernels.cpu.vector.copies import LINE
from minigrad.kernels.cpu.vector.target import REGISTER_BITS, REGISTERS


def tile_height(vectors):
    """Rows of a tile `vectors` registers wide: accumulators, one row of B and a broadcast must fit in the registers."""
    return min((REGISTERS - vectors - 1) // vectors, 24 // vectors)


MAX_VECTORS = 3  # registers across a tile; wider ones read more of B for each row of A, and gain nothing
HEIGHTS = (0, *(tile_height(v) for v in range(1, MAX_VECTORS + 1)))


def heights(vectors):
    """The tiles there are for a width, from low to high: a third, two thirds and all of the full height."""
    full = HEIGHTS[vectors]
    return sorted({-(-full // 3), -(-2 * full // 3), full})


def call_tile(builder, emit, name, dtype, vectors, rows, arguments, labels):
    """Call the tile for `vectors` and `rows`, known only at run time: a choice among LLVM functions, one for each size.

    The highest tiles of several registers come in pairs of rows as well.
    """

    def call(height, width, pairs=False):
        full_name = f"minigrad_{name}_{dtype}_{REGISTER_BITS}_{height}x{width}" + ("_pairs" if pairs else "")
        call_function(builder, full_name, arguments, labels, lambda tile: emit(tile, dtype, height, width, pairs))

    half = REGISTER_BITS // dtype.bitwidth // 2
    is_half = builder.icmp_signed("<=", arguments[labels.index("lanes")], index(half))
    done = builder.append_basic_block("tile_done")
    switch = builder.switch(vectors, done)
    for width in range(1, MAX_VECTORS + 1):
        block = builder.append_basic_block(f"tile_{width}")
        switch.add_case(index(width), block)
        builder.position_at_end(block)
        *lower, full = heights(width)
        for height in lower:
            with builder.if_then(builder.icmp_signed("<=", rows, index(height))):
                call(height, width)
                builder.branch(done)
        if width > 1:
            with builder.if_then(is_half):
                call(full, width, pairs=True)
                builder.branch(done)
        call(full, width)
        builder.branch(done)
    builder.position_at_end(done)


def clamp(builder, i, rows):
    """min(i, rows - 1)."""
    if i == 0:
        return index(0)
    last = builder.sub(rows, index(1))
    return builder.select(builder.icmp_signed("<", index(i), last), index(i), last)


class Tile:
    """The registers of a tile: `vectors` for each of its rows, the last of them with `lanes` elements.

    With `pairs`, if at most half of its lanes are used, the last register of every second row holds the end of the next row
    too, in its upper half. A row of two and a half registers then costs two and a half, not three.
    """

    def __init__(self, code, height, vectors, lanes, pairs):
        self.code, self.pairs = code, pairs
        self.step = code.lanes * code.bytes
        self.places = []  # of every register: the rows it belongs to, and its number in them
        for i in range(height):
            own = vectors - 1 if pairs else vectors
            self.places += [((i,), j) for j in range(own)]
            if pairs and i % 2 == 0:
                self.places.append(((i, min(i + 1, height - 1)), vectors - 1))
        self.vectors = vectors
        self.half = code.lanes // 2
        self.low, self.high = code.first_lanes(lanes), code.first_lanes(lanes, self.half)
        upper = [i >= self.half for i in range(code.lanes)]
        self.upper = ir.Constant(code.mask_type, upper)

    def parts(self, rows, j):
        """(row, mask, bytes from the row's address to where the register would begin) of a register's halves, or of all."""
        if len(rows) == 1:
            return [(rows[0], self.low if j == self.vectors - 1 else None, j * self.step)]
        begin = j * self.step
        return [(rows[0], self.low, begin), (rows[1], self.high, begin - self.half * self.code.bytes)]

    def start(self, start, row_of):
        """The registers: the rows at the addresses row_of(i), or zeros if `start` is 0."""
        code, builder = self.code, self.code.builder
        entry = builder.block
        with builder.if_then(builder.icmp_signed("!=", start, index(0))):
            loaded = []
            for rows, j in self.places:
                halves = [code.load(builder.add(row_of(i), index(n)), mask) for i, mask, n in self.parts(rows, j)]
                loaded.append(halves[0] if len(halves) == 1 else builder.select(self.upper, halves[1], halves[0]))
            then = builder.block
        registers = []
        for value in loaded:
            phi = builder.phi(code.vector)
            phi.add_incoming(code.zero, entry)
            phi.add_incoming(value, then)
            registers.append(phi)
        return registers

    def store(self, c_rows, registers):
        """Write the registers to the rows of C."""
        for (rows, j), value in zip(self.places, registers, strict=True):
            for i, mask, n in self.parts(rows, j):
                self.code.store(value, self.code.builder.add(c_rows[i], index(n)), mask)

    def multiply_add(self, a_addresses, b_row, registers):
        """registers += outer product of one column of A and one row of B."""
        code, builder = self.code, self.code.builder
        last = self.vectors - 1
        b = [
            code.load(builder.add(b_row, index(j * self.step)), self.low if j == last else None)
            for j in range(last + 1)
        ]
        if self.pairs:
            twice = [i % self.half for i in range(code.lanes)]
            b[last] = builder.shuffle_vector(b[last], b[last], ir.Constant(ir.VectorType(LANE, code.lanes), twice))
        a = functools.cache(lambda i: code.broadcast(a_addresses[i]))
        result = []
        for (rows, j), value in zip(self.places, registers, strict=True):
            factor = a(rows[0]) if len(rows) == 1 else builder.select(self.upper, a(rows[1]), a(rows[0]))
            result.append(code.fma(factor, b[j], value))
        return result


ROWS_ARGUMENTS = ["a_rows", "c_rows", "c_shift", "start_rows", "tap_list", "taps", "b", "b_step", "lanes", "a_ahead"]
COLS_ARGUMENTS = [
    *("a", "count_0", "a_step_0", "b_step_0", "count_1", "a_step_1", "b_step_1", "depth", "a_step"),
    *("b", "b_step", "c", "c_step", "rows", "lanes", "accumulate", "a_ahead", "b_ahead"),
]


@intrinsic
def tile_rows(
    typingctx, dtype, vectors, rows, a_rows, c_rows, c_shift, start_rows, tap_list, taps, b, b_step, lanes, a_ahead
):  # fmt: skip
    """C[rows, vectors] = S[rows, vectors] + sum over taps, and over the k of each tap, of A(tap, i, k) B(tap, k, :).

    a_rows, c_rows and start_rows are addresses of int64 tables with the addresses of the rows of A, C and S, as many as
    HEIGHTS[vectors]; from `rows` on they repeat the last. c_shift is added to those of C. S may be C itself, or one row of
    biases for all; start_rows 0 stands for zeros. tap_list is the address of an int64 table (taps, 3): what a tap adds to
    the addresses of A's rows, the first of its rows of B, and its depth in k. Steps and shifts are in bytes. On the way the
    cache is asked for what lies a_ahead bytes further on than A, for as many bytes in order as the tile has of A, or for
    nothing if it is None.
    """
    follows = not isinstance(a_ahead, types.NoneType)
    name = "tile_rows_ahead" if follows else "tile_rows"

    def codegen(context, builder, signature, arguments):
        _, vectors, rows, *rest = arguments
        rest[-1] = rest[-1] if follows else index(0)
        emit = functools.partial(emit_tile_rows, follows=follows)
        call_tile(builder, emit, name, dtype.dtype, vectors, rows, rest, ROWS_ARGUMENTS)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * (1 + len(ROWS_ARGUMENTS)), a_ahead), codegen


def emit_tile_rows(function, dtype, height, vectors, pairs, follows):
    """The body of `tile_rows`."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    code = VectorCode(builder, dtype, REGISTER_BITS)
    a_rows, c_rows, c_shift, start_rows, tap_list, taps, b, b_step, lanes, a_ahead = function.args

    def entry_of(table, i):
        return builder.load(code.pointer(builder.add(table, index(i * 8)), INDEX))

    tile = Tile(code, height, vectors, lanes, pairs)
    accumulators = tile.start(start_rows, lambda i: entry_of(start_rows, i))
    over_taps = Loop(builder, "tap", accumulators)
    tap = builder.add(tap_list, builder.mul(over_taps.index, index(24)))
    a_shift, b_shift, depth = entry_of(tap, 0), builder.mul(entry_of(tap, 1), b_step), entry_of(tap, 2)
    a_addresses = [builder.add(entry_of(a_rows, i), a_shift) for i in range(height)]
    over_k = Loop(builder, "k", [*over_taps.values, builder.add(b, b_shift)])
    *accumulators, b_row = over_k.values
    if follows:
        column = height * code.bytes  # what a step in k uses up of the tile's memory
        place = builder.add(builder.add(a_addresses[0], a_ahead), builder.mul(over_k.index, index(column)))
        for line in range(0, column, LINE):
            code.prefetch(builder.add(place, index(line)))
    step = builder.mul(over_k.index, index(code.bytes))
    addresses = [builder.add(row, step) for row in a_addresses]
    accumulators = tile.multiply_add(addresses, b_row, accumulators)
    over_k.close([*accumulators, builder.add(b_row, b_step)], depth)
    over_taps.close(accumulators, taps)
    c_addresses = [builder.add(entry_of(c_rows, i), c_shift) for i in range(height)]
    tile.store(c_addresses, accumulators)
    builder.ret_void()


@intrinsic
def tile_cols(
    typingctx, dtype, vectors, a, count_0, a_step_0, b_step_0, count_1, a_step_1, b_step_1, depth, a_step, b, b_step,
    c, c_step, rows, lanes, accumulate, a_ahead, b_ahead,
):  # fmt: skip
    """C[rows, vectors] (+)= sum of A(k, i) B(k, :) over a nest of three loops, count_0 x count_1 x depth.

    A(k, i) lies i elements after `a`, B(k, :) at `b`, both moved on by their steps, in bytes, with each loop. On the way
    the cache is asked for what lies a_ahead and b_ahead bytes further on.
    """

    def codegen(context, builder, signature, arguments):
        _, vectors, *rest = arguments
        rows = rest[COLS_ARGUMENTS.index("rows")]
        call_tile(builder, emit_tile_cols, "tile_cols", dtype.dtype, vectors, rows, rest, COLS_ARGUMENTS)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * (1 + len(COLS_ARGUMENTS))), codegen


def emit_tile_cols(function, dtype, height, vectors, pairs):
    """The body of `tile_cols`."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    code = VectorCode(builder, dtype, REGISTER_BITS)
    a, n0, a0, b0, n1, a1, b1, depth, a_step, b, b_step, c, c_step, rows, lanes, accumulate, a_ahead, b_ahead = (
        function.args
    )
    inside = [clamp(builder, i, rows) for i in range(height)]
    c_rows = [builder.add(c, builder.mul(i, c_step)) for i in inside]
    within = [builder.mul(i, index(code.bytes)) for i in inside]
    tile = Tile(code, height, vectors, lanes, pairs)
    accumulators = tile.start(accumulate, lambda i: c_rows[i])
    outer = Loop(builder, "outer", [*accumulators, a, b])
    middle = Loop(builder, "middle", outer.values)
    inner = Loop(builder, "k", middle.values)
    *accumulators, a_column, b_row = inner.values
    code.prefetch(builder.add(a_column, a_ahead))
    code.prefetch(builder.add(b_row, b_ahead))
    addresses = [builder.add(a_column, offset) for offset in within]
    accumulators = tile.multiply_add(addresses, b_row, accumulators)
    inner.close([*accumulators, builder.add(a_column, a_step), builder.add(b_row, b_step)], depth)
    *_, a_start, b_start = middle.values
    middle.close([*accumulators, builder.add(a_start, a1), builder.add(b_start, b1)], n1)
    *_, a_start, b_start = outer.values
    outer.close([*accumulators, builder.add(a_start, a0), builder.add(b_start, b0)], n0)
    tile.store(c_rows, accumulators)
    builder.ret_void()
