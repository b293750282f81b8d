"""Instructions that compute: whole numbers as PTX says to the bit, floats rounded once, to the nearest.

What a card only approximates (rcp.approx, ex2.approx, lg2.approx ...) is here as exact as the host's library has it, so results
may differ from a card's in the last bits, never to the worse. With .ftz numbers below the smallest normal one are 0, as there.
"""

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
FLOATS = {"f32": ir.FloatType(), "f64": ir.DoubleType()}
SMALLEST = {"f32": 2.0**-126, "f64": 2.0**-1022}
ROUNDED = "rn", "ftz", "approx", "full"


def width(kind):
    """Bits of a whole number's type."""
    return int(kind[1:])


def constant(kind, value):
    """A number of one of LLVM's types."""
    return ir.Constant(kind, value)


def values(code, op, first=1, kind=None):
    """The operands behind the result."""
    return [code.read(operand, kind or op.kind) for operand in op.operands[first:]]


def known(code, op):
    """The type must be one that is computed with here."""
    if op.kind not in FLOATS and op.kind[0] not in "sub":
        raise op.unknown(f"the type .{op.kind}")


# Floats


def of_floats(code, op, compute, *modifiers):
    """result = compute(operands), flushed before and after where it says so."""
    op.allow(*ROUNDED, *modifiers)
    arguments = values(code, op)
    flushes = "ftz" in op.modifiers
    if flushes:
        arguments = [flushed(code, value, op.kind) for value in arguments]
    result = compute(*arguments)
    code.write(op.operands[0], op.kind, flushed(code, result, op.kind) if flushes else result)


def flushed(code, value, kind):
    """0 of the same sign for a number that is not normal."""
    magnitude = code.intrinsic(f"llvm.fabs.{kind}", value.type, value)
    tiny = code.builder.fcmp_ordered("<", magnitude, constant(value.type, SMALLEST[kind]))
    zero = code.intrinsic(f"llvm.copysign.{kind}", value.type, constant(value.type, 0.0), value)
    return code.builder.select(tiny, zero, value)


def function_of(code, op, name):
    """LLVM's function for floats of the instruction's type."""
    return lambda *arguments: code.intrinsic(f"llvm.{name}.{op.kind}", FLOATS[op.kind], *arguments)


def inverse(code, value):
    """1 / value."""
    return code.builder.fdiv(constant(value.type, 1.0), value)


def smaller_or_larger(code, op):
    """min, max of floats: of a NaN and a number the number, and -0 is smaller than 0; with .NaN a NaN."""
    if "NaN" in op.modifiers:
        of_floats(code, op, function_of(code, op, {"min": "minimum", "max": "maximum"}[op.root]), "NaN")
        return

    def compute(x, y):
        b = code.builder
        best = code.intrinsic(f"llvm.{op.root}imum.{op.kind}", x.type, x, y)
        of_y = b.select(b.fcmp_unordered("uno", x, x), y, best)
        return b.select(b.fcmp_unordered("uno", y, y), x, of_y)

    of_floats(code, op, compute)


def float_functions(code, op):
    """What each instruction with floats computes."""
    b = code.builder
    return {
        "add": b.fadd, "sub": b.fsub, "mul": b.fmul, "div": b.fdiv, "neg": b.fneg,
        "fma": function_of(code, op, "fma"), "mad": function_of(code, op, "fma"),
        "abs": function_of(code, op, "fabs"), "sqrt": function_of(code, op, "sqrt"),
        "ex2": function_of(code, op, "exp2"), "lg2": function_of(code, op, "log2"),
        "sin": function_of(code, op, "sin"), "cos": function_of(code, op, "cos"),
        "rcp": lambda x: inverse(code, x),
        "rsqrt": lambda x: inverse(code, function_of(code, op, "sqrt")(x)),
        "copysign": lambda sign, x: function_of(code, op, "copysign")(x, sign),
    }  # fmt: skip


# Whole numbers


def of_integers(code, op):
    """add, sub, mul, mad, div, rem, min, max, abs, neg of whole numbers."""
    b, kind = code.builder, op.kind
    if op.root in ("mul", "mad") and ("wide" in op.modifiers or "hi" in op.modifiers):
        multiply_wide(code, op)
        return
    op.allow("lo")
    x, *rest = values(code, op)
    signed = kind[0] == "s"
    if op.root in ("div", "rem"):
        result = divided(code, op.root, signed, x, *rest)
    elif op.root in ("min", "max"):
        sign = "<" if op.root == "min" else ">"
        compare = b.icmp_signed if signed else b.icmp_unsigned
        result = b.select(compare(sign, x, rest[0]), x, rest[0])
    elif op.root == "abs":
        result = b.select(b.icmp_signed("<", x, constant(x.type, 0)), b.neg(x), x)
    elif op.root == "mad":
        result = b.add(b.mul(x, rest[0]), rest[1])
    else:
        result = {"add": b.add, "sub": b.sub, "mul": b.mul, "neg": b.neg}[op.root](x, *rest)
    code.write(op.operands[0], kind, result)


def multiply_wide(code, op):
    """The whole product of two numbers, or its upper half."""
    op.allow("wide", "hi")
    b, n = code.builder, width(op.kind)
    wide = ir.IntType(2 * n)
    extend = b.sext if op.kind[0] == "s" else b.zext
    x, y = (extend(code.read(operand, op.kind), wide) for operand in op.operands[1:3])
    product, kind = b.mul(x, y), f"{op.kind[0]}{2 * n}"
    if "hi" in op.modifiers:
        product, kind = b.trunc(b.lshr(product, constant(wide, n)), ir.IntType(n)), op.kind
    if op.root == "mad":
        product = b.add(product, code.read(op.operands[3], kind))
    code.write(op.operands[0], kind, product)


def with_carry(code, op):
    """add, sub, mad with what the instruction before has carried, or with .cc for the one behind; sums of parts of numbers."""
    op.allow("cc", "lo", "hi")
    b, n = code.builder, width(op.kind)
    wide = ir.IntType(2 * n)
    *parts, last = [b.zext(value, wide) for value in values(code, op, kind=f"u{n}")]
    if len(parts) == 2:
        product = b.mul(*parts)
        half = (
            b.lshr(product, constant(wide, n))
            if "hi" in op.modifiers
            else b.and_(product, constant(wide, (1 << n) - 1))
        )
        parts = [half]
    combine = b.sub if op.root.startswith("sub") else b.add
    result = combine(parts[0], last)
    if op.root in ("addc", "subc", "madc"):
        result = combine(result, b.zext(b.load(code.carry, typ=I1), wide))
    if "cc" in op.modifiers:
        b.store(b.trunc(b.lshr(result, constant(wide, n)), I1), code.carry)
    code.write(op.operands[0], op.kind, b.trunc(result, ir.IntType(n)))


def divided(code, root, signed, x, y):
    """x / y or the rest; what a card gives by 0 and for the one quotient that does not fit, where a host would stop."""
    b = code.builder
    zero, ones = constant(x.type, 0), constant(x.type, -1)
    by_zero = b.icmp_unsigned("==", y, zero)
    odd = by_zero
    if signed:
        odd = b.or_(odd, b.icmp_unsigned("==", y, ones))
    safe = b.select(odd, constant(x.type, 1), y)
    if root == "div":
        result = (b.sdiv if signed else b.udiv)(x, safe)
        result = b.select(odd, b.neg(x), result) if signed else result
        return b.select(by_zero, ones, result)
    result = (b.srem if signed else b.urem)(x, safe)
    return b.select(by_zero, x, result)


def arithmetic(code, op):
    """One of those that there are for whole numbers and for floats."""
    known(code, op)
    if "cc" in op.modifiers or op.root in ("addc", "subc", "madc"):
        with_carry(code, op)
    elif op.kind not in FLOATS:
        of_integers(code, op)
    elif op.root in ("min", "max"):
        smaller_or_larger(code, op)
    else:
        of_floats(code, op, float_functions(code, op)[op.root])


def bitwise(code, op):
    """and, or, xor, not."""
    op.allow()
    b = code.builder
    x, *rest = values(code, op)
    code.write(op.operands[0], op.kind, {"and": b.and_, "or": b.or_, "xor": b.xor, "not": b.not_}[op.root](x, *rest))


def shift(code, op):
    """shl, shr: by as many bits as there are or more, none of them are left, or only copies of the sign."""
    op.allow()
    b, n = code.builder, width(op.kind)
    x, by = code.read(op.operands[1], op.kind), code.read(op.operands[2], "u32")
    most = constant(I32, n - 1)
    all_out = b.icmp_unsigned(">", by, most)
    held = b.select(all_out, most, by)
    held = b.zext(held, x.type) if n > 32 else b.trunc(held, x.type) if n < 32 else held
    if op.root == "shr" and op.kind[0] == "s":
        result = b.ashr(x, held)
    else:
        result = b.select(all_out, constant(x.type, 0), (b.shl if op.root == "shl" else b.lshr)(x, held))
    code.write(op.operands[0], op.kind, result)


def funnel(code, op):
    """shf: a shift of two registers as one."""
    op.allow("l", "r", "wrap", "clamp")
    b = code.builder
    low, high, by = values(code, op, kind="b32")
    n = b.and_(by, constant(I32, 31))
    if "clamp" in op.modifiers:
        n = b.select(b.icmp_unsigned(">", by, constant(I32, 32)), constant(I32, 32), by)
    both = b.or_(b.shl(b.zext(high, I64), constant(I64, 32)), b.zext(low, I64))
    n = b.zext(n, I64)
    both = b.lshr(b.shl(both, n), constant(I64, 32)) if "l" in op.modifiers else b.lshr(both, n)
    code.write(op.operands[0], "b32", b.trunc(both, I32))


def mask_of(code, kind, count):
    """So many lowest bits, all of them from the width on."""
    b, n = code.builder, kind.width
    part = b.sub(b.shl(constant(kind, 1), b.select(below(code, count, n), count, constant(kind, 0))), constant(kind, 1))
    return b.select(below(code, count, n), part, constant(kind, -1))


def below(code, value, limit):
    """Whether a number is less than a limit."""
    return code.builder.icmp_unsigned("<", value, constant(value.type, limit))


def shifted(code, shift_by, value, by):
    """A shift that leaves nothing where it is by the width or more."""
    b, n = code.builder, value.type.width
    inside = below(code, by, n)
    return b.select(inside, shift_by(value, b.select(inside, by, constant(by.type, 0))), constant(value.type, 0))


def byte(code, operand, kind):
    """The lowest byte of an operand, in a type of LLVM's."""
    value = code.builder.and_(code.read(operand, "u32"), constant(I32, 255))
    return code.builder.zext(value, kind) if kind.width > 32 else value


def extract_field(code, op):
    """bfe: some bits of a number, without its sign."""
    op.allow()
    b, x = code.builder, code.read(op.operands[1], op.kind)
    position, count = (byte(code, operand, x.type) for operand in op.operands[2:4])
    if op.kind[0] == "s":
        raise op.unknown("a field with a sign")
    code.write(op.operands[0], op.kind, b.and_(shifted(code, b.lshr, x, position), mask_of(code, x.type, count)))


def insert_field(code, op):
    """bfi: some bits of a number put in place of another's."""
    op.allow()
    b = code.builder
    x, into = (code.read(operand, op.kind) for operand in op.operands[1:3])
    position, count = (byte(code, operand, x.type) for operand in op.operands[3:5])
    mask = shifted(code, b.shl, mask_of(code, x.type, count), position)
    put = b.and_(shifted(code, b.shl, x, position), mask)
    code.write(op.operands[0], op.kind, b.or_(put, b.and_(into, b.not_(mask))))


def count_bits(code, op):
    """clz, popc, brev."""
    op.allow()
    x = code.read(op.operands[1], op.kind)
    if op.root == "clz":
        found = code.intrinsic(f"llvm.ctlz.i{x.type.width}", x.type, x, constant(I1, 0))
    else:
        name = {"popc": "ctpop", "brev": "bitreverse"}[op.root]
        found = code.intrinsic(f"llvm.{name}.i{x.type.width}", x.type, x)
    code.write(op.operands[0], op.kind, found)


def permute(code, op):
    """prmt: four bytes out of eight; with the eighth bit of a choice only copies of a byte's sign."""
    op.allow()
    b = code.builder
    low, high, choice = values(code, op, kind="b32")
    both = b.or_(b.shl(b.zext(high, I64), constant(I64, 32)), b.zext(low, I64))
    result = constant(I32, 0)
    for i in range(4):
        one = b.lshr(choice, constant(I32, 4 * i))
        start = b.zext(b.shl(b.and_(one, constant(I32, 7)), constant(I32, 3)), I64)
        found = b.trunc(b.lshr(both, start), I8)
        sign = b.ashr(found, constant(I8, 7))
        of_sign = b.icmp_unsigned("!=", b.and_(one, constant(I32, 8)), constant(I32, 0))
        found = b.zext(b.select(of_sign, sign, found), I32)
        result = b.or_(result, b.shl(found, constant(I32, 8 * i)))
    code.write(op.operands[0], "b32", result)


def by_table(code, op):
    """lop3: three numbers bit by bit, as a table of eight says."""
    op.allow()
    b = code.builder
    x, y, z = (code.read(operand, "b32") for operand in op.operands[1:4])
    table, result = int(op.operands[4], 0), constant(I32, 0)
    for i in range(8):
        if table >> i & 1:
            parts = [v if i >> place & 1 else b.not_(v) for place, v in ((2, x), (1, y), (0, z))]
            result = b.or_(result, b.and_(b.and_(parts[0], parts[1]), parts[2]))
    code.write(op.operands[0], "b32", result)


TABLE = {
    **dict.fromkeys(("add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "abs", "neg"), arithmetic),
    **dict.fromkeys(("addc", "subc", "madc"), arithmetic),
    **dict.fromkeys(("sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "copysign"), arithmetic),
    **dict.fromkeys(("and", "or", "xor", "not"), bitwise),
    **dict.fromkeys(("shl", "shr"), shift),
    **dict.fromkeys(("clz", "popc", "brev"), count_bits),
    "shf": funnel, "bfe": extract_field, "bfi": insert_field, "prmt": permute, "lop3": by_table,
}  # fmt: skip
