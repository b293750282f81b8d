"""What callers may pass, by name: for type checkers, for editors, and for who reads a signature."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from numpy.typing import ArrayLike, DTypeLike

if TYPE_CHECKING:
    import numpy as np

    from minigrad.devices import Device
    from minigrad.tensor import Tensor

Axis = SupportsIndex | Iterable[SupportsIndex] | None  # one, several, or all
DeviceLike: TypeAlias = "str | Device | None"  # its name, itself, or the one at hand
Dtype = DTypeLike | None  # what NumPy makes a dtype of, or the natural one
Index = Any  # what NumPy indexes by, which no type says, with Tensors for arrays
Lengths = SupportsIndex | Sequence[SupportsIndex]  # of the axes; an int is the length of the only one
Operand: TypeAlias = "Tensor | np.ndarray | np.generic | float"  # one side of an operator; the other must be a Tensor
Seed: TypeAlias = (
    "int | np.integer | np.ndarray | Tensor"  # always the same draws, or an array (seed, counter) that counts up
)
TensorLike: TypeAlias = "Tensor | ArrayLike"  # what mg.tensor makes a tensor of
