"""Instructions that compare, choose, copy and convert values."""

from llvmlite import ir

from minigrad.kernels.cuda.host import memory
from minigrad.kernels.cuda.host.arithmetic import FLOATS, I32, constant, flushed, width

ORDERED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


def compare(code, op):
    """setp: whether a relation holds, perhaps together with a predicate."""
    op.allow(*ORDERED, *UNSIGNED, *(f"{name}u" for name in ORDERED), "num", "nan", "ftz", "and", "or", "xor")
    b, (relation, *more) = code.builder, op.modifiers
    x, y = (code.read(operand, op.kind) for operand in op.operands[1:3])
    if "ftz" in more:
        x, y = (flushed(code, value, op.kind) for value in (x, y))
    if op.kind in FLOATS:
        if relation in ("num", "nan"):
            holds = b.fcmp_ordered("ord", x, y) if relation == "num" else b.fcmp_unordered("uno", x, y)
        elif relation in ORDERED:
            holds = b.fcmp_ordered(ORDERED[relation], x, y)
        else:
            holds = b.fcmp_unordered(ORDERED[relation[:-1]], x, y)
    elif op.kind[0] == "s":
        holds = b.icmp_signed(ORDERED[relation], x, y)
    else:
        holds = b.icmp_unsigned({**ORDERED, **UNSIGNED}[relation], x, y)
    for name in {"and", "or", "xor"} & {*more}:
        other = code.read(op.operands[3].lstrip("!"), "pred")
        other = b.not_(other) if op.operands[3][0] == "!" else other
        holds = {"and": b.and_, "or": b.or_, "xor": b.xor}[name](holds, other)
    if "|" in op.operands[0]:
        raise op.unknown("a comparison with two results")
    code.write(op.operands[0], "pred", holds)


def choose(code, op):
    """selp: one of two values by a predicate."""
    op.allow()
    x, y = (code.read(operand, op.kind) for operand in op.operands[1:3])
    code.write(op.operands[0], op.kind, code.builder.select(code.read(op.operands[3], "pred"), x, y))


def test(code, op):
    """testp: of what kind a float is."""
    op.allow("finite", "infinite", "number", "notanumber")
    b, x = code.builder, code.read(op.operands[1], op.kind)
    size = code.intrinsic(f"llvm.fabs.{op.kind}", x.type, x)
    infinity = constant(x.type, float("inf"))
    holds = {
        "finite": lambda: b.fcmp_ordered("<", size, infinity),
        "infinite": lambda: b.fcmp_ordered("==", size, infinity),
        "number": lambda: b.fcmp_ordered("ord", x, x),
        "notanumber": lambda: b.fcmp_unordered("uno", x, x),
    }[op.modifiers[0]]()
    code.write(op.operands[0], "pred", holds)


def move(code, op):
    """mov: a value, the halves of one, one of two halves, or a variable's address."""
    op.allow()
    target, source = op.operands
    if "{" in target:
        part = f"b{width(op.kind) // len(op.list_of(0))}"
        whole = code.read(source, f"b{width(op.kind)}")
        for i, register in enumerate(op.list_of(0)):
            value = code.builder.lshr(whole, constant(whole.type, i * width(part)))
            code.write(register, part, code.builder.trunc(value, ir.IntType(width(part))))
    elif "{" in source:
        parts = op.list_of(1)
        part, whole = f"b{width(op.kind) // len(parts)}", ir.IntType(width(op.kind))
        together = constant(whole, 0)
        for i, register in enumerate(parts):
            value = code.builder.zext(code.read(register, part), whole)
            together = code.builder.or_(together, code.builder.shl(value, constant(whole, i * width(part))))
        code.write(target, op.kind, together)
    elif source in code.function.variables or source in code.module.variables:
        memory.move_address(code, op, source)
    else:
        code.write(target, op.kind, code.read(source, op.kind))


ROUNDINGS = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


def convert(code, op):
    """cvt: a number as one of another type."""
    b = code.builder
    if op.instruction.opcode == "cvt.rna.tf32.f32":
        code.write(op.operands[0], "b32", to_tf32(code, code.read(op.operands[1], "b32")))
        return
    if op.instruction.opcode == "cvt.rn.bf16x2.f32":
        high, low = (to_bf16(code, code.read(operand, "b32")) for operand in op.operands[1:])
        code.write(op.operands[0], "b32", b.or_(b.shl(high, constant(I32, 16)), low))
        return
    *modifiers, to = op.modifiers
    op.modifiers = modifiers
    op.allow("rn", "ftz", *ROUNDINGS)
    value = code.read(op.operands[1], op.kind)
    if op.kind in FLOATS:
        if "ftz" in modifiers:
            value = flushed(code, value, op.kind)
        for name in [ROUNDINGS[name] for name in modifiers if name in ROUNDINGS]:
            value = code.intrinsic(f"llvm.{name}.{op.kind}", value.type, value)
    if to in FLOATS:
        value = as_float(code, value, op.kind, to)
    elif op.kind in FLOATS:
        value = as_integer(code, value, op.kind, to)
    elif width(to) < width(op.kind):
        value = b.trunc(value, ir.IntType(width(to)))
    elif width(to) > width(op.kind):
        value = (b.sext if op.kind[0] == "s" else b.zext)(value, ir.IntType(width(to)))
    code.write(op.operands[0], to, value)


def as_float(code, value, kind, to):
    """A number as a float."""
    b = code.builder
    if kind not in FLOATS:
        return (b.sitofp if kind[0] == "s" else b.uitofp)(value, FLOATS[to])
    if kind == to:
        return value
    return b.fpext(value, FLOATS[to]) if to == "f64" else b.fptrunc(value, FLOATS[to])


def as_integer(code, value, kind, to):
    """A float that is whole as the nearest number that there is; NaN is 0, and of 64 bits the one of the sign alone."""
    wanted = ir.IntType(width(to))
    name = f"llvm.fpto{'s' if to[0] == 's' else 'u'}i.sat.i{width(to)}.{kind}"
    result = code.intrinsic(name, wanted, value)
    if width(to) < 64:
        return result
    is_nan = code.builder.fcmp_unordered("uno", value, value)
    return code.builder.select(is_nan, constant(wanted, 1 << 63), result)


def to_tf32(code, bits):
    """The bits of a float32 rounded to 10 bits of significand, halves away from zero."""
    b = code.builder
    value = b.and_(bits, constant(I32, 0x7FFFFFFF))
    rounded = b.and_(b.add(bits, constant(I32, 0x1000)), constant(I32, 0xFFFFE000))
    infinite = b.icmp_unsigned("==", value, constant(I32, 0x7F800000))
    is_nan = b.icmp_unsigned(">", value, constant(I32, 0x7F800000))
    return b.select(is_nan, constant(I32, 0x7FFFFFFF), b.select(infinite, bits, rounded))


def to_bf16(code, bits):
    """The upper 16 bits of a float32 rounded to as many, halves to the even one."""
    b = code.builder
    odd = b.and_(b.lshr(bits, constant(I32, 16)), constant(I32, 1))
    rounded = b.lshr(b.add(bits, b.add(odd, constant(I32, 0x7FFF))), constant(I32, 16))
    is_nan = b.icmp_unsigned(">", b.and_(bits, constant(I32, 0x7FFFFFFF)), constant(I32, 0x7F800000))
    return b.select(is_nan, constant(I32, 0x7FFF), rounded)


TABLE = {"setp": compare, "selp": choose, "testp": test, "mov": move, "cvt": convert}
