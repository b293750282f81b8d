"""Instructions that access memory, each only after a look whether it may.

Addresses in shared memory count from the block's first byte; all others are the host's. Of a generic address, which may lead to
either or to the thread's own memory, the thread finds out which. An access outside of what was allocated, to the byte, or at an
address that is no multiple of its size, is a fault. Where checks are on, every access of global and shared memory is noted too.
"""

import re

from llvmlite import ir

from minigrad.kernels.cuda.host import layout

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
SPACES = "param", "global", "shared", "local", "const"
HARMLESS = (
    *("volatile", "nc", "relaxed", "weak", "gpu", "cta", "sys", "v2", "v4", "ca", "cg", "cs", "lu"),
    *("L1::no_allocate", "L1::evict_last"),
)
NOTES = {  # of reads, writes, and writes of what was there already
    "global": (layout.GLOBAL_READ, layout.GLOBAL_WRITE, layout.GLOBAL_SAME),
    "shared": (layout.SHARED_READ, layout.SHARED_WRITE, layout.SHARED_SAME),
}


def address_in(code, operand):
    """(what is in the brackets before the offset, the offset)."""
    base, offset = re.fullmatch(r"\[\s*([^+\s]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand).groups()
    return base, int(offset or 0)


def address(code, operand):
    """The number that an operand in brackets comes to."""
    base, offset = address_in(code, operand)
    value = code.read(base, "u64")
    return code.builder.add(value, ir.Constant(I64, offset)) if offset else value


def space_of(op):
    """The space that an instruction names; "generic" if none."""
    named = [name for name in op.modifiers if name.partition("::")[0] in SPACES]
    op.allow(*HARMLESS, *named)
    if "const" in named:
        raise op.unknown("constant memory")
    return named[0].partition("::")[0] if named else "generic"


def constant(value):
    """A number as an address is."""
    return ir.Constant(I64, value)


def below(code, value, limit):
    """Whether value < limit, without a sign."""
    return code.builder.icmp_unsigned("<", value, limit)


def fits(code, offset, size, limit):
    """Whether `size` bytes from there end in time; a sum that wraps does not."""
    b = code.builder
    end = b.add(offset, size)
    return b.and_(b.icmp_unsigned("<=", end, limit), b.icmp_unsigned(">=", end, offset))


def is_global(code, place, size):
    """Whether so many bytes lie in one allocation."""
    b = code.builder
    offset = b.sub(place, code.field(layout.MEMORY))
    inside = below(code, offset, code.field(layout.MEMORY_BYTES))
    page = b.select(inside, b.lshr(offset, constant(layout.PAGE_BITS)), constant(0))
    ends = b.inttoptr(code.field(layout.ENDS), POINTER)
    end = b.load(b.gep(ends, [page], source_etype=I64), typ=I64)
    return b.and_(inside, fits(code, place, size, end))


def own_memory(code):
    """Where the thread's local memory begins."""
    return code.builder.ptrtoint(code.local, I64)


def accessed(code, space, place, size, alignment, line, written=()):
    """The pointer to `size` bytes of a space, which the thread may read, or write `written` there; it is noted that it does."""
    b = code.builder
    offset = b.sub(place, code.field(layout.SHARED)) if space == "generic" else place
    right = {}
    if space in ("shared", "generic"):
        right["shared"] = fits(code, offset, size, code.field(layout.SHARED_BYTES))
    if space in ("local", "generic") and code.function.sizes["local"]:
        right["local"] = fits(code, b.sub(place, own_memory(code)), size, constant(code.function.sizes["local"]))
    if space in ("global", "generic"):
        right["global"] = is_global(code, place, size)
        if code.module.data and not written:
            right["table"] = fits(code, b.sub(place, code.data()), size, constant(len(code.module.data)))
    holds = ir.Constant(ir.IntType(1), 0)
    for one in right.values():
        holds = b.or_(holds, one)
    if alignment > 1:
        rest = b.and_(place, constant(alignment - 1))
        holds = b.and_(holds, b.icmp_unsigned("==", rest, constant(0)))
    code.require(holds, layout.OUTSIDE, place, size, line)
    pointer = b.inttoptr(b.add(place, code.field(layout.SHARED)) if space == "shared" else place, POINTER)
    if code.checked and space != "local":
        kind = constant(layout.NOTHING)
        for name in NOTES:
            if name in right:
                kind = b.select(right[name], kind_of(code, name, pointer, written), kind)
        enter(code, kind, b.select(right["shared"], offset, place) if "shared" in right else place, size, line)
    return pointer


def kind_of(code, space, pointer, written):
    """What is noted of an access."""
    read, write, same = map(constant, NOTES[space])
    if not written:
        return read
    b, holds, offset = code.builder, ir.Constant(ir.IntType(1), 1), 0
    for value in written:
        there = b.load(code.after(pointer, offset), typ=value.type, align=1)
        holds = b.and_(holds, b.icmp_unsigned("==", there, value))
        offset += value.type.width // 8
    return b.select(holds, same, write)


def enter(code, kind, place, size, line):
    """Note an access, or another thing that the checks have to know."""
    b = code.builder
    kind, place, size = (constant(v) if isinstance(v, int) else v for v in (kind, place, size))
    count_at = code.field_pointer(layout.LOG_COUNT)
    count = b.load(count_at, typ=I64)
    code.require(below(code, count, code.field(layout.LOG_ROOM)), layout.NO_ROOM, count, size, line)
    entry = b.gep(b.inttoptr(code.field(layout.LOG), POINTER), [b.mul(count, constant(layout.ENTRY))], source_etype=I64)
    b.store(place, entry)
    what = b.or_(b.or_(kind, b.shl(size, constant(8))), constant(line << 16))
    b.store(what, code.after(entry, 8))
    b.store(b.add(count, constant(1)), count_at)


def size_of(kind):
    """Bytes of a type."""
    return int(kind[1:]) // 8


def load(code, op):
    """ld: one register, or two or four from neighbouring places."""
    space, registers, one = space_of(op), op.list_of(0), size_of(op.kind)
    pointer = place_of(code, op, space, op.operands[1], one, len(registers))
    align = one if space == "param" else one * len(registers)
    for i, register in enumerate(registers):
        part = code.after(pointer, i * one) if i else pointer
        code.write(register, op.kind, code.builder.load(part, align=align if i == 0 else one, typ=ir.IntType(8 * one)))


def store(code, op):
    """st: the same in the other direction."""
    space, values, one = space_of(op), op.list_of(1), size_of(op.kind)
    kind = f"b{8 * one}"
    given = [code.read(value, kind) for value in values]
    pointer = place_of(code, op, space, op.operands[0], one, len(values), given)
    for i, value in enumerate(given):
        part = code.after(pointer, i * one) if i else pointer
        code.builder.store(value, part, align=one * len(values) if i == 0 else one)


def place_of(code, op, space, operand, one, count, written=()):
    """The pointer to what a load or a store is about."""
    base, offset = address_in(code, operand)
    if space == "param" or base in code.passed:
        return code.after(code.passed[base], offset)
    return accessed(code, space, address(code, operand), constant(one * count), one * count, op.line, written)


def convert_address(code, op):
    """cvta: a generic address from one of a space, or back."""
    op.allow("to", "global", "shared", "local")
    value = code.read(op.operands[1], op.kind)
    if "shared" in op.modifiers:
        change = code.builder.sub if "to" in op.modifiers else code.builder.add
        value = change(value, code.field(layout.SHARED))
    code.write(op.operands[0], op.kind, value)


def move_address(code, op, name):
    """mov of a variable's address."""
    variable = code.function.variables.get(name)
    if variable is not None and variable.space == "local":
        value = code.builder.add(own_memory(code), constant(variable.offset))
    else:
        value = code.address_of(name)
    code.write(op.operands[0], op.kind, value if op.kind.endswith("64") else code.builder.trunc(value, I32))


def copy(code, op):
    """cp.async: a copy from global to shared memory, done at once; the checks see to it that nobody counts on that."""
    whole = op.instruction.opcode
    if whole == "cp.async.commit_group":
        note(code, layout.COMMIT, 0, op)
    elif whole == "cp.async.wait_group":
        note(code, layout.WAIT, int(op.operands[0]), op)
    elif whole == "cp.async.wait_all":
        note(code, layout.WAIT, 0, op)
    elif re.fullmatch(r"cp\.async\.c[ag]\.shared(::cta)?\.global", whole):
        copy_bytes(code, op)
    else:
        raise op.unknown()


def note(code, kind, value, op):
    """Tell the checks, if there are any."""
    if code.checked:
        enter(code, kind, value, 0, op.line)


def copy_bytes(code, op):
    """Copy as many bytes as are asked for, and fill up with zeros."""
    b, size = code.builder, int(op.operands[2])
    count = b.zext(code.read(op.operands[3], "u32"), I64) if len(op.operands) > 3 else constant(size)
    code.require(b.icmp_unsigned("<=", count, constant(size)), layout.OUTSIDE, count, constant(size), op.line)
    source, target = address(code, op.operands[1]), b.and_(address(code, op.operands[0]), constant(0xFFFFFFFF))
    to = accessed_by_copy(code, target, size, op.line)
    b.call(zeros(code), [to, ir.Constant(I8, 0), constant(size), ir.Constant(ir.IntType(1), 0)])
    some, behind = code.llvm.append_basic_block("copied"), code.llvm.append_basic_block("behind")
    b.cbranch(b.icmp_unsigned("!=", count, constant(0)), some, behind)
    b.position_at_end(some)
    start = accessed(code, "global", source, count, size, op.line)
    b.call(copied(code), [to, start, count, ir.Constant(ir.IntType(1), 0)])
    b.branch(behind)
    b.position_at_end(behind)


def accessed_by_copy(code, target, size, line):
    """The pointer to where a copy goes."""
    b = code.builder
    holds = fits(code, target, constant(size), code.field(layout.SHARED_BYTES))
    rest = b.and_(target, constant(size - 1))
    holds = b.and_(holds, b.icmp_unsigned("==", rest, constant(0)))
    code.require(holds, layout.OUTSIDE, target, constant(size), line)
    if code.checked:
        enter(code, layout.COPY, target, size, line)
    return b.inttoptr(b.add(target, code.field(layout.SHARED)), POINTER)


def zeros(code):
    """LLVM's memset."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, I8, I64, ir.IntType(1)])
    return code.target.globals.get("llvm.memset.p0.i64") or ir.Function(code.target, kind, "llvm.memset.p0.i64")


def copied(code):
    """LLVM's memcpy."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, ir.IntType(1)])
    return code.target.globals.get("llvm.memcpy.p0.p0.i64") or ir.Function(code.target, kind, "llvm.memcpy.p0.p0.i64")


def fence(code, op):
    """membar, fence: in which order others see what a thread writes. Here they see it at once; the checks are told of those for
    all blocks."""
    if {"gl", "gpu", "sys"} & {*op.modifiers, op.kind}:
        note(code, layout.FENCE, 0, op)


def take_ticket(code, op):
    """atom.inc: a number of the GPU's memory is read and counts on, or begins anew, at once for all blocks."""
    if op.instruction.opcode != "atom.global.inc.u32":
        raise op.unknown("this atomic operation")
    b, place, size = code.builder, address(code, op.operands[1]), constant(4)
    aligned = b.icmp_unsigned("==", b.and_(place, constant(3)), constant(0))
    code.require(b.and_(is_global(code, place, size), aligned), layout.OUTSIDE, place, size, op.line)
    if code.checked:
        enter(code, constant(layout.TICKET), place, size, op.line)
    pointer, last = b.inttoptr(place, POINTER), code.read(op.operands[2], "u32")
    ticket = b.load(pointer, typ=I32)
    following = b.add(ticket, ir.Constant(I32, 1))
    b.store(b.select(b.icmp_unsigned(">=", ticket, last), ir.Constant(I32, 0), following), pointer)
    code.write(op.operands[0], "u32", ticket)


TABLE = {
    "ld": load, "st": store, "cvta": convert_address, "cp": copy, "membar": fence, "fence": fence,
    "atom": take_ticket,
}  # fmt: skip
