"""Products of small matrices by the 32 threads of a warp, for kernels (PTX ISA, mma.sync and ldmatrix; sm_80).

mma_tf32, mma_bf16           on tensor cores, m16n8k8 with .tf32 and m16n8k16 with .bf16
to_tf32, bf16_pair           numbers of float32 rounded to what these take
bf16_values                  the numbers of float32 that a pair of bfloat16 stands for
ldmatrix4, ldmatrix4_trans   four matrices of 8 x 8 numbers of 16 bits from shared memory, as a warp multiplies them, or turned
"""

import functools

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from minigrad.kernels.cuda.tools.language import (
    SHARED,
    WORD,
    assembly,
    float32,
    intrinsic,
    is_memory,
    neighbours,
    pointer_to,
    simulated_block,
    uint32,
)


def to_tf32(x):
    """The bits of a float32 rounded to TF32, 10 bits of significand: to the nearest, halves away from zero."""
    if np.isnan(x):
        return np.uint32(0x7FFFFFFF)
    return (np.float32(x).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


@intrinsic
def _to_tf32(typing_context, x):
    def generate(context, builder, signature, arguments):
        return assembly(builder, WORD, arguments, "cvt.rna.tf32.f32 $0, $1;", "=r,f", effects=False)

    return uint32(float32), generate


@overload(to_tf32)
def _compiled_to_tf32(x):
    return lambda x: _to_tf32(x)


def mma_tf32(c, a, b):
    """C + A B by a warp, A 16 x 8, B 8 x 8, C 16 x 8; each thread holds parts of them, and gets its part of the result.

    In lane 4 g + t, c is (C[g, 2 t], C[g, 2 t + 1], C[g + 8, 2 t], C[g + 8, 2 t + 1]) in float32; the others are bits from
    to_tf32: a (A[g, t], A[g + 8, t], A[g, t + 4], A[g + 8, t + 4]), b (B[t, g], B[t + 4, g]).
    """
    return simulated_block().mma_tf32(c, a, b)


@intrinsic
def _mma_tf32(typing_context, c, a, b):
    return FRAGMENTS, functools.partial(generate_mma, "m16n8k8.row.col.f32.tf32.tf32.f32")


QUADS, PAIRS = types.UniTuple(uint32, 4), types.UniTuple(uint32, 2)
FRAGMENTS = types.UniTuple(float32, 4)(types.UniTuple(float32, 4), QUADS, PAIRS)  # of sums, of A and of B


def generate_mma(kind, context, builder, signature, arguments):
    """The instruction for matrices of a shape and type."""
    sums, left, right = (
        [builder.extract_value(argument, k) for k in range(n)] for argument, n in zip(arguments, (4, 4, 2), strict=True)
    )
    text = f"mma.sync.aligned.{kind} {{$0,$1,$2,$3}},{{$4,$5,$6,$7}},{{$8,$9}},{{$10,$11,$12,$13}};"
    result = ir.LiteralStructType([ir.FloatType()] * 4)
    constraints = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f"
    value = assembly(builder, result, left + right + sums, text, constraints, effects=False)
    parts = [builder.extract_value(value, k) for k in range(4)]
    return context.make_tuple(builder, signature.return_type, parts)


@overload(mma_tf32)
def _compiled_mma_tf32(c, a, b):
    return lambda c, a, b: _mma_tf32(c, a, b)


def bf16_pair(low, high):
    """The bits of two float32 rounded to bfloat16, the first in the lower half: to the nearest, halves to the even one."""
    return np.uint32(bf16_bits(low) | bf16_bits(high) << 16)


def bf16_bits(x):
    """The upper 16 bits of a float32 rounded to as many; a NaN is the one that PTX makes of all."""
    if np.isnan(x):
        return 0x7FFF
    bits = int(np.float32(x).view(np.uint32))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@intrinsic
def _bf16_pair(typing_context, low, high):
    def generate(context, builder, signature, arguments):
        low, high = arguments
        return assembly(builder, WORD, [high, low], "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", effects=False)

    return uint32(float32, float32), generate


@overload(bf16_pair)
def _compiled_bf16_pair(low, high):
    return lambda low, high: _bf16_pair(low, high)


def bf16_values(pair):
    """The two numbers of a word of bf16_pair, as float32."""
    return tuple(simulated_block().bf16_of(pair))


@intrinsic
def _bf16_values(typing_context, pair):
    def generate(context, builder, signature, arguments):
        (pair,) = arguments
        words = builder.shl(pair, WORD(16)), builder.and_(pair, WORD(0xFFFF0000))
        parts = [builder.bitcast(word, ir.FloatType()) for word in words]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(float32, 2)(uint32), generate


@overload(bf16_values)
def _compiled_bf16_values(pair):
    return lambda pair: _bf16_values(pair)


def mma_bf16(c, a, b):
    """C + A B by a warp, A 16 x 16, B 16 x 8, C 16 x 8; each thread holds parts of them, and gets its part of the result.

    c is as in mma_tf32. The others are words of two bfloat16 that are neighbours along the depth, the first in the lower
    half, named here by that: in lane 4 g + t, a is (A[g, 2 t], A[g + 8, 2 t], A[g, 2 t + 8], A[g + 8, 2 t + 8]),
    b (B[2 t, g], B[2 t + 8, g]).
    """
    return simulated_block().mma_bf16(c, a, b)


@intrinsic
def _mma_bf16(typing_context, c, a, b):
    return FRAGMENTS, functools.partial(generate_mma, "m16n8k16.row.col.f32.bf16.bf16.f32")


@overload(mma_bf16)
def _compiled_mma_bf16(c, a, b):
    return lambda c, a, b: _mma_bf16(c, a, b)


def ldmatrix4(shared, i):
    """Four matrices of 8 x 8 numbers of 16 bits, by a warp from words of shared memory (PTX ISA, ldmatrix).

    The lane 8 m + r says where row r of the matrix m begins, at a multiple of four words; its 8 numbers lie there in a row. The
    lane 4 g + t gets of each matrix the word with its elements [g, 2 t] and [g, 2 t + 1].
    """
    return simulated_block().ldmatrix(neighbours("ldmatrix", shared, i), False)


def ldmatrix4_trans(shared, i):
    """The same, of the matrices turned: the lane 4 g + t gets the elements [2 t, g] and [2 t + 1, g]."""
    return simulated_block().ldmatrix(neighbours("ldmatrix", shared, i), True)


def ldmatrix_intrinsic(modifier):
    """An intrinsic that reads matrices as they lie or turned."""

    @intrinsic
    def read(typing_context, shared, i):
        if not is_memory(shared, (uint32,)):
            raise TypingError(f"ldmatrix reads words of uint32, not {shared}")

        def generate(context, builder, signature, arguments):
            pointer = pointer_to(context, builder, signature.args[0], *arguments)
            if pointer.type.addrspace != SHARED:
                pointer = builder.addrspacecast(pointer, ir.PointerType(WORD, SHARED))
            text = f"ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 {{$0,$1,$2,$3}}, [$4];"
            result, address = ir.LiteralStructType([WORD] * 4), builder.ptrtoint(pointer, WORD)
            value = assembly(builder, result, [address], text, "=r,=r,=r,=r,r,~{memory}", effects=True)
            parts = [builder.extract_value(value, k) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return QUADS(shared, i), generate

    return read


_ldmatrix4, _ldmatrix4_trans = ldmatrix_intrinsic(""), ldmatrix_intrinsic(".trans")


@overload(ldmatrix4)
def _compiled_ldmatrix4(shared, i):
    return lambda shared, i: _ldmatrix4(shared, i)


@overload(ldmatrix4_trans)
def _compiled_ldmatrix4_trans(shared, i):
    return lambda shared, i: _ldmatrix4_trans(shared, i)
