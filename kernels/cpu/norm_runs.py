"""Micro-kernels of batch normalization's gradient as LLVM vector code: sums over rows, and the rows themselves.

    gradient_sums    over the rows of a chunk, the sums of dz and of dz (x - mean), kept in registers
    gradient_rows    dx = scale dz + slope (x - mean) + offset

dz is the gradient before the activation: dy itself, dy where ReLU let x through, or dy y (1 - y) for sigmoid. Both walk
down a strip of up to MAX_VECTORS registers' columns, whose coefficients stay in registers on the way.

The coefficients come as a table (6, c): the mean as a float and the remainder, scale, beta, slope and offset.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu.simd import INDEX, MAX_VECTORS, Loop, VectorCode, index
from minigrad.kernels.cpu.target import REGISTER_BITS

HIGH, LOW, SCALE, BETA, SLOPE, OFFSET = range(6)  # rows of the table
UNROLLED = 4  # rows that are added to each other before they are added to the sums
ARGUMENTS = ["dy", "x", "y", "wide_step", "x_step", "rows", "table", "table_step", "first", "second", "lanes"]


def call_strip(builder, emit, name, dtype, vectors, activation, arguments):
    """Call the function for a width and an activation, both known only at run time."""
    kind = ir.FunctionType(ir.VoidType(), [INDEX] * len(ARGUMENTS))
    done = builder.append_basic_block("strip_done")
    cases = builder.switch(builder.add(builder.mul(activation, index(MAX_VECTORS)), vectors), done)
    for number in (IDENTITY, RELU, SIGMOID):
        for width in range(1, MAX_VECTORS + 1):
            block = builder.append_basic_block(f"strip_{width}_{number}")
            cases.add_case(index(number * MAX_VECTORS + width), block)
            builder.position_at_end(block)
            full_name = f"minigrad_{name}_{dtype}_{REGISTER_BITS}_{width}_{number}"
            function = cgutils.get_or_insert_function(builder.module, kind, full_name)
            if function.is_declaration:
                function.linkage = "internal"
                function.attributes.add("noinline")
                function.attributes.add("nounwind")
                for argument, label in zip(function.args, ARGUMENTS, strict=True):
                    argument.name = label
                emit(function, dtype, width, number)
            builder.call(function, arguments)
            builder.branch(done)
    builder.position_at_end(done)


class StripCode(VectorCode):
    """Emits what both kernels share, for a strip of columns."""

    def __init__(self, builder, dtype, width, activation, table, table_step, lanes):
        super().__init__(builder, dtype, REGISTER_BITS)
        self.width, self.activation = width, activation
        self.masks = [None] * (width - 1) + [self.first_lanes(lanes)]
        self.coefficients = [self.row(builder.add(table, builder.mul(index(k), table_step))) for k in range(6)]
        self.one = ir.Constant(self.vector, [1.0] * self.lanes)

    def row(self, address):
        """The registers of a row."""
        step = self.lanes * self.bytes
        return [self.load(self.builder.add(address, index(j * step)), mask) for j, mask in enumerate(self.masks)]

    def put(self, address, values):
        """Write a row."""
        step = self.lanes * self.bytes
        for j, (value, mask) in enumerate(zip(values, self.masks, strict=True)):
            self.store(value, self.builder.add(address, index(j * step)), mask)

    def gradient(self, dy, x, y):
        """(dz, x - mean) of a row, given the addresses of its elements."""
        builder, (high, low, scale, beta, *_) = self.builder, self.coefficients
        xs = self.row(x)
        gradients = self.row(dy)
        far = [builder.fsub(u, h) for u, h in zip(xs, high, strict=True)]
        if self.activation == RELU:
            for j in range(self.width):
                z = self.fma(builder.fsub(far[j], low[j]), scale[j], beta[j])
                gradients[j] = builder.select(builder.fcmp_ordered("<=", z, self.zero), self.zero, gradients[j])
        elif self.activation == SIGMOID:
            for j, v in enumerate(self.row(y)):
                gradients[j] = builder.fmul(builder.fmul(gradients[j], v), builder.fsub(self.one, v))
        return gradients, far


@intrinsic
def gradient_sums(
    typingctx, dtype, vectors, activation, dy, x, y, wide_step, x_step, rows, table, table_step, first, second, lanes
):
    """first = sum of dz, second = sum of dz (x - mean) over `rows` rows, for the columns of a strip.

    Addresses, and steps in bytes, of the strip's first elements; dy and y have the same step. Of the last register only
    `lanes` elements count.
    """

    def codegen(context, builder, signature, arguments):
        _, vectors, activation, *rest = arguments
        call_strip(builder, emit_sums, "gradient_sums", dtype.dtype, vectors, activation, rest)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * (2 + len(ARGUMENTS))), codegen


def emit_sums(function, dtype, width, activation):
    """The body of `gradient_sums`."""
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
    gradients, far = code.gradient(at_dy, at_x, at_y)
    rest = [code.fma(slope[j], far[j], offset[j]) for j in range(width)]
    code.put(at_dx, [code.fma(scale[j], gradients[j], rest[j]) for j in range(width)])
    steps = ((at_dy, wide_step), (at_x, x_step), (at_y, wide_step), (at_dx, x_step))
    loop.close([builder.add(place, step) for place, step in steps], rows)
    builder.ret_void()
