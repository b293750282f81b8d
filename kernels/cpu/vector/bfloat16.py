"""Numbers rounded to bfloat16, two to a word of 32 bits, and the product of such words, as LLVM vector code.

A bfloat16 number is the upper half of a float32, rounded to the nearest, of two equally near to the even one. Two factors that
meet the same sum stand in one word, the first in its lower half: AVX512_BF16 multiplies both with those of another word and
adds the products to a float32. Micro-kernels are told of words by the dtype uint32, whose lanes are as wide as float32's.

    round_row    words of neighbours in a row: of a factor whose shared index runs along its rows
    pair_rows    words of two rows, number by number: of one whose shared index runs down

The instructions take numbers below 2**-126 for zero, in factors and in sums, and add the second product of a word first,
each sum rounded to the nearest; what they do with a NaN and infinities is what float32 arithmetic does.
"""

from llvmlite import ir
from numba.core import cgutils

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.values import minimum, where

HALF = ir.IntType(16)


def rounded(code, low, high):
    """The words of two registers: of neighbours, those of `low` before those of `high`."""
    halves = ir.VectorType(HALF, 2 * code.lanes)
    kind = ir.FunctionType(halves, [code.vector, code.vector])
    function = cgutils.get_or_insert_function(code.builder.module, kind, "llvm.x86.avx512bf16.cvtne2ps2bf16.512")
    return low.each(lambda low, high: code.builder.call(function, [high, low]), high)


def as_floats(code, halves):
    """Words as a register of floats, which is what moves them."""
    return halves.each(lambda register: code.builder.bitcast(register, code.vector))


def interleaved(code, halves):
    """Of neighbours in two registers the words of one from each."""
    order = [lane + part for lane in range(code.lanes) for part in (0, code.lanes)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), 2 * code.lanes), order)
    return halves.each(lambda register: code.builder.shuffle_vector(register, register, order))


@micro_kernel()
def round_row(code, source, count, target):
    """The words of `count` numbers in a row, of the last and zero if they are odd."""
    for each in code.loop(count // (2 * code.lanes), source=source, target=target):
        low, high = code.load(each.source, count=2)
        code.store(as_floats(code, rounded(code, low, high)), each.target)
        each.source += 2 * code.width
        each.target += code.width
    left = count % (2 * code.lanes)
    with code.only_if(left > 0):
        low = code.load(each.source, code.first_lanes(minimum(left, code.lanes)))
        high = code.load(each.source + code.width, code.first_lanes(where(left > code.lanes, left - code.lanes, 0)))
        words = as_floats(code, rounded(code, low, high))
        code.store(words, each.target, code.first_lanes((left + 1) // 2))


@micro_kernel(inline=True)
def pair_rows(code, first, second, both, count, target):
    """The words of two rows of `count` numbers, of the first row and zeros unless `both`; whole registers are written."""
    there = where(both != 0, count, 0)
    second = where(both != 0, second, first)
    for each in code.loop((count + (code.lanes - 1)) // code.lanes, first=first, second=second, target=target):
        start = each.number * code.lanes
        low = code.load(each.first, code.first_lanes(minimum(count - start, code.lanes)))
        high = code.load(each.second, code.first_lanes(where(there > start, there - start, 0)))
        code.store(as_floats(code, interleaved(code, rounded(code, low, high))), each.target)
        each.first += code.width
        each.second += code.width
        each.target += code.width


def multiply_add_words(code, a, b, sums):
    """sums + the products of both numbers of each word of a and b."""
    words = ir.VectorType(ir.IntType(32), code.lanes)
    kind = ir.FunctionType(code.vector, [code.vector, words, words])
    function = cgutils.get_or_insert_function(code.builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")

    def multiply(a, b, total):
        return code.builder.call(function, [total, code.builder.bitcast(a, words), code.builder.bitcast(b, words)])

    return a.each(multiply, b, sums)
