"""Formulas of single elements, each a kernel that is written when it is first used. Contract: kernels/reference/pointwise.py.

Of a formula, the number of axes that its layout needs and which inputs lie along the innermost one, a kernel is written in
Python and compiled like any other. Work is cut into blocks of BLOCK elements; within one, LLVM turns the plain loop into
vector code. No product fuses with a sum, so that a formula has the bits of the same operations one by one.
"""

import functools
import hashlib

import numpy as np
from numba import prange

from minigrad.kernels import bits, formulas
from minigrad.kernels.cpu.tools.launch import CpuKernel, chooser
from minigrad.kernels.expressions import OPERATIONS, code

BLOCK = 1 << 12  # elements
MEANT = {name: getattr(formulas, name) for name in OPERATIONS if hasattr(formulas, name)}
MEANT |= {"sqrt": bits.sqrt, "sin": bits.sin, "cos": bits.cos, "inf": np.inf, "nan": np.nan}
MEANT |= {"np": np, "prange": prange, "BLOCK": BLOCK, "__name__": __name__}
"""What names mean in the code of a kernel."""


@chooser
def evaluate(formula, inputs, outputs, shape, strides):
    axes, walked = simplified(shape, strides)
    lengths = axes if len(axes) > 1 else ()
    steps = [step for each in walked for step in each[:-1]]
    return kernel_for(formula, len(axes), tuple([each[-1] == 1 for each in walked])), (
        *inputs,
        *outputs,
        *lengths,
        *steps,
    )


@functools.lru_cache(maxsize=4096)
def simplified(shape, strides):
    """(lengths, strides of each input) without the axes that only fill a layout up; one axis is left."""
    first = next((axis for axis, length in enumerate(shape[:-1]) if length != 1), len(shape) - 1)
    return shape[first:], tuple([each[first:] for each in strides])


@functools.cache
def kernel_for(formula, axes, along):
    """The kernel for a formula and so many axes, `along` says which inputs lie along the innermost."""
    return WrittenKernel(formula, axes, along)


class WrittenKernel(CpuKernel):
    """A kernel made of a formula. Its name has a hash of its text: whoever keeps or finds compiled code goes by that."""

    def __init__(self, formula, axes, along):
        self.made_of = formula, axes, along
        text = written(formula, axes, along)
        name = f"evaluate_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
        names = dict(MEANT)
        exec(compile(text.replace("def evaluate", f"def {name}"), f"<{name}>", "exec"), names)
        super().__init__(names[name], set(), sized_by=len(formula.kinds))

    def __reduce__(self):
        return kernel_for, self.made_of


def written(formula, axes, along):
    """The text of a kernel: its arguments are inputs, outputs and, for several axes, lengths and strides of the outer ones."""
    count, results = len(formula.kinds), len(formula.outputs)
    arguments = [f"x{i}" for i in range(count)] + [f"y{j}" for j in range(results)]
    typed = next((f"x{i}" for i in range(count) if formula.kinds[i] == "float"), "y0")
    body = code(formula, [f"e{i}" for i in range(count)])
    constants = [f"{name} = {typed}.dtype.type({value!r})" for name, value in body.constants.items()]
    each = [f"e{i} = x{i}[q{i} + i]" for i in range(count) if along[i]]
    once = [f"e{i} = x{i}[q{i}]" for i in range(count) if not along[i]]
    store = [f"y{j}[q + i] = {name}" for j, name in enumerate(body.outputs)]
    inner = [*once, "for i in range(n):", *indented([*each, *body.lines, *store])]
    if axes == 1:
        starts = [f"q{i} = " + ("q" if along[i] else "np.uintp(0)") for i in range(count)]
        lines = [
            "blocks = (y0.size + BLOCK - 1) // BLOCK",
            "for block in prange(blocks):",
            *indented(
                ["q = np.uintp(block * BLOCK)", "n = np.uintp(min(BLOCK, y0.size - block * BLOCK))", *starts, *inner]
            ),
        ]
    else:
        outer = range(axes - 1)
        arguments += [f"n{a}" for a in range(axes)] + [f"s{i}_{a}" for i in range(count) for a in outer]
        places = ["rest = row"]
        for a in reversed(outer):
            places += [f"c{a} = rest % n{a}", f"rest //= n{a}"] if a else ["c0 = rest"]
        for i in range(count):
            terms = [f"c{a} * s{i}_{a}" for a in outer] + (["start"] if along[i] else [])
            places.append(f"q{i} = np.uintp({' + '.join(terms)})")
        last = f"n{axes - 1}"
        lines = [
            f"pieces = ({last} + BLOCK - 1) // BLOCK",  # of a row, if rows are long
            f"group = max(1, BLOCK // {last})",  # rows to a task, if rows are short
            f"rows = y0.size // {last}",
            "for task in prange((rows + group - 1) // group * pieces):",
            *indented([
                "start = task % pieces * BLOCK",
                f"n = np.uintp(min({last} - start, BLOCK))",
                "first = task // pieces * group",
                "for row in range(first, min(rows, first + group)):",
                *indented([f"q = np.uintp(row * {last} + start)", *places, *inner]),
            ]),
        ]  # fmt: skip
    return "\n".join([f"def evaluate({', '.join(arguments)}):", *indented([*constants, *lines]), ""])


def indented(lines):
    return [f"    {line}" for line in lines]
