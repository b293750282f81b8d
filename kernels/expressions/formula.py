"""Formulas, and how they are written: as lines of Python for a kernel, and as text for a reader."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from minigrad.kernels.expressions.operations import OPERATIONS

Step = tuple[str, tuple[Any, ...]]  # an operation and what it is done to, by number; or "constant" and its value


class Formula:
    """Steps from inputs to outputs, which are numbered through: inputs first, then what each step gives.

    `kinds` says of each input whether it is a "float" or a "bool"; `results` names the outputs. `digest` stands for the whole
    but for the names.
    """

    def __init__(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        steps: Sequence[Step],
        outputs: Sequence[int],
        results: Sequence[str] = ("y",),
    ) -> None:
        self.names, self.kinds, self.steps, self.outputs = tuple(names), tuple(kinds), tuple(steps), tuple(outputs)
        self.results = tuple(results)
        self.digest = hashlib.sha256(repr((self.kinds, self.steps, self.outputs)).encode()).hexdigest()[:20]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Formula, (self.names, self.kinds, self.steps, self.outputs, self.results)

    def kind(self, number: int) -> str:
        """Whether a value is a "float" or a "bool"."""
        if number < len(self.kinds):
            return self.kinds[number]
        return OPERATIONS[self.steps[number - len(self.kinds)][0]].kind

    def __repr__(self) -> str:
        return f"<formula {', '.join(self.names)} -> {text(self)}>"


class Code(NamedTuple):
    """A formula as lines of Python over scalars: `constants` by name, the lines, and the names of the outputs."""

    constants: dict[str, float]
    lines: list[str]
    outputs: list[str]


def code(formula: Formula, inputs: Sequence[str]) -> Code:
    """The lines that compute a formula from names that hold its inputs."""
    constants: dict[str, float] = {}
    lines, names = [], list(inputs)
    for operation, operands in formula.steps:
        if operation == "constant":
            names.append(f"k{len(constants)}")
            constants[names[-1]] = operands[0]
            continue
        names.append(f"v{len(names)}")
        lines.append(f"{names[-1]} = {OPERATIONS[operation].code.format(*[names[i] for i in operands])}")
    return Code(constants, lines, [names[i] for i in formula.outputs])


STRENGTH = {
    **dict.fromkeys(("both", "either"), 0),
    **dict.fromkeys(("less", "less_equal", "equal", "not_equal", "not"), 1),
    **dict.fromkeys(("add", "sub"), 2),
    **dict.fromkeys(("mul", "div", "neg"), 3),
    **dict.fromkeys(("sqrt", "power"), 4),
}
ALONE = 9
"""How tightly operations bind that need brackets, or whose operands do; anything else stands alone."""


def text(formula: Formula) -> str:
    """A formula as a reader would write it; what is used several times gets a name, u1 and so on."""
    uses = [i for operation, operands in formula.steps if operation != "constant" for i in operands]
    parts: list[tuple[str, int]] = [(name, ALONE) for name in formula.names]
    lines = []
    for number, (operation, operands) in enumerate(formula.steps, len(formula.names)):
        if operation == "constant":
            parts.append((f"{operands[0]:.6g}", ALONE if operands[0] >= 0 else STRENGTH["neg"]))
            continue
        part, own = written(formula, operation, [parts[i] for i in operands], operands)
        if uses.count(number) > 1 and operation != "neg":
            lines.append(f"u{len(lines) + 1} = {part}")
            part, own = f"u{len(lines)}", ALONE
        parts.append((part, own))
    lines += [f"{name} = {parts[i][0]}" for name, i in zip(formula.results, formula.outputs, strict=True)]
    return ";  ".join(lines)


def written(formula: Formula, operation: str, given: list[tuple[str, int]], operands: Sequence[int]) -> tuple[str, int]:
    """(the text of a step, how tightly it binds), from those of its operands."""
    form, own = OPERATIONS[operation].text, STRENGTH.get(operation, ALONE)
    if operation == "mul" and operands[0] == operands[1]:
        form, own = "{0}²", STRENGTH["power"]
    if operation in ("less", "less_equal") and given[0][0][:1].isdigit():  # 0 < x reads better as x > 0
        form = "{1} > {0}" if operation == "less" else "{1} ≥ {0}"
    parts = []
    for place, (part, strength) in enumerate(given):
        closed = own < ALONE and (strength < own or (strength == own and (place > 0 or own == STRENGTH["power"])))
        parts.append(f"({part})" if closed else part)
    return form.format(*parts), own
