"""A kernel's PTX as LLVM's code, one function that a thread runs until it ends or waits; layout.py says how it is called.

Every PTX register is a variable of as many bits, and LLVM finds out how to do without. What a thread still needs after a point
where it waits lies in its frame, so that it can leave the function there and come back. Instructions themselves are in
arithmetic.py, choices.py, memory.py and waiting.py.

    kernel = translate(ptx.parse(text))
    kernel.text       LLVM's code, with one function of the name kernel.name
    kernel.points     [Point(kind, line)]: where threads wait; the first is number 1
"""

import re
from typing import NamedTuple

from llvmlite import ir

from minigrad.kernels.cuda.host import arithmetic, choices, flow, layout, memory, ptx, waiting
from minigrad.kernels.cuda.host.ptx import BYTES, PtxError

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
POINTER = ir.PointerType()
FLOATS = {"f32": ir.FloatType(), "f64": ir.DoubleType()}

SPECIAL = {
    f"%{name}.{axis}": first + i
    for name, first in (("ctaid", layout.BLOCK_INDEX), ("ntid", layout.BLOCK_SIZE), ("nctaid", layout.GRID_SIZE))
    for i, axis in enumerate("xyz")
} | {"%dynamic_smem_size": layout.DYNAMIC_BYTES}


class Point(NamedTuple):
    """Where a thread waits, for what (a number of layout.py), and the line of the PTX."""

    kind: int
    line: int


class Translation(NamedTuple):
    """A kernel in LLVM's words and what is to be known to run it."""

    name: str
    text: str
    points: list[Point]
    threads: int  # of a block, at most
    frame_bytes: int
    shared_bytes: int  # of a block, without what a launch adds
    dynamic_offset: int  # where that begins
    parameter_bytes: int


def bits_of(kind):
    """How many bits a PTX type has."""
    return 1 if kind == "pred" else 8 * BYTES[kind[1:]]


def integer(kind):
    """LLVM's integer of as many bits."""
    return ir.IntType(bits_of(kind))


class Op:
    """An instruction to be translated: its operation, the modifiers, the type, the operands."""

    def __init__(self, instruction):
        self.instruction = instruction
        self.line, self.operands = instruction.line, instruction.operands
        self.root, *self.modifiers = instruction.opcode.split(".")
        self.kind = self.modifiers.pop() if self.modifiers else ""

    def allow(self, *known):
        """Raise for a modifier that is none of these."""
        unknown = [name for name in self.modifiers if name not in known]
        if unknown:
            raise self.unknown(f"the modifier .{unknown[0]}")

    def unknown(self, what="this instruction"):
        """The error for what cannot be translated."""
        return PtxError(f"line {self.line}: {what} of PTX is not known on the host: {self.instruction}")

    def list_of(self, i):
        """The members of operand i, if that is a vector, or else itself alone."""
        return [part.strip() for part in self.operands[i].strip("{} ").split(",")]


class Code:
    """A function of PTX on its way to LLVM."""

    def __init__(self, module, function, target, checked, counted):
        self.module, self.function, self.target = module, function, target
        self.checked, self.counted = checked, counted
        self.points = []
        count = len(function.parameters) + len(function.results)
        given = [I64] if function.is_entry else [POINTER] * count
        self.llvm = ir.Function(target, ir.FunctionType(I64, [POINTER, POINTER, *given]), function.name)
        for argument in self.llvm.args[:2]:
            argument.add_attribute("noalias")
        self.start = self.llvm.append_basic_block("start")
        self.begin = self.llvm.append_basic_block("begin")
        self.builder = ir.IRBuilder(self.start)
        self.own = {}  # registers' addresses
        self.fields, self.special = {}, {}
        self.frame_bytes = 8 * layout.OWN + -(-function.sizes["local"] // 8) * 8
        self.blocks = {label: self.llvm.append_basic_block(label.strip("$")) for label in function.labels}
        self.faults = None

    def translate(self):
        """Write all of it."""
        self.prepare()
        switch = self.builder.switch(self.llvm.args[2], self.begin) if self.function.is_entry else None
        if switch is None:
            self.builder.branch(self.begin)
        self.builder.position_at_end(self.begin)
        labels = {}
        for label, index in self.function.labels.items():
            labels.setdefault(index, []).append(label)
        begins = ptx.basic_blocks(self.function) if self.counted else ()
        for i, instruction in enumerate([*self.function.instructions, None]):
            for label in labels.get(i, ()):
                if not self.builder.block.is_terminated:
                    self.builder.branch(self.blocks[label])
                self.builder.position_at_end(self.blocks[label])
            if i in begins and not self.builder.block.is_terminated:
                memory.enter(self, layout.BASIC_BLOCK, 0, 0, instruction.line)
            if instruction is not None:
                self.take(instruction)
        if not self.builder.block.is_terminated:
            self.finish()
        for number, (_, block) in enumerate(self.points, 1):
            switch.add_case(ir.Constant(I64, number), block)
        return self

    def prepare(self):
        """What every call begins with: where registers are, and what does not change while the kernel runs."""
        function, builder = self.function, self.builder
        kept = flow.kept(function)
        for name, kind in function.registers.items():
            if name in kept:
                self.own[name] = self.after(self.frame, self.frame_bytes)
                self.frame_bytes += 8
            else:
                self.own[name] = builder.alloca(integer(kind), name=name.strip("%"))
        self.carry = builder.alloca(I1, name="carry")
        parameters = self.reserve(function.sizes["param"])
        # the frame of a thread has the local memory of its kernel; what that calls is done before the thread waits
        self.local = (
            self.after(self.frame, 8 * layout.OWN) if function.is_entry else self.reserve(function.sizes["local"])
        )
        self.passed = {
            name: self.after(parameters, v.offset) for name, v in function.variables.items() if v.space == "param"
        }
        if not function.is_entry:
            names = [p.name for p in (*function.parameters, *function.results)]
            self.passed.update(zip(names, self.llvm.args[2:], strict=True))
            return
        base = builder.inttoptr(self.field(layout.PARAMETERS), POINTER)
        for p in function.parameters:
            self.passed[p.name] = self.after(base, p.offset)
        used = {name for i in function.instructions for operand in i.operands for name in flow.registers_in(operand)}
        for name in sorted(used - function.registers.keys()):
            self.special[name] = self.special_register(name)

    def reserve(self, size):
        """Memory of one call of the function."""
        memory = self.builder.alloca(ir.ArrayType(I64, -(-size // 8) or 1))
        return self.builder.inttoptr(self.builder.ptrtoint(memory, I64), POINTER)

    def special_register(self, name):
        """What a register holds that the hardware sets."""
        if name in SPECIAL:
            return self.builder.trunc(self.field(SPECIAL[name]), I32)
        if re.fullmatch(r"%tid\.[xyz]", name):
            return self.word_of_frame(layout.THREAD_INDEX + "xyz".index(name[-1]))
        if name == "%laneid":
            return self.builder.and_(self.word_of_frame(layout.THREAD_NUMBER), ir.Constant(I32, 31))
        raise PtxError(f"{self.function.name}: the register {name} of PTX is not known on the host")

    @property
    def frame(self):
        """The thread's frame."""
        return self.llvm.args[1]

    def after(self, pointer, offset):
        """The pointer so many bytes on."""
        return self.builder.gep(pointer, [ir.Constant(I64, offset)], source_etype=I8)

    def field_pointer(self, number):
        """Where a field of the block is."""
        return self.after(self.llvm.args[0], 8 * number)

    def field(self, number):
        """A field of the block that does not change, read where the function begins."""
        if number not in self.fields:
            with self.builder.goto_block(self.start):
                self.fields[number] = self.builder.load(self.field_pointer(number), typ=I64)
        return self.fields[number]

    def word_of_frame(self, number):
        """A word of the frame's head."""
        return self.builder.trunc(self.builder.load(self.after(self.frame, 8 * number), typ=I64), I32)

    # Registers

    def read(self, operand, kind):
        """An operand as a value of a type: a register's bits, or a number written out, or the address of a variable."""
        if kind == "pred":
            return self.read_bits(operand, 1)
        value = self.read_bits(operand, bits_of(kind))
        return self.builder.bitcast(value, FLOATS[kind]) if kind in FLOATS else value

    def read_bits(self, operand, bits):
        """The lowest bits of an operand, as an integer."""
        wanted = ir.IntType(bits)
        if operand in self.own:
            held = integer(self.function.registers[operand])
            value = self.builder.load(self.own[operand], typ=held)
        elif operand in self.special:
            value, held = self.special[operand], I32
        elif operand[:2] in ("0f", "0d", "0F", "0D"):
            return ir.Constant(wanted, int(operand[2:], 16))
        elif re.fullmatch(r"-?\d+|0x[0-9A-Fa-f]+", operand):
            return ir.Constant(wanted, int(operand, 0) % (1 << bits))
        else:
            value, held = self.address_of(operand), I64
        if held.width > bits:
            return self.builder.trunc(value, wanted)
        return self.builder.zext(value, wanted) if held.width < bits else value

    def address_of(self, name):
        """Where in shared memory a variable begins, or where a table is."""
        variable = self.module.variables.get(name)
        if variable is None:
            raise PtxError(f"{self.function.name}: {name} is no register and no variable that is known on the host")
        offset = ir.Constant(I64, self.module.offset(variable))
        return self.builder.add(self.data(), offset) if variable.space == "global" else offset

    def data(self):
        """Where the tables are."""
        if "data" not in self.target.globals:
            content = bytearray(self.module.data)
            table = ir.GlobalVariable(self.target, ir.ArrayType(I8, len(content)), "data")
            table.initializer, table.global_constant = ir.Constant(table.value_type, content), True
            table.linkage, table.align = "internal", 16
        return self.builder.ptrtoint(self.target.globals["data"], I64)

    def write(self, register, kind, value):
        """Put a value of a type into a register; a narrower one is extended as its type says."""
        if register == "_":
            return
        if isinstance(value.type, ir.FloatType | ir.DoubleType):
            value = self.builder.bitcast(value, integer(kind))
        held = integer(self.function.registers[register])
        if value.type.width > held.width:
            value = self.builder.trunc(value, held)
        elif value.type.width < held.width:
            extend = self.builder.sext if kind[0] == "s" else self.builder.zext
            value = extend(value, held)
        self.builder.store(value, self.own[register])

    def intrinsic(self, name, result, *arguments):
        """Call one of LLVM's own functions."""
        function = self.target.globals.get(name)
        if function is None:
            function = ir.Function(self.target, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.builder.call(function, arguments)

    # Control

    def take(self, instruction):
        """Translate an instruction, if its guard holds."""
        op = Op(instruction)
        if not instruction.guard:
            self.do(op)
            return
        holds = self.read(instruction.guard.lstrip("!"), "pred")
        if instruction.guard[0] == "!":
            holds = self.builder.not_(holds)
        behind = self.llvm.append_basic_block("behind")
        if op.root == "bra":
            self.builder.cbranch(holds, self.blocks[op.operands[0]], behind)
        else:
            guarded = self.llvm.append_basic_block("guarded")
            self.builder.cbranch(holds, guarded, behind)
            self.builder.position_at_end(guarded)
            self.do(op)
            if not self.builder.block.is_terminated:
                self.builder.branch(behind)
        self.builder.position_at_end(behind)

    def do(self, op):
        """Translate an instruction that is come to."""
        if self.builder.block.is_terminated:  # what no branch leads to
            self.builder.position_at_end(self.llvm.append_basic_block("unreached"))
        if op.root == "bra":
            self.builder.branch(self.blocks[op.operands[0]])
        elif op.root in ("ret", "exit"):
            self.finish()
        elif op.root == "call":
            self.call(op)
        else:
            translate = next((table[op.root] for table in TABLES if op.root in table), None)
            if translate is None:
                raise op.unknown()
            translate(self, op)

    def finish(self):
        """The thread has done all."""
        self.builder.ret(ir.Constant(I64, layout.FINISHED))

    def call(self, op):
        """Call another function, which is given where it finds what it takes, and puts what it gives; it may be at fault."""
        lists = [[name.strip() for name in operand.strip("() ").split(",") if name.strip()] for operand in op.operands]
        results, (name,), arguments = lists if len(lists) == 3 else ([], *lists)
        if name not in self.target.globals:
            raise op.unknown("a call of what is not in the same text")
        given = [*self.llvm.args[:2], *(self.passed[p] for p in (*arguments, *results))]
        state = self.builder.call(self.target.globals[name], given)
        with self.builder.if_then(
            self.builder.icmp_signed("==", state, ir.Constant(I64, layout.FAULTED)), likely=False
        ):
            self.builder.ret(state)

    def wait(self, kind, line):
        """Leave the function; when it is called again the thread is here."""
        if not self.function.is_entry:
            raise PtxError(f"line {line}: a function that a kernel calls waits, which is not known on the host")
        resumed = self.llvm.append_basic_block(f"resumed{len(self.points) + 1}")
        self.points.append((Point(kind, line), resumed))
        self.builder.ret(ir.Constant(I64, len(self.points)))
        self.builder.position_at_end(resumed)

    def require(self, holds, kind, address, size, line):
        """Go on if something holds; else the thread is at fault, and the launch ends."""
        if self.faults is None:
            block = self.llvm.append_basic_block("fault")
            with self.builder.goto_block(block):
                self.faults = [self.builder.phi(I64) for _ in range(4)]
                for i, value in enumerate(self.faults):
                    self.builder.store(value, self.field_pointer(layout.FAULT + i))
                self.builder.ret(ir.Constant(I64, layout.FAULTED))
        right = self.llvm.append_basic_block("right")
        values = ir.Constant(I64, kind), address, size, ir.Constant(I64, line)
        for phi, value in zip(self.faults, values, strict=True):
            phi.add_incoming(value, self.builder.block)
        self.builder.cbranch(holds, right, self.faults[0].parent)
        self.builder.position_at_end(right)


TABLES = arithmetic.TABLE, choices.TABLE, memory.TABLE, waiting.TABLE


def translate(module, checked=False, counted=False):
    """The Translation of a module's kernel; `checked` if it is to note what it accesses, `counted` which way it goes, too."""
    target = ir.Module("host")
    ordered = sorted(module.functions.values(), key=lambda function: function.is_entry)
    code = [Code(module, function, target, checked or counted, counted) for function in ordered]
    for each in code:
        each.translate()
    entry = code[-1]
    end = max((p.offset + BYTES[p.kind[1:]] for p in entry.function.parameters), default=0)
    return Translation(
        entry.function.name,
        str(target),
        [point for point, _ in entry.points],
        entry.function.threads,
        entry.frame_bytes,
        module.shared_bytes,
        -(-module.shared_bytes // 16) * 16,
        end,
    )
