"""Which registers a thread needs again after it has waited: those that are read there and may not have been written since."""

import re

WAITING = {"bar", "barrier", "shfl", "vote", "mma", "ldmatrix"}
WITHOUT_RESULT = {"st", "bra", "ret", "exit", "cp", "red", "membar", "fence", "trap", "prefetch", "call"}


def waits(instruction):
    """Whether a thread waits there."""
    return instruction.opcode.partition(".")[0] in WAITING


def registers_in(operand):
    """The names of registers in an operand, also of those that the hardware sets."""
    return re.findall(r"%[\w.]+", operand)


def reads_and_writes(instruction):
    """(registers that it reads, registers that it writes whatever they held)."""
    root = instruction.opcode.partition(".")[0]
    named = [registers_in(operand) for operand in instruction.operands]
    has_result = root not in WITHOUT_RESULT and not instruction.opcode.startswith(
        ("bar.sync", "bar.warp", "barrier.sync")
    )
    written = named[0] if has_result and named else []
    read = [name for names in (named[1:] if has_result else named) for name in names]
    if instruction.guard:  # what it may not write stays as it was
        return [instruction.guard.lstrip("!"), *read], []
    return read, written


def kept(function):
    """The registers that hold something over a wait."""
    instructions = function.instructions
    if not any(map(waits, instructions)):
        return set()
    number = {name: 1 << i for i, name in enumerate(function.registers)}
    effects = []
    for instruction in instructions:
        sets = [sum({number[name] for name in names if name in number}) for names in reads_and_writes(instruction)]
        effects.append((sets[0], ~sets[1]))
    needed = needed_before(function, effects)
    over = 0
    for i, instruction in enumerate(instructions):
        if waits(instruction):
            # what the instruction itself writes is written once the thread goes on
            over |= needed[i + 1] & effects[i][1] if i + 1 < len(needed) else 0
    return {name for name, bit in number.items() if over & bit}


def needed_before(function, effects):
    """For each instruction, as bits, the registers that it or what follows it reads first; and 0 behind the last."""
    needed = [0] * (len(effects) + 1)
    changed = True
    while changed:
        changed = False
        for i in range(len(effects) - 1, -1, -1):
            read, not_written = effects[i]
            behind = 0
            for j in followers(function, i):
                behind |= needed[j]
            now = read | (behind & not_written)
            if now != needed[i]:
                needed[i], changed = now, True
    return needed


def followers(function, i):
    """The instructions that may come next."""
    instruction = function.instructions[i]
    root = instruction.opcode.partition(".")[0]
    found = []
    if root == "bra":
        found.append(function.labels[instruction.operands[0]])
    if instruction.guard or root not in ("bra", "ret", "exit"):
        found.append(i + 1)
    return found
