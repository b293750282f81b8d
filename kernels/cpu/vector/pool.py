"""Micro-kernels of pooling as LLVM vector code: what a window, or the windows of a pixel, come to, in registers.

    max_run      largest element of a window, and where it was       won_run      its gradient
    mean_run     mean of a window                                    share_run    its gradient

Each does so for a run, elements that lie one behind the other and whose windows have the same shape: the channels of a
pixel, or of several pixels. Windows are walked in row-major order. Sums are in the type of the data: over a row of the
window first, then over the rows. No memory outside the run and its windows is touched.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.code import LANE, Loop, VectorCode, call_function, index
from minigrad.kernels.cpu.vector.target import REGISTER_BITS

VECTORS = 4  # registers of a run that are computed together
UNROLLED = 3  # columns of a window for which there is code without a loop: 3 x 3 is what networks pool over


class RunCode(VectorCode):
    """Emits vector code for places in a window, too: integers as wide as the floats, narrower in memory."""

    def __init__(self, builder, dtype, stored=None):
        super().__init__(builder, dtype, REGISTER_BITS)
        self.places = ir.VectorType(ir.IntType(dtype.bitwidth), self.lanes)
        if stored is not None:
            self.stored_bytes = stored.bitwidth // 8
            self.stored = ir.VectorType(ir.IntType(stored.bitwidth), self.lanes)

    def everywhere(self, value, vector):
        """A number in all lanes."""
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(LANE, 0))
        zeros = ir.Constant(ir.VectorType(LANE, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def place(self, value):
        """A place, given as an index, in all lanes."""
        return self.everywhere(self.builder.trunc(value, self.places.element), self.places)

    def at(self, address, element, size=None):
        """The address of an element."""
        return self.builder.add(address, self.builder.mul(element, index(size or self.bytes)))

    def masked(self, name, result, arguments):
        """LLVM's masked load or store of stored places."""
        return self.intrinsic(f"llvm.masked.{name}.v{self.lanes}i{self.stored.element.width}.p0", result, arguments)

    def load_places(self, address, mask):
        """Stored places at `address`; 0 outside `mask`."""
        builder, pointer, align = self.builder, self.pointer(address, self.stored), ir.Constant(LANE, self.stored_bytes)
        if mask is None:
            value = builder.load(pointer)
            value.align = self.stored_bytes
        else:
            load = self.masked("load", self.stored, [pointer.type, LANE, self.mask_type, self.stored])
            value = builder.call(load, [pointer, align, mask, ir.Constant(self.stored, [0] * self.lanes)])
        return builder.zext(value, self.places)

    def store_places(self, value, address, mask):
        """Write places at `address`, only the lanes of `mask`."""
        builder, pointer, align = self.builder, self.pointer(address, self.stored), ir.Constant(LANE, self.stored_bytes)
        value = builder.trunc(value, self.stored)
        if mask is None:
            builder.store(value, pointer).align = self.stored_bytes
        else:
            store = self.masked("store", ir.VoidType(), [self.stored, pointer.type, LANE, self.mask_type])
            builder.call(store, [value, pointer, align, mask])


def over_run(code, length, body):
    """Emit body(start, vectors, mask) for all elements of a run, VECTORS registers at a time, or one in a short run.

    The last piece begins where it is full; what it shares with the one before is computed twice, to the same bits. What
    is shorter than a register is masked.
    """
    builder = code.builder

    def pieces(vectors):
        width = index(vectors * code.lanes)
        last = builder.sub(length, width)
        count = builder.sdiv(builder.add(length, index(vectors * code.lanes - 1)), width)
        with cgutils.for_range(builder, count) as loop:
            start = builder.mul(loop.index, width)
            body(builder.select(builder.icmp_signed("<", start, last), start, last), vectors, None)

    with builder.if_else(builder.icmp_signed("<", length, index(VECTORS * code.lanes))) as (short, long):
        with short, builder.if_else(builder.icmp_signed("<", length, index(code.lanes))) as (part, whole):
            with part:
                body(index(0), 1, code.first_lanes(length))
            with whole:
                pieces(1)
        with long:
            pieces(VECTORS)


def over_window(builder, rows, columns, unrolled, start, tap, end_row=None):
    """Emit values = tap(values, row, column) for all of rows x columns, both at least 1, and give the values after that.

    With `end_row`, every row begins from `start`, and values = end_row(values before the row, values of the row).
    """
    over_rows = Loop(builder, "row", start)
    values = over_rows.values if end_row is None else start
    if unrolled:
        for column in range(unrolled):
            values = tap(values, over_rows.index, index(column))
    else:
        over_columns = Loop(builder, "column", values)
        values = tap(over_columns.values, over_rows.index, over_columns.index)
        over_columns.close(values, columns)
    if end_row is not None:
        values = end_row(over_rows.values, values)
    over_rows.close(values, rows)
    return values


def call_run(builder, emit, arguments, labels, *options):
    """Call the LLVM function for these options; `emit` writes it where it is used first."""
    name = "_".join(["minigrad", *map(str, [emit.__name__, *options, REGISTER_BITS])])

    def write(function):
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        emit(inside, *function.args, *options)
        inside.ret_void()

    call_function(builder, name, arguments, labels, write)


def call_by_columns(builder, emit, arguments, labels, *options):
    """Call the function that is unrolled for the window's number of columns, or the one with a loop."""
    columns = arguments[labels.index("columns")]
    with builder.if_else(builder.icmp_signed("==", columns, index(UNROLLED))) as (known, other):
        with known:
            call_run(builder, emit, arguments, labels, *options, UNROLLED)
        with other:
            call_run(builder, emit, arguments, labels, *options, 0)


MAX_RUN = ["x", "row_step", "rows", "column_step", "columns", "place", "width", "length", "y", "winner"]
WON_RUN = ["dy", "winner", "row_step", "rows", "column_step", "columns", "place", "down", "across", "length", "dx"]
MEAN_RUN = ["x", "row_step", "rows", "column_step", "columns", "length", "y"]
SHARE_RUN = ["dy", "row_step", "rows", "column_step", "columns", "weights", "weights_step", "length", "dx"]


def offset(builder, row, row_step, column, column_step):
    """row row_step + column column_step."""
    return builder.add(builder.mul(row, row_step), builder.mul(column, column_step))


@intrinsic
def max_run(typingctx, dtype, stored, nan, x, row_step, rows, column_step, columns, place, width, length, y, winner):
    """y = largest of x over a window of rows x columns, winner = its place, for a run of `length` elements.

    x, y and winner are addresses of the run's first element, x in the first pixel of its window, which has the place
    `place` among rows of `width`. Steps are in elements. `nan` tells that there may be a NaN among the elements: it takes
    a second comparison to let the first one win.
    """

    def codegen(context, builder, signature, arguments):
        nan, *rest = arguments[2:]
        with builder.if_else(nan) as (careful, usual):
            with careful:
                call_run(builder, emit_max_run, rest, MAX_RUN, dtype.dtype, stored.dtype, True, 0)
            with usual:
                call_by_columns(builder, emit_max_run, rest, MAX_RUN, dtype.dtype, stored.dtype, False)
        return context.get_dummy_value()

    return types.void(dtype, stored, types.boolean, *[types.intp] * len(MAX_RUN)), codegen


def emit_max_run(
    builder, x, row_step, rows, column_step, columns, place, width, length, y, winner, dtype, stored, nan, unrolled
):  # fmt: skip
    """The body of `max_run`."""
    code = RunCode(builder, dtype, stored)
    lowest = ir.Constant(code.vector, [-float("inf")] * code.lanes)

    def body(start, vectors, mask):
        starts = [builder.add(start, index(j * code.lanes)) for j in range(vectors)]

        def tap(values, row, column):
            here = builder.add(code.place(builder.add(place, builder.mul(row, width))), code.place(column))
            step = offset(builder, row, row_step, column, column_step)
            largest, places = [], []
            for j in range(vectors):
                u, value = code.load(code.at(x, builder.add(starts[j], step)), mask), values[j]
                if nan:  # better than any number, and nothing better than the first
                    better = builder.fcmp_unordered(">", u, value)
                    better = builder.and_(better, builder.fcmp_ordered("ord", value, value))
                else:
                    better = builder.fcmp_ordered(">", u, value)
                largest.append(builder.select(better, u, value))
                places.append(builder.select(better, here, values[vectors + j]))
            return largest + places

        begin = [lowest] * vectors + [code.place(place)] * vectors
        values = over_window(builder, rows, columns, unrolled, begin, tap)
        for j in range(vectors):
            code.store(values[j], code.at(y, starts[j]), mask)
            code.store_places(values[vectors + j], code.at(winner, starts[j], code.stored_bytes), mask)

    over_run(code, length, body)


@intrinsic
def won_run(
    typingctx, dtype, stored, dy, winner, row_step, rows, column_step, columns, place, down, across, length, dx
):
    """dx = sum of dy over those of rows x columns windows whose winner is this pixel, for a run of `length` elements.

    The pixel's place in the first window is `place`; it falls by `down` with every row of windows, and by `across` with
    every column. dy and winner are addresses of the run's first element in the first window. Steps are in elements.
    """

    def codegen(context, builder, signature, arguments):
        call_by_columns(builder, emit_won_run, arguments[2:], WON_RUN, dtype.dtype, stored.dtype)
        return context.get_dummy_value()

    return types.void(dtype, stored, *[types.intp] * len(WON_RUN)), codegen


def emit_won_run(
    builder, dy, winner, row_step, rows, column_step, columns, place, down, across, length, dx, dtype, stored, unrolled
):  # fmt: skip
    """The body of `won_run`."""
    code = RunCode(builder, dtype, stored)

    def gradient(start, mask, row, column):
        element = builder.add(start, offset(builder, row, row_step, column, column_step))
        here = code.place(builder.sub(place, offset(builder, row, down, column, across)))
        places = code.load_places(code.at(winner, element, code.stored_bytes), mask)
        u = code.load(code.at(dy, element), mask)
        return builder.select(builder.icmp_signed("==", places, here), u, code.zero)

    sum_run(code, rows, columns, unrolled, length, gradient, dx)


def sum_run(code, rows, columns, unrolled, length, term, result, divisor=None):
    """Emit result = sum of term(start, mask, row, column), divided by `divisor` if there is one, for all of a run."""
    builder = code.builder

    def body(start, vectors, mask):
        starts = [builder.add(start, index(j * code.lanes)) for j in range(vectors)]

        def tap(sums, row, column):
            return [builder.fadd(total, term(at, mask, row, column)) for total, at in zip(sums, starts, strict=True)]

        def end_row(totals, sums):
            return [builder.fadd(total, row) for total, row in zip(totals, sums, strict=True)]

        sums = over_window(builder, rows, columns, unrolled, [code.zero] * vectors, tap, end_row)
        for at, total in zip(starts, sums, strict=True):
            code.store(total if divisor is None else builder.fdiv(total, divisor), code.at(result, at), mask)

    over_run(code, length, body)


@intrinsic
def mean_run(typingctx, dtype, x, row_step, rows, column_step, columns, length, y):
    """y = mean of x over a window of rows x columns, for a run of elements; arguments as in `max_run`."""

    def codegen(context, builder, signature, arguments):
        call_by_columns(builder, emit_mean_run, arguments[1:], MEAN_RUN, dtype.dtype)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * len(MEAN_RUN)), codegen


def emit_mean_run(builder, x, row_step, rows, column_step, columns, length, y, dtype, unrolled):
    """The body of `mean_run`."""
    code = RunCode(builder, dtype)
    count = code.everywhere(builder.sitofp(builder.mul(rows, columns), code.scalar), code.vector)

    def pixel(start, mask, row, column):
        return code.load(code.at(x, builder.add(start, offset(builder, row, row_step, column, column_step))), mask)

    sum_run(code, rows, columns, unrolled, length, pixel, y, count)


@intrinsic
def share_run(typingctx, dtype, dy, row_step, rows, column_step, columns, weights, weights_step, length, dx):
    """dx = sum of dy times its window's weight over rows x columns windows, for a run of elements.

    weights is the address of the first window's weight, weights_step the elements from one row of windows to the next.
    """

    def codegen(context, builder, signature, arguments):
        call_by_columns(builder, emit_share_run, arguments[1:], SHARE_RUN, dtype.dtype)
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * len(SHARE_RUN)), codegen


def emit_share_run(
    builder, dy, row_step, rows, column_step, columns, weights, weights_step, length, dx, dtype, unrolled
):  # fmt: skip
    """The body of `share_run`."""
    code = RunCode(builder, dtype)

    def share(start, mask, row, column):
        weight = code.broadcast(code.at(weights, builder.add(builder.mul(row, weights_step), column)))
        u = code.load(code.at(dy, builder.add(start, offset(builder, row, row_step, column, column_step))), mask)
        return builder.fmul(u, weight)

    sum_run(code, rows, columns, unrolled, length, share, dx)
