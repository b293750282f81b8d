"""Moving rows of matrices to where the micro-kernels want them, and asking the cache for what comes next."""

from numba.core import types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.code import LANE, VectorCode, micro_kernel
from minigrad.kernels.cpu.vector.values import Value, where

LINE = 64  # bytes that the cache fetches at a time


@micro_kernel(inline=True)
def copy_row(code, vectors, source, target, lanes):
    """Copy `vectors` registers of elements, of the last only `lanes`; the rest of it is written as zeros."""
    for vector in code.loop(vectors - 1, source=source, target=target):
        code.store(code.load(vector.source), vector.target)
        vector.source += code.width
        vector.target += code.width
    code.store(code.load(vector.source, code.first_lanes(lanes)), vector.target)


@intrinsic
def touch(typingctx, address, count):
    """Read one number of every cache line among `count` bytes, in order, for nothing but to have them in the cache.

    Memory comes fastest to who reads it in order. A tile reads crosswise; so a block is touched before it is worked on.
    """

    def codegen(context, builder, signature, arguments):
        code = VectorCode(builder, types.float32)
        address, count = (Value(builder, argument) for argument in arguments)
        first = address & -LINE
        lines = (address + (count + (LINE - 1)) - first) // LINE
        for line in code.loop(lines):
            number = code.pointer(first + line.number * LINE, LANE)
            builder.load_atomic(number, "monotonic", 4)  # the only kind that LLVM keeps though nothing uses it
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@micro_kernel()
def transpose_tile(code, source, source_step, rows, columns, target, target_step):
    """Transpose up to lanes x lanes elements in registers: target[j, i] = source[i, j] for i < rows, j < columns.

    Whole registers are written to each of the `columns` rows of the target, with zeros from `rows` on. After step s, blocks
    of 2s x 2s have changed places (Eklundh 1972).
    """
    lanes = code.lanes
    # 1. A row in each register; from `rows` on, no lane of it is read.
    values = [code.load(source + i * source_step, code.first_lanes(where(i < rows, columns, 0))) for i in range(lanes)]
    # 2. Of rows i and i + step, every second block of `step` lanes changes places.
    step = 1
    while step < lanes:
        evens = [lane if lane & step == 0 else lanes + lane - step for lane in range(lanes)]
        odds = [lane + step if lane & step == 0 else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if i & step == 0:
                a, b = values[i], values[i + step]
                values[i], values[i + step] = code.shuffled(a, b, evens), code.shuffled(a, b, odds)
        step *= 2
    # 3. The registers are columns now.
    for j in range(lanes):
        with code.only_if(j < columns):
            code.store(values[j], target + j * target_step)
