"""Scalar operations below Python's arithmetic: one rounding instead of two, choice without a branch, fields of a float.

Each is a plain Python function that says what is meant, and has an LLVM body of a few instructions that takes its place
in compiled code. None holds a branch, so loops over them become vector code; and where the CPU has fused multiply-add,
none calls a function of libm (elsewhere `fma` does: slow, and the same bits). Integers have the width of the float they
come from: a wider one would halve the lanes. Other types than float32 and float64, or two types in one call, are a
TypingError.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

# Flags for all code that is inlined into kernels. Were a kernel's "contract" inherited, the last product of a formula
# could fuse with an addition of the kernel, and the formula's bits would depend on what is done with its value; were
# "reassoc", the rounding in (x + whole) - whole would be optimized away.
STRICT = {"fastmath": False, "error_model": "numpy"}


class FloatFormat(NamedTuple):
    """How a float type is stored: its types in LLVM and NumPy, stored bits of the significand, bias of the exponent."""

    real: ir.Type
    integer: ir.IntType
    numpy: type
    stored_bits: int
    bias: int

    def constant(self, value):
        return ir.Constant(self.real, float(value))

    def integer_constant(self, value):
        return ir.Constant(self.integer, value)

    def bits_of(self, value):
        number = self.numpy(value)
        return self.integer_constant(int(number.view(f"u{number.itemsize}")))


FORMATS = {
    types.float32: FloatFormat(ir.FloatType(), ir.IntType(32), np.float32, 23, 127),
    types.float64: FloatFormat(ir.DoubleType(), ir.IntType(64), np.float64, 52, 1023),
}


def common_format(*operands):
    """Return the format of the operands' one Numba type."""
    if operands[0] not in FORMATS or any(operand != operands[0] for operand in operands):
        found = ", ".join(str(operand) for operand in operands)
        raise TypingError(f"expected operands all float32 or all float64, got {found}; convert them to one type first")
    return FORMATS[operands[0]]


def fma(a, b, c):
    """Return a * b + c, rounded once (outside compiled code: from a sum in wider precision, where the platform has it)."""
    if isinstance(c, np.float32):  # the product of two of them is exact in float64
        return np.float32(float(a) * float(b) + float(c))
    return type(c)(np.longdouble(a) * b + c)


@intrinsic
def _fma(typing_context, a, b, c):
    common_format(a, b, c)

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return c(a, b, c), generate


@overload(fma, jit_options=STRICT)
def _compiled_fma(a, b, c):
    return lambda a, b, c: _fma(a, b, c)


def polynomial(x, coefficients):
    """Return coefficients[0] + coefficients[1] x + coefficients[2] x**2 + ..., by Horner's rule in `fma`."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = fma(value, x, coefficient)
    return value


@intrinsic
def _polynomial(typing_context, x, coefficients):
    common_format(x, *coefficients)

    def generate(context, builder, signature, arguments):
        x, packed = arguments
        remaining = [builder.extract_value(packed, i) for i in range(len(coefficients))]
        value = remaining.pop()
        while remaining:
            value = builder.fma(value, x, remaining.pop())
        return value

    return x(x, coefficients), generate


@overload(polynomial, jit_options=STRICT)
def _compiled_polynomial(x, coefficients):
    return lambda x, coefficients: _polynomial(x, coefficients)


def sqrt(x):
    """Return the square root of x, rounded to the nearest; NaN below 0."""
    return np.sqrt(x)


@intrinsic
def _sqrt(typing_context, x):
    layout = common_format(x)

    def generate(context, builder, signature, arguments):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [layout.real]), arguments)

    return x(x), generate


@overload(sqrt, jit_options=STRICT)
def _compiled_sqrt(x):
    return lambda x: _sqrt(x)


def sin(x):
    """Return the sine of x, as the platform's mathematical library has it: one call for each element, at any x."""
    return np.sin(x)


@overload(sin, jit_options=STRICT)
def _compiled_sin(x):
    return lambda x: math.sin(x)


def cos(x):
    """Return the cosine of x, as `sin`."""
    return np.cos(x)


@overload(cos, jit_options=STRICT)
def _compiled_cos(x):
    return lambda x: math.cos(x)


def select(condition, a, b):
    """Return a, converted to the type of b, if condition holds, else b; both are computed."""
    return type(b)(a) if condition else b


@intrinsic
def _select(typing_context, condition, a, b):
    common_format(b)

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return b(types.boolean, b, b), generate


@overload(select, jit_options=STRICT)
def _compiled_select(condition, a, b):
    return lambda condition, a, b: _select(condition, a, b)


def copysign(x, sign):
    """Return |x| with the sign of `sign`, which may be a zero's."""
    return type(x)(math.copysign(x, sign))


@intrinsic
def _copysign(typing_context, x, sign):
    layout = common_format(x, sign)

    def generate(context, builder, signature, arguments):
        magnitude, sign = (builder.bitcast(argument, layout.integer) for argument in arguments)
        sign_bit = layout.integer_constant(1 << (layout.integer.width - 1))
        magnitude = builder.and_(magnitude, builder.not_(sign_bit))
        return builder.bitcast(builder.or_(magnitude, builder.and_(sign, sign_bit)), layout.real)

    return x(x, sign), generate


@overload(copysign, jit_options=STRICT)
def _compiled_copysign(x, sign):
    return lambda x, sign: _copysign(x, sign)


def power_of_two(n):
    """Return 2**n for a whole float n for which that is a normal number; for any other n, any number or NaN."""
    return type(n)(2.0 ** float(n))


@intrinsic
def _power_of_two(typing_context, n):
    layout = common_format(n)

    def generate(context, builder, signature, arguments):
        # Floats of this size lie 1 apart: the lowest bits of the sum are the whole number n + bias.
        sum_ = builder.fadd(arguments[0], layout.constant(1.5 * 2.0**layout.stored_bits + layout.bias))
        bits = builder.bitcast(sum_, layout.integer)
        return builder.bitcast(builder.shl(bits, layout.integer_constant(layout.stored_bits)), layout.real)

    return n(n), generate


@overload(power_of_two, jit_options=STRICT)
def _compiled_power_of_two(n):
    return lambda n: _power_of_two(n)


def split_exponent(x):
    """Return floats m and n, x = m 2**n with n whole and sqrt(1/2) <= m < sqrt(2), of a positive normal number x.

    Any other x, NaN and the infinities too, gives any two numbers.
    """
    m, n = np.frexp(x)
    if m < type(x)(math.sqrt(0.5)):
        m, n = 2 * m, n - 1
    return type(x)(m), type(x)(n)


@intrinsic
def _split_exponent(typing_context, x):
    layout = common_format(x)

    def generate(context, builder, signature, arguments):
        smallest_m = layout.bits_of(math.sqrt(0.5))
        stored_bits = layout.integer_constant(layout.stored_bits)
        # Counted from the bits of sqrt(1/2), the exponent field steps where m would reach sqrt(2).
        distance = builder.sub(builder.bitcast(arguments[0], layout.integer), smallest_m)
        fraction = builder.and_(distance, layout.integer_constant((1 << layout.stored_bits) - 1))
        m = builder.bitcast(builder.add(fraction, smallest_m), layout.real)
        # The bias keeps the field positive. Put into the lowest bits of 2.0**stored_bits it is a float, without the
        # conversion from 64-bit integers that AVX2 lacks.
        biased = builder.add(distance, layout.integer_constant(layout.bias << layout.stored_bits))
        field = builder.or_(builder.lshr(biased, stored_bits), layout.bits_of(2.0**layout.stored_bits))
        offset = layout.constant(2.0**layout.stored_bits + layout.bias)
        n = builder.fsub(builder.bitcast(field, layout.real), offset)
        return context.make_tuple(builder, signature.return_type, (m, n))

    return types.UniTuple(x, 2)(x), generate


@overload(split_exponent, jit_options=STRICT)
def _compiled_split_exponent(x):
    return lambda x: _split_exponent(x)


def by_precision(x, single, double):
    """Return `single` where x is a float32, else `double`; compiled code decides by the type of x, before it runs."""
    return single if isinstance(x, np.float32) else double


@intrinsic
def _by_precision(typing_context, x, single, double):
    is_single = common_format(x) is FORMATS[types.float32]

    def generate(context, builder, signature, arguments):
        return arguments[1] if is_single else arguments[2]

    return (single if is_single else double)(x, single, double), generate


@overload(by_precision, jit_options=STRICT)
def _compiled_by_precision(x, single, double):
    return lambda x, single, double: _by_precision(x, single, double)
