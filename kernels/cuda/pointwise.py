"""Formulas of single elements, each a kernel that is written when it is first used. Contract: kernels/reference/pointwise.py.

Where inputs lie as the outputs do, or are one number each, a thread reads and writes four neighbours at a time, 16 bytes of
an array of float32; bools are read one by one, a thread each. Where inputs are broadcast, a thread works out where its
element lies in each (kernels/cuda/parts/walk.py).
"""

import functools
import hashlib
import math

import numpy as np

from minigrad.kernels import bits, formulas
from minigrad.kernels.axes import merged
from minigrad.kernels.cuda.parts.walk import divided, walk
from minigrad.kernels.cuda.tools.language import cuda, load4, real, store4, uint8, uint32
from minigrad.kernels.cuda.tools.launch import (
    Axes,
    Bytes,
    CudaKernel,
    KernelParameter,
    Reals,
    UInt,
    blocks_for,
    kernels,
)
from minigrad.kernels.expressions import OPERATIONS, code, gradient, sigmoid, trace

THREADS = 256
BOOL = np.dtype(np.bool_)
MEANT = {name: getattr(formulas, name) for name in OPERATIONS if hasattr(formulas, name)}
MEANT |= {"sqrt": bits.sqrt, "sin": bits.sin, "cos": bits.cos, "inf": math.inf, "nan": math.nan, "real": real}
MEANT |= {"cuda": cuda, "divided": divided, "load4": load4, "store4": store4, "uint8": uint8, "uint32": uint32}
MEANT |= {"Axes": Axes, "Bytes": Bytes, "Reals": Reals, "UInt": UInt, "THREADS": THREADS, "__name__": __name__}
MEANT |= {f"Words{size}": KernelParameter(f"uint{8 * size}", True) for size in (1, 2, 4, 8)}
"""What names mean in the text of a kernel; words are elements that are only moved."""


def evaluate(formula, inputs, outputs, shape, strides):
    n = outputs[0].size
    if not n:
        return
    axes = merged(shape, *strides)
    kinds = tuple([kind_of(array) for array in (*inputs, *outputs)])
    if len(axes) > 1:
        _, lengths, multipliers, shifts, steps = walk(axes)
        written_kernel(formula, kinds, len(axes), None)[blocks_for(n, THREADS), THREADS](
            *inputs, *outputs, n, lengths, multipliers, shifts, *steps
        )
        return
    along = tuple([step == 1 for step in axes[0][1:]]) if axes else (False,) * len(inputs)
    launched = written_kernel(formula, kinds, 1, along)
    if in_vectors(kinds):
        vectored = n & 0xFFFFFFFC
        if any(
            a.pointer % 16
            for a, steps in zip((*inputs, *outputs), (*along, *[True] * len(outputs)), strict=True)
            if steps
        ):
            vectored = 0
        launched[blocks_for(n, 4 * THREADS), THREADS](*inputs, *outputs, n, vectored)
    else:
        launched[blocks_for(n, THREADS), THREADS](*inputs, *outputs, n)


def kind_of(array):
    """How a kernel takes an array."""
    if array.dtype == BOOL:
        return "Bytes"
    return "Reals" if array.dtype.kind == "f" else f"Words{array.dtype.itemsize}"


def in_vectors(kinds):
    """Whether four elements of each array make vectors."""
    return all(kind in ("Reals", "Words4", "Words8") for kind in kinds)


@functools.cache
def written_kernel(formula, kinds, axes, along):
    """The kernel for a formula of arrays of these kinds: of one axis, where `along` says which inputs lie along it, or more.

    It is in no table of kernels, since it comes and goes with its formula.
    """
    function = named("formula_of_one", text_of_one(formula), MEANT, {})
    function.is_device_function = True
    text = text_of_kernel(formula, kinds, axes, along)
    launched = named("evaluate", text, MEANT, {"formula_of_one": function}, text_of_one(formula))
    return CudaKernel(launched, THREADS, 1, {})


def named(name, text, meant, more, beside=""):
    """The function of a text, with a hash of that in its name: compiled code is kept by it."""
    unique = f"{name}_{hashlib.sha256((text + beside).encode()).hexdigest()[:20]}"
    names = {**meant, **more}
    exec(compile(text.replace(f"def {name}(", f"def {unique}("), f"<{unique}>", "exec"), names)
    return names[unique]


def text_of_one(formula):
    """The text of a function of one element of each input, which gives the result or a tuple of results."""
    inputs = [f"e{i}" for i in range(len(formula.kinds))]
    body = code(formula, inputs)
    lines = [f"{name} = real({value!r})" for name, value in body.constants.items()]
    lines += [*body.lines, f"return {', '.join(body.outputs)}"]
    return "\n".join([f"def formula_of_one({', '.join(inputs)}):", *[f"    {line}" for line in lines], ""])


def text_of_kernel(formula, kinds, axes, along):
    """The text of a kernel."""
    count, results = len(formula.kinds), len(formula.outputs)
    arguments = [f"x{i}: {kinds[i]}" for i in range(count)]
    arguments += [f"y{j}: {kinds[count + j]}" for j in range(results)] + ["n: UInt"]
    if axes > 1:
        arguments += ["lengths: Axes", "multipliers: Axes", "shifts: Axes", *[f"steps{i}: Axes" for i in range(count)]]
        body = [
            THREAD,
            "if i < n:",
            *indented([*places(count, axes), *one(kinds, count, [f"p{i}" for i in range(count)])]),
        ]
    else:
        spots = ["i" if along[i] else "uint32(0)" for i in range(count)]
        single = one(kinds, count, spots)
        if in_vectors(kinds):
            arguments.append("vectored: UInt")
            body = [
                THREAD.replace("i =", "start ="),
                "i = uint32(start * uint32(4))",
                "if i < vectored:",
                *indented(four(count, results, along)),
                "else:",
                *indented([
                    "last = min(n, uint32(i + uint32(4)))",
                    "while i < last:",
                    *indented([*single, "i = uint32(i + uint32(1))"]),
                ]),
            ]  # fmt: skip
        else:
            body = [THREAD, "if i < n:", *indented(single)]
    return "\n".join([f"def evaluate({', '.join(arguments)}):", *indented(body), ""])


THREAD = "i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))"


def indented(lines):
    return [f"    {line}" for line in lines]


def one(kinds, count, spots):
    """Lines that compute element i from the inputs' elements at these places."""
    loaded = [f"x{k}[{spots[k]}]" + (" != uint8(0)" if kinds[k] == "Bytes" else "") for k in range(count)]
    lines = [f"r = formula_of_one({', '.join(loaded)})"]
    results = kinds[count:]
    for j, kind in enumerate(results):
        value = "r" if len(results) == 1 else f"r[{j}]"
        lines.append(f"y{j}[i] = uint8(1) if {value} else uint8(0)" if kind == "Bytes" else f"y{j}[i] = {value}")
    return lines


def four(count, results, along):
    """Lines that compute elements i to i + 3."""
    lines = [
        f"a{k}, b{k}, c{k}, d{k} = load4(x{k}, i)" if along[k] else f"a{k} = b{k} = c{k} = d{k} = x{k}[uint32(0)]"
        for k in range(count)
    ]
    lines += [f"{letter} = formula_of_one({', '.join(f'{letter}{k}' for k in range(count))})" for letter in "abcd"]
    for j in range(results):
        values = [letter if results == 1 else f"{letter}[{j}]" for letter in "abcd"]
        lines.append(f"store4(y{j}, i, {', '.join(values)})")
    return lines


def places(count, axes):
    """Lines that find where element i lies in each input."""
    lines = ["rest = i", *[f"p{k} = uint32(0)" for k in range(count)]]
    for axis in [0, *range(7 - axes, 6)][:0:-1]:
        lines.append(f"quotient = divided(rest, multipliers[{axis}], shifts[{axis}])")
        lines.append(f"place = uint32(rest - quotient * lengths[{axis}])")
        lines += [f"p{k} = uint32(p{k} + place * steps{k}[{axis}])" for k in range(count)]
        lines.append("rest = quotient")
    return [*lines, *[f"p{k} = uint32(p{k} + rest * steps{k}[0])" for k in range(count)]]


# What the table of machine code has for all formulas: silu and its gradient, of arrays that lie alike and of a broadcast one

SILU = trace(lambda x: x * sigmoid(x))
kernels += [
    written_kernel(SILU, ("Reals",) * 2, 1, (True,)),
    written_kernel(gradient(SILU, (0,)), ("Reals",) * 3, 1, (True, True)),
    written_kernel(gradient(SILU, (0,)), ("Reals",) * 3, 2, None),
]
