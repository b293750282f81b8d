"""Moving rows of matrices to where the micro-kernels want them, and asking the cache for what comes next."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.code import INDEX, LANE, VectorCode, index
from minigrad.kernels.cpu.vector.target import REGISTER_BITS

LINE = 64  # bytes that the cache fetches at a time


@intrinsic
def copy_row(typingctx, dtype, vectors, source, target, lanes):
    """Copy `vectors` registers of elements, of the last only `lanes`; the rest of it is written as zeros."""

    def codegen(context, builder, signature, arguments):
        _, vectors, source, target, lanes = arguments
        code = VectorCode(builder, dtype.dtype, REGISTER_BITS)
        width = index(code.lanes * code.bytes)
        last = builder.sub(vectors, index(1))
        with cgutils.for_range(builder, last) as loop:
            step = builder.mul(loop.index, width)
            code.store(code.load(builder.add(source, step)), builder.add(target, step))
        step = builder.mul(last, width)
        code.store(code.load(builder.add(source, step), code.first_lanes(lanes)), builder.add(target, step))
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * 4), codegen


@intrinsic
def touch(typingctx, address, count):
    """Read one number of every cache line among `count` bytes, in order, for nothing but to have them in the cache.

    Memory comes fastest to who reads it in order. A tile reads crosswise; so a block is touched before it is worked on.
    """

    def codegen(context, builder, signature, arguments):
        address, count = arguments
        first = builder.and_(address, index(-LINE))
        lines = builder.udiv(builder.sub(builder.add(address, builder.add(count, index(LINE - 1))), first), index(LINE))
        with cgutils.for_range(builder, lines) as loop:
            number = builder.inttoptr(builder.add(first, builder.mul(loop.index, index(LINE))), LANE.as_pointer())
            builder.load_atomic(number, "monotonic", 4)  # the only kind that LLVM keeps though nothing uses it
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


TRANSPOSE_ARGUMENTS = ["source", "source_step", "rows", "columns", "target", "target_step"]


@intrinsic
def transpose_tile(typingctx, dtype, source, source_step, rows, columns, target, target_step):
    """Transpose up to lanes x lanes elements in registers: target[j, i] = source[i, j] for i < rows, j < columns.

    Whole registers are written to each of the `columns` rows of the target, with zeros from `rows` on.
    """

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [INDEX] * len(TRANSPOSE_ARGUMENTS))
        name = f"minigrad_transpose_{dtype.dtype}_{REGISTER_BITS}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        if function.is_declaration:
            function.linkage = "internal"
            function.attributes.add("noinline")
            emit_transpose_tile(function, dtype.dtype)
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * len(TRANSPOSE_ARGUMENTS)), codegen


def emit_transpose_tile(function, dtype):
    """The body of `transpose_tile`: after step s, blocks of 2s x 2s have changed places (Eklundh 1972)."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    code = VectorCode(builder, dtype, REGISTER_BITS)
    source, source_step, rows, columns, target, target_step = function.args
    lanes = code.lanes
    none = index(0)
    values = []
    for i in range(lanes):
        valid = builder.select(builder.icmp_signed("<", index(i), rows), columns, none)
        values.append(code.load(builder.add(source, builder.mul(index(i), source_step)), code.first_lanes(valid)))
    step = 1
    while step < lanes:
        first = [lane if lane & step == 0 else lanes + lane - step for lane in range(lanes)]
        second = [lane + step if lane & step == 0 else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if i & step == 0:
                a, b = values[i], values[i + step]
                for row, picks in ((i, first), (i + step, second)):
                    mask = ir.Constant(ir.VectorType(LANE, lanes), picks)
                    values[row] = builder.shuffle_vector(a, b, mask)
        step *= 2
    for j in range(lanes):
        address = builder.add(target, builder.mul(index(j), target_step))
        with builder.if_then(builder.icmp_signed("<", index(j), columns)):
            code.store(values[j], address)
    builder.ret_void()
