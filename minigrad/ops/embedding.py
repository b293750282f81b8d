"""Rows of a table by their numbers."""

from typing import TYPE_CHECKING

import numpy as np

from minigrad.kernels.contract import Array
from minigrad.modes import at_work, refuse_constant
from minigrad.ops.checks import float_tensor
from minigrad.ops.forms import Form
from minigrad.ops.launches import filled
from minigrad.ops.movement import to
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Embedding(Form):
    """weight[index]."""

    formula = "y = w[index];  dw[i] = Σ dy where index = i, in their order"
    passes_on = False

    def forward(self, weight: Array, index: Array) -> Array:
        self.table = weight.shape
        y = self.empty((*index.shape, weight.shape[1]), weight.dtype)
        flat = index.reshape(-1)
        if y.size:
            self.kernels.movement.take_rows(weight, flat, y.reshape(flat.size, weight.shape[1]))
        self.save(flat)
        return y

    def again(self, weight: Array) -> Array:
        return self.forward(weight, *self.saved)  # type: ignore[misc]

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        (index,) = self.saved  # type: ignore[misc]
        if not dy.size:
            return filled(self, self.table, dy.dtype, 0.0), None
        dw = self.empty(self.table, dy.dtype)
        self.kernels.movement.take_rows_backward(dy.reshape(index.size, self.table[1]), index, dw)
        return dw, None


def check_numbers(index: np.ndarray, rows: int) -> None:
    """Raise IndexError for a number that is no row's."""
    if index.size and (index.min() < 0 or index.max() >= rows):
        wrong = int(index[(index < 0) | (index >= rows)].reshape(-1)[0])
        raise IndexError(f"embedding: there is no row {wrong}; the table has rows 0 to {rows - 1}")


def embedding(index: "ArrayLike | Tensor", weight: Tensor) -> Tensor:
    """Rows of a table (rows, features) by their numbers: integers (...) to (..., features).

    Where a row is taken several times its gradients are added up in the order of the numbers. Raises TypeError for numbers that
    are no integers and IndexError for one that is no row's.
    """
    if float_tensor("embedding", weight).ndim != 2:
        raise ValueError(f"embedding: the table must be (rows, features), not {weight.shape}")
    if not isinstance(index, Tensor):
        index = Tensor(np.asarray(index), device=weight._device)
        refuse_constant(index.shape)
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding: the rows' numbers must be integers, not {index.dtype}")
    at_work(weight._device).check(check_numbers, index._data, weight.shape[0])
    if index.dtype != np.int64:
        index = to(index, np.int64)
    return Embedding.apply(weight, index)
