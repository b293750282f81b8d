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


def einsum(equation: str, *tensors: Tensor) -> Tensor:
    """Products of tensors, summed over the letters that the result lacks: `einsum("bik,bkj->bij", a, b)`.

    Without `->` the result has the letters that come once, in alphabetical order. Three tensors and more are contracted two
    by two, in the order that opt_einsum finds if it is installed, else from left to right. Raises ValueError for an
    equation that does not fit the tensors; a letter twice in one tensor, and `...`, are not supported.
    """
    terms, result = parsed(equation, tensors)
    lengths = checked(equation, terms, result, tensors)
    parts = list(zip(terms, tensors, strict=True))
    for pair in path(equation, terms, result, tensors):
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
    """(the letters of each tensor, those of the result)."""
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation comes first, a string, not {type(equation).__name__}")
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    letters = "".join(terms)
    if not arrow:
        result = "".join(sorted({c for c in letters if letters.count(c) == 1}))
    wrong = [c for c in letters + result if c not in string.ascii_letters]
    if wrong:
        raise ValueError(f"einsum: {equation!r} has {wrong[0]!r}, where letters, commas and -> are expected")
    if len(terms) != len(tensors):
        raise ValueError(f"einsum: {equation!r} is of {len(terms)} tensors, and {len(tensors)} are given")
    return terms, result


def checked(equation: str, terms: list[str], result: str, tensors: tuple[Tensor, ...]) -> dict[str, int]:
    """The length of each letter's axis; ValueError where tensors and letters do not fit."""
    lengths: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        if float_tensor("einsum", x).ndim != len(term):
            raise ValueError(
                f"einsum: {term!r} of {equation!r} has {len(term)} letters, its tensor the shape {x.shape}"
            )
        if len(set(term)) != len(term):
            raise ValueError(f"einsum: {term!r} of {equation!r} has a letter twice, which is not supported")
        for letter, n in zip(term, x.shape, strict=True):
            if lengths.setdefault(letter, n) != n:
                raise ValueError(
                    f"einsum: {letter!r} of {equation!r} is {lengths[letter]} long in one tensor, {n} in another"
                )
    unknown = [c for c in result if c not in lengths]
    if unknown or len(set(result)) != len(result):
        raise ValueError(f"einsum: the result of {equation!r} must be letters of the tensors, each once")
    return lengths


def path(equation: str, terms: list[str], result: str, tensors: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Which two of the parts are contracted next, until one is left; what comes of it stands last."""
    if len(tensors) < 3:
        return [(0, 1)] * (len(tensors) - 1)
    try:
        import opt_einsum
    except ImportError:
        return [(0, 1), *[(0, n) for n in range(len(tensors) - 2, 0, -1)]]
    shapes: Any = [x.shape for x in tensors]
    found = opt_einsum.contract_path(f"{','.join(terms)}->{result}", *shapes, shapes=True)[0]
    return [(pair[0], pair[-1]) for pair in found if len(pair) == 2]


def summed(term: str, x: Tensor, wanted: set[str]) -> tuple[str, Tensor]:
    """A tensor summed over the letters that nobody wants: (its letters, it)."""
    axes = tuple([i for i, letter in enumerate(term) if letter not in wanted])
    return ("".join(c for c in term if c in wanted), sum(x, axes)) if axes else (term, x)


def contracted(
    first: str, a: Tensor, second: str, b: Tensor, wanted: set[str], lengths: dict[str, int]
) -> tuple[str, Tensor]:
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
