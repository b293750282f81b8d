"""Micro-kernels of Winograd's convolution: small linear maps of images, as LLVM vector code.

A transform takes m x m rows of channels to n x n rows, by the same one-dimensional map down the columns and along the rows.
Rows are found through tables of addresses. The maps are those of Winograd's F(2, 3) and F(3, 2), from the points 0, 1, -1
and infinity (A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016); their numbers are 0, 1 and
1/2, up to the sign.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.code import INDEX, Loop, VectorCode, index
from minigrad.kernels.cpu.vector.target import REGISTER_BITS

PIXELS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # four pixels of an image
WINDOW = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # three weights
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))  # two outputs, from the products of the two above
OUTPUTS = ((1, 0), (0.5, 0.5), (0.5, -0.5), (0, 1))  # two gradients of outputs
WEIGHTS = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1))  # three gradients of weights, from PIXELS times OUTPUTS
ARGUMENTS = ["sources", "targets", "channels", "bias"]


def applied(code, matrix, values):
    """The one-dimensional map of vectors."""
    builder = code.builder
    half = ir.Constant(code.vector, [0.5] * code.lanes)
    results = []
    for row in matrix:
        total = None
        for factor, value in zip(row, values, strict=True):
            if factor:
                if total is None:
                    total = value if factor > 0 else builder.fsub(code.zero, value)
                else:
                    total = builder.fadd(total, value) if factor > 0 else builder.fsub(total, value)
        results.append(builder.fmul(half, total) if 0.5 in row else total)
    return results


def emit_transform(function, dtype, matrix):
    """The body of a transform."""
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    code = VectorCode(builder, dtype, REGISTER_BITS)
    sources, targets, channels, bias = function.args
    size, results = len(matrix[0]), len(matrix)

    def entry_of(table, i):
        return builder.load(code.pointer(builder.add(table, index(i * 8)), INDEX))

    count = builder.sdiv(builder.add(channels, index(code.lanes - 1)), index(code.lanes))
    loop = Loop(builder, "vector", [])
    start = builder.mul(loop.index, index(code.lanes))
    left = builder.sub(channels, start)
    mask = code.first_lanes(builder.select(builder.icmp_signed("<", left, index(code.lanes)), left, index(code.lanes)))
    shift = builder.mul(start, index(code.bytes))
    rows = [
        [code.load(builder.add(entry_of(sources, i * size + j), shift), mask) for j in range(size)] for i in range(size)
    ]
    columns = [applied(code, matrix, [rows[i][j] for i in range(size)]) for j in range(size)]
    has_bias = builder.icmp_signed("!=", bias, index(0))
    entry = builder.block
    with builder.if_then(has_bias):
        loaded = code.load(builder.add(bias, shift), mask)
        then = builder.block
    start_value = builder.phi(code.vector)
    start_value.add_incoming(code.zero, entry)
    start_value.add_incoming(loaded, then)
    for i in range(results):
        for j, value in enumerate(applied(code, matrix, [columns[q][i] for q in range(size)])):
            if results == len(RESULT):
                value = builder.fadd(value, start_value)
            code.store(value, builder.add(entry_of(targets, i * results + j), shift), mask)
    loop.close([], count)
    builder.ret_void()


def transform(name, matrix):
    """The intrinsic name(dtype, sources, targets, channels, bias): tables of addresses, the channels of a row.

    `bias` is the address of a row that is added to results, or 0.
    """

    def typed(typingctx, dtype, sources, targets, channels, bias):
        def codegen(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.VoidType(), [INDEX] * len(ARGUMENTS))
            full_name = f"minigrad_winograd_{name}_{dtype.dtype}_{REGISTER_BITS}"
            function = cgutils.get_or_insert_function(builder.module, kind, full_name)
            if function.is_declaration:
                function.linkage = "internal"
                function.attributes.add("noinline")
                function.attributes.add("nounwind")
                emit_transform(function, dtype.dtype, matrix)
            builder.call(function, arguments[1:])
            return context.get_dummy_value()

        return types.void(dtype, *[types.intp] * len(ARGUMENTS)), codegen

    typed.__name__ = typed.__qualname__ = name
    return intrinsic(typed)


transform_pixels = transform("transform_pixels", PIXELS)
transform_window = transform("transform_window", WINDOW)
transform_result = transform("transform_result", RESULT)
transform_outputs = transform("transform_outputs", OUTPUTS)
transform_weights = transform("transform_weights", WEIGHTS)
