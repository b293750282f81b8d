"""What registers hold, as values of Python whose operators emit the instructions: see vector/code.py."""

import functools

from llvmlite import ir
from numba.core import cgutils

from minigrad.kernels.cpu.vector.target import HAS_FMA

NAMES = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}  # of types, at the end of the names of LLVM's functions


def arithmetic(integers, floats, swapped=False):
    """The operator that emits one instruction for integers and conditions, another for floats."""

    def operate(self, other):
        a, b = (self.like(other), self) if swapped else (self, self.like(other))
        return a.each(getattr(self.builder, floats if self.is_float else integers), b)

    return operate


def comparison(sign):
    """The operator that compares signed integers, or floats: false where one is NaN."""

    def operate(self, other):
        compare = self.builder.fcmp_ordered if self.is_float else self.builder.icmp_signed
        return self.each(lambda a, b: compare(sign, a, b), self.like(other))

    return operate


class Value:
    """What registers hold: integers, floats or conditions, one or a vector of them in each of several registers.

    Operators work register by register; where one value has a single register, it meets all of the other's. A number of
    Python stands for itself in all lanes.
    """

    __hash__ = None  # whether two are equal is known when the code runs

    def __init__(self, builder, *registers):
        self.builder, self.registers, self.type = builder, registers, registers[0].type
        self.is_float = not isinstance(element_of(self.type), ir.IntType)

    def __iter__(self):
        return (Value(self.builder, register) for register in self.registers)

    def __getitem__(self, i):
        return Value(self.builder, self.registers[i])

    def __bool__(self):
        raise TypeError("not known before the code runs: use where(), code.only_if() or code.first_case()")

    def like(self, other):
        """`other`, or if it is a number, that in all lanes of this type."""
        return other if isinstance(other, Value) else Value(self.builder, constant(self.type, other))

    def each(self, instruction, *others):
        """instruction(register, those of the others) for all registers."""
        values = [self, *others]
        count = max(len(value.registers) for value in values)
        columns = (value.registers * (count // len(value.registers)) for value in values)
        return Value(self.builder, *(instruction(*registers) for registers in zip(*columns, strict=True)))

    __add__ = __radd__ = arithmetic("add", "fadd")
    __sub__, __rsub__ = arithmetic("sub", "fsub"), arithmetic("sub", "fsub", swapped=True)
    __mul__ = __rmul__ = arithmetic("mul", "fmul")
    __truediv__ = arithmetic(None, "fdiv")
    __floordiv__, __mod__ = arithmetic("sdiv", None), arithmetic("srem", None)  # of integers that are not negative
    __and__ = arithmetic("and_", None)
    __lt__, __le__, __gt__, __ge__, __eq__, __ne__ = map(comparison, ("<", "<=", ">", ">=", "==", "!="))

    def __invert__(self):
        return self.each(self.builder.not_)

    def __neg__(self):
        return self.each(self.builder.fneg if self.is_float else self.builder.neg)

    def to(self, kind):
        """Converted to another type: integers cut, filled up by zeros, or made floats; floats made doubles."""
        if self.is_float:
            convert = self.builder.fpext if kind != self.type else lambda register, kind: register
        elif not isinstance(element_of(kind), ir.IntType):
            convert = self.builder.sitofp
        elif element_of(kind).width < element_of(self.type).width:
            convert = self.builder.trunc
        else:
            convert = self.builder.zext
        return self.each(lambda register: convert(register, kind))


def element_of(kind):
    """The type of a vector's elements, or of what is no vector."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def constant(kind, number):
    """A number, in all lanes if the type is a vector."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def join(values):
    """The registers of all values, as one value."""
    return Value(values[0].builder, *(register for value in values for register in value.registers))


def where(condition, a, b):
    """a where the condition holds, else b: both are computed, without a branch. One of them may be a number."""
    a, b = (a, a.like(b)) if isinstance(a, Value) else (b.like(a), b)
    return condition.each(condition.builder.select, a, b)


def across(value, combine):
    """All lanes of a register combined, in every lane."""
    lanes = value.type.count
    step = lanes // 2
    while step:
        turned = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [(i + step) % lanes for i in range(lanes)])
        shuffle = functools.partial(value.builder.shuffle_vector, mask=turned)
        value = combine(value, value.each(shuffle, value))
        step //= 2
    return value


def minimum(a, b):
    """The smaller of two integers."""
    return where(a < b, a, b)


def fma(a, b, c):
    """a * b + c, rounded once where the target can."""
    if not HAS_FMA:
        return a * b + c
    return a.each(lambda *three: call_llvm(a.builder, "fma", a.type, a.type, three), b, c)


def call_llvm(builder, name, vector, result, arguments, ending=""):
    """Call a function that LLVM has for every type of vectors."""
    full_name = f"llvm.{name}.v{vector.count}{NAMES.get(vector.element, vector.element)}{ending}"
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full_name), arguments)
