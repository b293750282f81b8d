"""Instructions at which threads wait for one another: a thread leaves what it gives in its frame; what it gets is there."""

from llvmlite import ir

from minigrad.kernels.cuda.host import layout, memory

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def give(code, *values):
    """Leave values in the frame, a word each."""
    for i, value in enumerate(values):
        code.builder.store(code.builder.zext(value, I64), code.after(code.frame, 8 * (layout.GIVEN + i)))


def get(code, i=0):
    """A value that the thread is given, as 32 bits."""
    word = code.builder.load(code.after(code.frame, 8 * (layout.RECEIVED + i)), typ=I64)
    return code.builder.trunc(word, I32)


def barrier(code, op):
    """bar: the whole block meets, at barrier 0, and may learn of how many of its threads something holds."""
    names = [op.root, *op.modifiers, op.kind]
    names = [name for name in names if name not in ("cta", "aligned", "")]
    if names == ["bar", "warp", "sync"]:
        give(code, code.read(op.operands[0], "b32"))
        code.wait(layout.WARP_ALL, op.line)
        return
    if names[1:] == ["sync"] and op.operands == ("0",):
        code.wait(layout.BLOCK_ALL, op.line)
        return
    kinds = {"or": layout.BLOCK_OR, "and": layout.BLOCK_AND, "popc": layout.BLOCK_COUNT}
    if names[1] != "red" or names[2] not in kinds or op.operands[1] != "0" or len(op.operands) != 3:
        raise op.unknown("this barrier")
    value = code.read(op.operands[2].lstrip("!"), "pred")
    give(code, code.builder.not_(value) if op.operands[2][0] == "!" else value)
    code.wait(kinds[names[2]], op.line)
    found = get(code)
    code.write(op.operands[0], op.kind, code.builder.trunc(found, I1) if op.kind == "pred" else found)


def shuffle(code, op):
    """shfl.sync: a value of another thread of the warp."""
    op.allow("sync", "idx", "bfly", "up", "down")
    kinds = {
        "idx": layout.SHUFFLE_INDEX, "bfly": layout.SHUFFLE_XOR, "up": layout.SHUFFLE_UP, "down": layout.SHUFFLE_DOWN,
    }  # fmt: skip
    _, value, lane, clamp, mask = op.operands
    result, _, found = (part.strip() for part in op.operands[0].partition("|"))
    give(code, *[code.read(operand, "b32") for operand in (mask, value, lane, clamp)])
    code.wait(kinds[op.modifiers[1]], op.line)
    code.write(result, "b32", get(code))
    if found:
        code.write(found, "pred", code.builder.trunc(get(code, 1), I1))


def vote(code, op):
    """vote.sync: of which threads of the warp something holds."""
    op.allow("sync", "ballot", "any", "all")
    kinds = {"ballot": layout.BALLOT, "any": layout.ANY, "all": layout.EVERY}
    value = code.read(op.operands[1].lstrip("!"), "pred")
    value = code.builder.not_(value) if op.operands[1][0] == "!" else value
    give(code, code.read(op.operands[2], "b32"), value)
    code.wait(kinds[op.modifiers[1]], op.line)
    code.write(op.operands[0], op.kind, code.builder.trunc(get(code), I1) if op.kind == "pred" else get(code))


ALL = ir.Constant(I32, 0xFFFFFFFF)  # lanes
PRODUCTS = {
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32": layout.PRODUCT_TF32,
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": layout.PRODUCT_BF16,
}
READS = {
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16": layout.MATRICES,
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16": layout.TURNED_MATRICES,
}


def product(code, op):
    """mma.sync: the product of two small matrices, of which each thread of a warp has a part."""
    if op.instruction.opcode not in PRODUCTS:
        raise op.unknown("this product of matrices")
    parts = [name for i in (1, 2, 3) for name in op.list_of(i)]
    give(code, ALL, *[code.read(name, "b32") for name in parts])
    code.wait(PRODUCTS[op.instruction.opcode], op.line)
    for i, register in enumerate(op.list_of(0)):
        code.write(register, "b32", get(code, i))


def read_matrices(code, op):
    """ldmatrix: each thread reads a row of 16 bytes, and gets its words of those that the warp has read."""
    if op.instruction.opcode not in READS:
        raise op.unknown("this read of matrices")
    size = ir.Constant(I64, 16)
    pointer = memory.accessed(code, "shared", memory.address(code, op.operands[1]), size, 16, op.line)
    words = [code.builder.load(code.after(pointer, 4 * i), align=4, typ=I32) for i in range(4)]
    give(code, ALL, *words)
    code.wait(READS[op.instruction.opcode], op.line)
    for i, register in enumerate(op.list_of(0)):
        code.write(register, "b32", get(code, i))


TABLE = {"bar": barrier, "barrier": barrier, "shfl": shuffle, "vote": vote, "mma": product, "ldmatrix": read_matrices}
