"""PTX, as NVVM writes it, taken apart into functions, variables and instructions; no meaning is given to any of it.

    module = parse(text)
    module.entry.instructions     Instruction(line, guard, opcode, operands), in order
    module.entry.labels           {label: index of the instruction behind it}

Operands stay text: "%r1", "0f3F800000", "[%rd1+16]", "{%f1, %f2}". What NVVM does not write for kernels of numba.cuda, such as
textures, is an error that names it.
"""

import re
from typing import NamedTuple

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


class PtxError(ValueError):
    """Text that is no PTX, or PTX of a kind that is not known here."""


class Instruction(NamedTuple):
    """One instruction: `guard` is "" or the predicate on which it depends, "%p1" or "!%p1"."""

    line: int
    guard: str
    opcode: str
    operands: tuple[str, ...]

    def __str__(self):
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}".strip()


class Parameter(NamedTuple):
    """What a function takes or gives back: its type, and where it begins among the bytes of all parameters."""

    name: str
    kind: str
    offset: int


class Variable(NamedTuple):
    """Memory with a name: where it begins in its space. The size of what only a launch knows is None."""

    space: str
    offset: int
    size: int | None


class Function:
    """A kernel, or a function that it calls."""

    def __init__(self, name, is_entry, parameters, results, threads):
        self.name, self.is_entry = name, is_entry
        self.parameters, self.results = parameters, results
        self.threads = threads  # of a block, at most
        self.registers = {}  # {name: type}
        self.variables = {}  # {name: Variable}, in the spaces "local" and "param"
        self.sizes = {"local": 0, "param": 0}
        self.instructions = []
        self.labels = {}

    def reserve(self, space, name, align, size):
        """Memory of one call."""
        offset = -(-self.sizes[space] // align) * align
        self.variables[name] = Variable(space, offset, size)
        self.sizes[space] = offset + size


def basic_blocks(function):
    """{index of the first: the instructions} of each stretch that is entered at the first only."""
    behind = [i + 1 for i, each in enumerate(function.instructions) if each.opcode.partition(".")[0] == "bra"]
    starts = sorted({0, *function.labels.values(), *behind} - {len(function.instructions)})
    return {i: function.instructions[i:end] for i, end in zip(starts, [*starts[1:], None], strict=True)}


class Module:
    """The functions of a text, and the memory that a block of threads shares."""

    def __init__(self):
        self.functions = {}
        self.variables = {}  # {name: Variable}, in the spaces "shared" and "global"
        self.shared_bytes = 0  # of a block, without what a launch adds
        self.data = b""  # what variables in the space "global" hold: tables of numbers

    @property
    def entry(self):
        """The kernel, of which there is one."""
        (entry,) = [function for function in self.functions.values() if function.is_entry]
        return entry

    def share(self, name, align, size):
        """Memory of the block; what a launch adds comes last, aligned to 16 bytes."""
        if size is not None:
            offset = -(-self.shared_bytes // align) * align
            self.shared_bytes = offset + size
            self.variables[name] = Variable("shared", offset, size)
        else:
            self.variables[name] = Variable("shared", None, None)

    def keep(self, name, align, size, values):
        """A table: whole numbers of so many bytes each."""
        self.data += bytes(-len(self.data) % align)
        content = b"".join([int(value, 0).to_bytes(size, "little") for value in values.split(",")])
        self.variables[name] = Variable("global", len(self.data), len(content))
        self.data += content

    def offset(self, variable):
        """Where a variable begins in its space."""
        return -(-self.shared_bytes // 16) * 16 if variable.offset is None else variable.offset


def parse(text):
    """The module that a text is."""
    module, function, header = Module(), None, None
    scopes = []  # of the blocks within a function that are open: {name: that of the block's own register}
    for line, kind, statement in statements(text):
        if kind == "header":
            header = function_of(line, statement)
            module.functions[header.name] = header
        elif kind == "open":
            function = function or header
            if statement > 1:
                scopes.append({})
        elif kind == "close":
            if scopes:
                scopes.pop()
            else:
                function = None
        elif kind == "label":
            function.labels[statement] = len(function.instructions)
        elif kind == "statement":
            if statement.startswith(".reg"):
                statement = spelt_out(statement)
                if scopes:
                    scopes[-1].update({name: f"{name}_{line}" for name in re.findall(r"%\w+", statement)})
            take(module, function, line, renamed(statement, scopes) if scopes else statement)
    if not module.functions:
        raise PtxError("there is no function in this PTX")
    return module


def spelt_out(declaration):
    """A declaration of registers with "%r0, %r1, %r2" for "%r<3>"."""
    return re.sub(r"([%\w]+)<(\d+)>", lambda many: ", ".join(f"{many[1]}{i}" for i in range(int(many[2]))), declaration)


def renamed(statement, scopes):
    """A statement with the registers that the blocks around it have of their own, the innermost before the others."""
    own = {name: unique for scope in scopes for name, unique in scope.items()}
    return re.sub(r"%\w+", lambda found: own.get(found[0], found[0]), statement)


def statements(text):
    """(line, kind, text) of "header", "open", "close" (with the depth that is left), "label" and "statement"."""
    text = re.sub(r"//[^\n]*", "", text)
    depth, start, line = 0, 0, 1
    for end in re.finditer(r"[;{}:\n]", text):
        if end[0] == "\n":
            line += 1
            is_directive = depth == 0 and text.startswith((".version", ".target", ".address_size"), start)
            if is_directive or not text[start : end.start()].strip():
                start = end.end()
            continue
        pending = " ".join(text[start : end.start()].split())
        if end[0] == "{":
            if pending and not is_header(pending):
                continue  # the operands of a vector, or the values of a variable
            if pending:
                yield line, "header", pending
            depth += 1
            yield line, "open", depth
        elif end[0] == "}":
            if pending:
                continue
            depth -= 1
            yield line, "close", depth
        elif end[0] == ":":
            if not re.fullmatch(r"[\w$]+", pending):
                continue
            yield line, "label", pending
        elif pending:
            yield line, "header" if is_header(pending) else "statement", pending
        start = end.end()


def is_header(text):
    """Whether it begins a function."""
    return bool(re.match(r"(\.(visible|extern|weak)\s+)*\.(entry|func)\b", text))


def function_of(line, header):
    """The function that a header begins."""
    found = re.match(
        r"(?:\.(?:visible|extern|weak)\s+)*\.(entry|func)\s*(?:\(([^)]*)\)\s*)?([\w$]+)\s*\(([^)]*)\)(.*)", header
    )
    if found is None:
        raise PtxError(f"line {line}: this begins no function that is known here: {header}")
    kind, results, name, parameters, rest = found.groups()
    limits = re.search(r"\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", rest)
    threads = 1024
    if limits:
        threads = int(limits[1]) * int(limits[2] or 1) * int(limits[3] or 1)
    return Function(name, kind == "entry", parameters_of(parameters), parameters_of(results or ""), threads)


def parameters_of(text):
    """Each ".param .u64 name", at a multiple of its size."""
    found, end = [], 0
    for kind, name in re.findall(r"\.param\s+(?:\.align \d+\s+)?\.(\w+)\s+(?:\.ptr\b[^,]*\s)?([\w$]+)", text):
        size = BYTES[kind[1:]]
        offset = -(-end // size) * size
        found.append(Parameter(name, kind, offset))
        end = offset + size
    return found


def take(module, function, line, statement):
    """Put a statement where it belongs."""
    if not statement.startswith("."):
        function.instructions.append(instruction_of(line, statement))
        return
    if statement.startswith((".pragma ", ".loc ", ".file ")):
        return
    if statement.startswith(".reg"):
        _, kind, names = statement.split(maxsplit=2)
        function.registers.update(dict.fromkeys(re.split(r",\s*", names), kind[1:]))
        return
    variable = re.fullmatch(
        r"(?:\.(?:visible|extern|common|weak)\s+)?\.(shared|local|param|global|const)\s+(?:\.align (\d+)\s+)?"
        r"\.(\w+)\s+([\w$.]+)(?:\[(\d*)\])?(\s*=.*)?",
        statement,
    )
    if variable is None:
        raise PtxError(f"line {line}: no such declaration is known here: {statement}")
    space, align, kind, name, count, values = variable.groups()
    one = BYTES[kind[1:]]
    size = one if count is None else None if count == "" else one * int(count)
    if space == "shared":
        module.share(name, int(align or one), size)
    elif space in ("local", "param"):
        function.reserve(space, name, int(align or one), size)
    elif values and kind[0] != "f":
        module.keep(name, int(align or one), one, values.strip(" ={}"))
    # Others are numba's own, for Python's errors; an instruction that names one is refused.


def instruction_of(line, statement):
    """A statement as an instruction."""
    found = re.fullmatch(r"(?:@(!?%\w+)\s+)?([\w.:]+)\s*(.*)", statement)
    if found is None:
        raise PtxError(f"line {line}: this is no instruction: {statement}")
    guard, opcode, operands = found.groups()
    return Instruction(line, guard or "", opcode, tuple(split(operands)))


def split(text):
    """The operands, at the commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
