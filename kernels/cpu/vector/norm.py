"""Micro-kernels of batch normalization as LLVM vector code: sums over rows, and the rows themselves.

    column_sums        over the rows of a chunk, kept in registers: the sums of dz and of dz (x - mean),
                       or those of x - shift and of its square
    normalized_rows    y = (x - mean) scale + beta, and ReLU of that
    gradient_rows      dx = scale dz + slope (x - mean) + offset

dz is the gradient before the activation: dy itself, dy where ReLU let x through, or dy y (1 - y) for sigmoid. All walk
down a strip of up to MAX_VECTORS registers' columns, whose coefficients stay in registers on the way, and ask the cache for
the rows to come: columns of a wide matrix are too far apart for the CPU to guess them all.

The coefficients come as a table (6, c): the mean as a float and the remainder, scale, beta, slope and offset.
"""

import functools

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu.vector.code import INDEX, Loop, VectorCode, call_function, index
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.tiles import MAX_VECTORS

DEVIATION = 3  # in place of an activation, for column_sums: dz is x - shift too; the table is one row, the shift
HIGH, LOW, SCALE, BETA, SLOPE, OFFSET = range(6)  # rows of the table
AHEAD = 8  # rows from the one at work to the one that the cache is asked for
UNROLLED = 4  # rows that are added to each other before they are added to the sums
ARGUMENTS = ["dy", "x", "y", "wide_step", "x_step", "rows", "table", "table_step", "first", "second", "lanes"]


def call_strip(builder, emit, name, dtype, vectors, activation, arguments, numbers=(IDENTITY, RELU, SIGMOID)):
    """Call the function for a width and an activation, both known only at run time."""
    done = builder.append_basic_block("strip_done")
    cases = builder.switch(builder.add(builder.mul(activation, index(MAX_VECTORS)), vectors), done)
    for number in numbers:
        for width in range(1, MAX_VECTORS + 1):
            block = builder.append_basic_block(f"strip_{width}_{number}")
            cases.add_case(index(number * MAX_VECTORS + width), block)
            builder.position_at_end(block)
            full_name = f"minigrad_{name}_{dtype}_{REGISTER_BITS}_{width}_{number}"
            body = functools.partial(emit, dtype=dtype, width=width, activation=number)
            call_function(builder, full_name, arguments, ARGUMENTS, body)
            builder.branch(done)
    builder.position_at_end(done)


class StripCode(VectorCode):
    """Emits what both kernels share, for a strip of columns."""

    def __init__(self, builder, dtype, width, activation, table, table_step, lanes):
        super().__init__(builder, dtype, REGISTER_BITS)
        self.width, self.activation = width, activation
        self.masks = [None] * (width - 1) + [self.first_lanes(lanes)]
        given = 1 if activation == DEVIATION else 6
        self.coefficients = [self.row(builder.add(table, builder.mul(index(k), table_step))) for k in range(given)]
        self.one = ir.Constant(self.vector, [1.0] * self.lanes)

    def row(self, address):
        """The registers of a row."""
        step = self.lanes * self.bytes
        return [self.load(self.builder.add(address, index(j * step)), mask) for j, mask in enumerate(self.masks)]

    def ask_for(self, address, step):
        """Ask the cache for the row AHEAD rows further on."""
        for j in range(self.width):
            offset = self.builder.mul(step, index(AHEAD))
            self.prefetch(self.builder.add(address, self.builder.add(offset, index(j * self.lanes * self.bytes))))

    def put(self, address, values):
        """Write a row."""
        step = self.lanes * self.bytes
        for j, (value, mask) in enumerate(zip(values, self.masks, strict=True)):
            self.store(value, self.builder.add(address, index(j * step)), mask)

    def deviation(self, x):
        """x - mean of a row at an address, but for the mean's remainder."""
        return [self.builder.fsub(value, self.coefficients[HIGH][j]) for j, value in enumerate(self.row(x))]

    def normalized(self, far):
        """(x - mean) scale + beta, from the deviation."""
        _, low, scale, beta, *_ = self.coefficients
        return [self.fma(self.builder.fsub(d, low[j]), scale[j], beta[j]) for j, d in enumerate(far)]

    def where_positive(self, z, value):
        """`value`, but zero where z <= 0."""
        return self.builder.select(self.builder.fcmp_ordered("<=", z, self.zero), self.zero, value)

    def gradient(self, dy, x, y):
        """(dz, x - mean) of a row, given the addresses of its elements."""
        builder = self.builder
        far = self.deviation(x)
        if self.activation == DEVIATION:
            return far, far
        gradients = self.row(dy)
        if self.activation == RELU:
            gradients = [self.where_positive(z, g) for z, g in zip(self.normalized(far), gradients, strict=True)]
        elif self.activation == SIGMOID:
            for j, v in enumerate(self.row(y)):
                gradients[j] = builder.fmul(builder.fmul(gradients[j], v), builder.fsub(self.one, v))
        return gradients, far


@intrinsic
def column_sums(
    typingctx, dtype, vectors, activation, dy, x, y, wide_step, x_step, rows, table, table_step, first, second, lanes
):
    """first = sum of dz, second = sum of dz (x - mean) over `rows` rows, for the columns of a strip; or see DEVIATION.

    Addresses, and steps in bytes, of the strip's first elements; dy and y have the same step. Of the last register only
    `lanes` elements count.
    """

    def codegen(context, builder, signature, arguments):
        _, vectors, activation, *rest = arguments
        numbers = IDENTITY, RELU, SIGMOID, DEVIATION
        call_strip(builder, emit_sums, "column_sums", dtype.dtype, vectors, activation, rest, numbers)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * (2 + len(ARGUMENTS))), codegen


def emit_sums(function, dtype, width, activation):
    """The body of `column_sums`."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    dy, x, y, wide_step, x_step, rows, table, table_step, first, second, lanes = function.args
    code = StripCode(builder, dtype, width, activation, table, table_step, lanes)
    sums = [code.zero] * (2 * width)
    places = [dy, x, y]

    def add_rows(count, repeats, sums, places):
        entry = builder.block
        body = builder.append_basic_block(f"rows_{count}")
        done = builder.append_basic_block(f"rows_{count}_done")
        builder.cbranch(builder.icmp_signed(">", repeats, index(0)), body, done)
        builder.position_at_end(body)
        counter = builder.phi(INDEX)
        counter.add_incoming(index(0), entry)
        carried = [builder.phi(value.type) for value in sums + places]
        for phi, value in zip(carried, sums + places, strict=True):
            phi.add_incoming(value, entry)
        firsts, seconds, at = carried[:width], carried[width : 2 * width], carried[2 * width :]
        terms = []
        for _ in range(count):
            code.ask_for(at[1], x_step)
            if activation != DEVIATION:
                code.ask_for(at[0], wide_step)
            gradients, far = code.gradient(*at)
            terms.append((gradients, far))
            at = [builder.add(place, step) for place, step in zip(at, (wide_step, x_step, wide_step), strict=True)]
        results = []
        for j in range(width):
            columns = [gradients[j] for gradients, _ in terms]
            results.append(builder.fadd(firsts[j], tree(builder, columns)))
        for j in range(width):
            pairs = [(gradients[j], far[j]) for gradients, far in terms]
            halves = []
            for k in range(0, count, 2):
                product = builder.fmul(*pairs[k])
                halves.append(code.fma(*pairs[k + 1], product) if k + 1 < count else product)
            results.append(builder.fadd(seconds[j], tree(builder, halves)))
        following = builder.add(counter, index(1))
        last = builder.block
        counter.add_incoming(following, last)
        for phi, value in zip(carried, results + at, strict=True):
            phi.add_incoming(value, last)
        builder.cbranch(builder.icmp_signed("<", following, repeats), body, done)
        builder.position_at_end(done)
        after = []
        for before, value in zip(sums + places, results + at, strict=True):
            phi = builder.phi(before.type)
            phi.add_incoming(before, entry)
            phi.add_incoming(value, last)
            after.append(phi)
        return after[: 2 * width], after[2 * width :]

    sums, places = add_rows(UNROLLED, builder.sdiv(rows, index(UNROLLED)), sums, places)
    sums, places = add_rows(1, builder.srem(rows, index(UNROLLED)), sums, places)
    code.put(first, sums[:width])
    code.put(second, sums[width:])
    builder.ret_void()


def tree(builder, values):
    """The sum of values, neighbours first."""
    while len(values) > 1:
        values = [
            builder.fadd(values[k], values[k + 1]) if k + 1 < len(values) else values[k]
            for k in range(0, len(values), 2)
        ]
    return values[0]


@intrinsic
def normalized_rows(
    typingctx,
    dtype,
    vectors,
    activation,
    unused,
    x,
    y,
    wide_step,
    x_step,
    rows,
    table,
    table_step,
    first,
    second,
    lanes,
):
    """y = (x - mean) scale + beta, or ReLU of that, for the columns of a strip of `rows` rows."""

    def codegen(context, builder, signature, arguments):
        _, vectors, activation, *rest = arguments
        numbers = IDENTITY, RELU
        call_strip(builder, emit_normalized, "normalized_rows", dtype.dtype, vectors, activation, rest, numbers)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * (2 + len(ARGUMENTS))), codegen


def emit_normalized(function, dtype, width, activation):
    """The body of `normalized_rows`."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _, x, y, wide_step, x_step, rows, table, table_step, _, _, lanes = function.args
    code = StripCode(builder, dtype, width, activation, table, table_step, lanes)
    loop = Loop(builder, "row", [x, y])
    at_x, at_y = loop.values
    code.ask_for(at_x, x_step)
    code.ask_for(at_y, wide_step)
    values = code.normalized(code.deviation(at_x))
    code.put(at_y, [code.where_positive(z, z) for z in values] if activation == RELU else values)
    loop.close([builder.add(at_x, x_step), builder.add(at_y, wide_step)], rows)
    builder.ret_void()


@intrinsic
def gradient_rows(
    typingctx, dtype, vectors, activation, dy, x, y, wide_step, x_step, rows, table, table_step, dx, unused, lanes
):
    """dx = scale dz + (slope (x - mean) + offset) for the columns of a strip of `rows` rows; dx has the step of x."""

    def codegen(context, builder, signature, arguments):
        _, vectors, activation, *rest = arguments
        call_strip(builder, emit_rows, "gradient_rows", dtype.dtype, vectors, activation, rest)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * (2 + len(ARGUMENTS))), codegen


def emit_rows(function, dtype, width, activation):
    """The body of `gradient_rows`."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    dy, x, y, wide_step, x_step, rows, table, table_step, dx, _, lanes = function.args
    code = StripCode(builder, dtype, width, activation, table, table_step, lanes)
    scale, slope, offset = (code.coefficients[k] for k in (SCALE, SLOPE, OFFSET))
    loop = Loop(builder, "row", [dy, x, y, dx])
    at_dy, at_x, at_y, at_dx = loop.values
    code.ask_for(at_dy, wide_step)
    code.ask_for(at_x, x_step)
    code.ask_for(at_dx, x_step)
    gradients, far = code.gradient(at_dy, at_x, at_y)
    rest = [code.fma(slope[j], far[j], offset[j]) for j in range(width)]
    code.put(at_dx, [code.fma(scale[j], gradients[j], rest[j]) for j in range(width)])
    steps = ((at_dy, wide_step), (at_x, x_step), (at_y, wide_step), (at_dx, x_step))
    loop.close([builder.add(place, step) for place, step in steps], rows)
    builder.ret_void()
