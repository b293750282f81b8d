"""Products and sums of tensors by the letters of their axes (einsum)."""

import math
import string
from typing import Any

from minigrad.ops.checks import float_tensor
from minigrad.ops.gemm import matmul
from minigrad.ops.movement import reshape, transpose
from minigrad.ops.reduce import sum
from minigrad.ops.shape_functions import BroadcastTo, expand_dims
from minigrad.tensor import Tensor

Part = tuple[str, Tensor]  # the letters of a tensor's axes, each once, and the tensor


def einsum(equation: str, *tensors: Tensor) -> Tensor:
    """Products of tensors, summed over the letters that the result lacks: `einsum("bik,bkj->bij", a, b)`.

    As NumPy has it: a letter twice in one tensor takes its diagonal ("ii" is a trace, "bii->bi" the diagonals); `...` stands
    for any number of axes, which are broadcast and remain; a length of 1 goes with any other. Without `->` the result has what
    `...` stands for, and the letters that come once, in alphabetical order. Three tensors and more are contracted two by two,
    in the order that opt_einsum finds if it is installed (the extra `einsum`), else from left to right. Raises ValueError for
    an equation that does not fit the tensors.
    """
    terms, result = parsed(equation, tensors)
    parts = [diagonals(equation, term, x) for term, x in zip(terms, tensors, strict=True)]
    lengths = common_lengths(equation, parts)
    unknown = [c for c in result if c not in lengths]
    if unknown or len(set(result)) != len(result):
        raise ValueError(f"einsum: the result of {equation!r} must be letters of the tensors, each once")
    parts = [narrowed(term, x, lengths) for term, x in parts]
    for pair in path(result, parts):
        (first, a), (second, b) = parts[pair[0]], parts[pair[1]]
        parts = [part for i, part in enumerate(parts) if i not in pair]
        wanted = set(result).union(*[term for term, _ in parts])
        parts.append(contracted(first, a, second, b, wanted, lengths))
    (term, x) = parts[0]
    term, x = summed(term, x, set(result))
    order = [term.index(letter) for letter in result]
    if order != sorted(order):
        return transpose(x, order)
    return BroadcastTo.apply(x, shape=x.shape) if any(x is tensor for tensor in tensors) else x  # a copy, as else


def parsed(equation: str, tensors: tuple[Tensor, ...]) -> tuple[list[str], str]:
    """(the letters of each tensor, those of the result); what `...` stands for has letters that are not in the equation."""
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation comes first, a string, not {type(equation).__name__}")
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    for term in (*terms, result):
        wrong = [c for c in term.replace("...", "", 1) if c not in string.ascii_letters]
        if wrong:
            raise ValueError(
                f"einsum: {equation!r} has {wrong[0]!r}, where letters, commas, -> and one ... for each tensor are expected"
            )
    if len(terms) != len(tensors):
        raise ValueError(f"einsum: {equation!r} is of {len(terms)} tensors, and {len(tensors)} are given")
    letters = "".join(terms).replace("...", "")
    more = [further_axes(equation, term, x) for term, x in zip(terms, tensors, strict=True)]
    free = "".join(c for c in string.ascii_letters if c not in equation)
    axes = free[: max(more, default=0)]
    terms = [term.replace("...", axes[len(axes) - n :]) for term, n in zip(terms, more, strict=True)]
    if not arrow:
        return terms, axes + "".join(sorted({c for c in letters if letters.count(c) == 1}))
    if axes and "..." not in result:
        raise ValueError(
            f"einsum: the result of {equation!r} lacks ..., which stands for {len(axes)} axes of the tensors; axes that are to "
            "be summed need letters"
        )
    return terms, result.replace("...", axes)


def further_axes(equation: str, term: str, x: Tensor) -> int:
    """How many axes `...` stands for; ValueError where letters and axes do not fit."""
    count = len(term.replace("...", ""))
    more = float_tensor("einsum", x).ndim - count
    if more < 0 or (more and "..." not in term):
        raise ValueError(f"einsum: {term!r} of {equation!r} has {count} letters, its tensor the shape {x.shape}")
    return more


def diagonals(equation: str, term: str, x: Tensor) -> Part:
    """Of axes with the same letter the diagonal, as one axis: every (n + 1)th row of the two as one."""
    while (letter := next((c for c in term if term.count(c) > 1), None)) is not None:
        one, other = [i for i, c in enumerate(term) if c == letter][:2]
        n = x.shape[one]
        if x.shape[other] != n:
            raise ValueError(
                f"einsum: {letter!r} comes twice in {term!r} of {equation!r}, for axes of different length: the shape is "
                f"{x.shape}"
            )
        rest = [i for i in range(x.ndim) if i not in (one, other)]
        rows = reshape(transpose(x, (one, other, *rest)), (n * n, *[x.shape[i] for i in rest]))
        term, x = letter + "".join(term[i] for i in rest), rows[:: n + 1]
    return term, x


def common_lengths(equation: str, parts: list[Part]) -> dict[str, int]:
    """The length of each letter's axis, 1 going with any other; ValueError where two differ."""
    lengths: dict[str, int] = {}
    for letter, n in [pair for term, x in parts for pair in zip(term, x.shape, strict=True)]:
        known = lengths.setdefault(letter, n)
        if 1 not in (known, n) and known != n:
            what = repr(letter) if letter in equation else "an axis of ..."
            raise ValueError(f"einsum: {what} of {equation!r} is {known} long in one tensor, {n} in another")
        lengths[letter] = n if known == 1 else known
    return lengths


def narrowed(term: str, x: Tensor, lengths: dict[str, int]) -> Part:
    """Without the axes of length 1 that others have longer."""
    kept = [i for i, c in enumerate(term) if x.shape[i] == lengths[c]]
    if len(kept) == len(term):
        return term, x
    return "".join(term[i] for i in kept), reshape(x, [x.shape[i] for i in kept])


def path(result: str, parts: list[Part]) -> list[tuple[int, int]]:
    """Which two of the parts are contracted next, until one is left; what comes of it stands last."""
    if len(parts) < 3:
        return [(0, 1)] * (len(parts) - 1)
    try:
        import opt_einsum
    except ImportError:
        return [(0, 1), *[(0, n) for n in range(len(parts) - 2, 0, -1)]]
    shapes: Any = [x.shape for _, x in parts]
    found = opt_einsum.contract_path(f"{','.join(term for term, _ in parts)}->{result}", *shapes, shapes=True)[0]
    return [(pair[0], pair[-1]) for pair in found if len(pair) == 2]


def summed(term: str, x: Tensor, wanted: set[str]) -> Part:
    """A tensor summed over the letters that nobody wants: (its letters, it)."""
    axes = tuple([i for i, letter in enumerate(term) if letter not in wanted])
    return ("".join(c for c in term if c in wanted), sum(x, axes)) if axes else (term, x)


def contracted(first: str, a: Tensor, second: str, b: Tensor, wanted: set[str], lengths: dict[str, int]) -> Part:
    """The product of two tensors, summed over the letters that nobody else wants, as one of matrices in batches."""
    first, a = summed(first, a, wanted | set(second))
    second, b = summed(second, b, wanted | set(first))
    batch = [c for c in first if c in second and c in wanted]
    inner = [c for c in first if c in second and c not in wanted]
    rows, columns = [c for c in first if c not in second], [c for c in second if c not in first]

    def grouped(term: str, x: Tensor, *groups: list[str]) -> Tensor:
        order = [term.index(c) for group in groups for c in group]
        x = transpose(x, order) if order != sorted(order) else x
        return reshape(x, [math.prod([lengths[c] for c in group]) for group in groups])

    if batch:
        y = matmul(grouped(first, a, batch, rows, inner), grouped(second, b, batch, inner, columns))
    else:
        y = matmul(grouped(first, a, rows, inner), grouped(second, b, inner, columns))
    letters = [*batch, *rows, *columns]
    return "".join(letters), reshape(y, [lengths[c] for c in letters])


def outer(a: Tensor, b: Tensor) -> Tensor:
    """The products of all elements of one vector with all of another, (m,) and (n,) to (m, n). Raises ValueError."""
    if float_tensor("outer", a).ndim != 1 or float_tensor("outer", b).ndim != 1:
        raise ValueError(f"outer needs two vectors, not shapes {a.shape} and {b.shape}")
    return expand_dims(a, 1) * expand_dims(b, 0)
