"""The tape as a table."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minigrad import notebook
from minigrad.devices import address
from minigrad.inspect.graph import TapeGraph, kept_arrays, short_line, source_line
from minigrad.inspect.text import columns, number_of_bytes, shortened
from minigrad.nn import Module
from minigrad.tensor import Tensor


@dataclass(frozen=True)
class TapeRow:
    """One op of a tape."""

    number: int
    op: str
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...]  # of the result, or of each of several
    dtype: np.dtype | tuple[np.dtype, ...]
    saved: int  # bytes
    inputs: list[str]
    line: str  # file:line, or "" if it was not traced

    @property
    def shapes(self) -> str:
        """The shape, or the shapes, in words."""
        several = isinstance(self.dtype, tuple)
        return ", ".join(map(str, self.shape)) if several else str(self.shape)

    @property
    def dtypes(self) -> str:
        """The dtype, or the dtypes that there are, in words."""
        return ", ".join(dict.fromkeys(map(str, self.dtype))) if isinstance(self.dtype, tuple) else str(self.dtype)


@dataclass(frozen=True)
class Table:
    """The ops of a tape in the order of their making, as `table` returns them; print it."""

    rows: list[TapeRow]
    saved: int  # bytes of all rows, an array that several ops keep counted once

    def _cells(self) -> tuple[list[str], list[list[str]], str]:
        """The header, the rows, and what stands below."""
        traced = any(row.line for row in self.rows)
        header = ["#", "op", "shape", "dtype", "saved", "inputs"] + ["source"] * traced
        body = []
        for row in self.rows:
            cells = [str(row.number), row.op, row.shapes, row.dtypes, number_of_bytes(row.saved)]
            cells.append(", ".join(row.inputs))
            if traced:
                cells.append(f"{short_line(row.line)}  {shortened(source_line(row.line))}".strip())
            body.append(cells)
        ops = f"{len(self.rows)} op" + "s" * (len(self.rows) != 1)
        total = f"{ops}, {number_of_bytes(self.saved)} kept for backward beside the leaves, each array counted once"
        return header, body, total

    def __str__(self) -> str:
        header, body, total = self._cells()
        return columns(header, body, right=(0, 4)) + "\n" + total

    def _repr_html_(self) -> str:
        """For notebooks."""
        header, body, total = self._cells()
        return notebook.table(total, header, body, right=(0, 4))

    __repr__ = __str__


def table(loss: Tensor, names: Mapping[str, Tensor] | None = None, model: Module | None = None) -> Table:
    """The tape of a tensor as a table: op, result, bytes saved for backward, inputs, and the line of user code.

    Inputs are ops (#number), of an op with several results one of these (#number[0]), and leaves, named by `names={"w1": w1}`
    or by the parameters of `model`; "·" is an input that needs no gradient, which `record()` tells more about. Saved bytes
    leave out the leaves, which live anyway. Lines are known of what was computed inside `trace()` or `record()`. Raises
    RuntimeError if there is no tape, or no more.
    """
    graph = TapeGraph(loss, names, model)
    rows = []
    arrays: dict[tuple[int, int], int] = {}
    for op in graph.ops:
        kept = kept_arrays(op)
        arrays |= {(address(a), a.nbytes): a.nbytes for a in kept}
        saved = sum(a.nbytes for a in kept)
        shapes, dtypes = [tuple([getattr(r, name) for r in op._results()]) for name in ("shape", "dtype")]
        shape, dtype = (shapes, dtypes) if op._several else (shapes[0], dtypes[0])
        rows.append(TapeRow(graph.numbers[op], op._title(), shape, dtype, saved, graph.inputs(op), op.line))
    return Table(rows, sum(arrays.values()))
