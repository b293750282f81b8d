"""Several results of one op: what stands on the tape for each of them, and what backward gets for one that nothing used.

The op is the node. A tensor of an op with one result comes from the op itself; one of several comes from a `Result`, the op and
a number, where the gradient of that tensor adds up, with hooks of its own. The tensor and the ops that use it hold the
`Result`, which holds the op, and the op only knows where it is: so what nobody needs any more is freed at once.
"""

import functools
import inspect
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import minigrad.tensor as tensors
from minigrad.devices import Device, is_array
from minigrad.modes import begin

if TYPE_CHECKING:
    from minigrad.tape import Op

Hook = tensors.NewHook


class Result:
    """One of several results of an op, as its tensor knows it and the ops that use it."""

    __slots__ = ("__weakref__", "dtype", "hooks", "number", "op", "retained", "shape")

    hooks: dict[int, Hook] | None
    retained: "weakref.ref[tensors.Tensor] | None"

    def __init__(self, op: "Op", number: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.op, self.number, self.shape, self.dtype = op, number, shape, dtype
        self.hooks = self.retained = None


def op_of(source: "Op | Result | tensors.Tensor | None") -> "Op | None":
    """The op that something comes from; None for a leaf."""
    if isinstance(source, Result):
        return source.op
    return None if isinstance(source, tensors.Tensor) else source


def no_gradient(op: "Op", result: "Op | Result", device: Device) -> np.ndarray | None:
    """What the backward of an op gets for one of its results that no gradient has come to: zeros, or None (see Op)."""
    if op.takes_none or result.dtype not in tensors.FLOATS:
        return None
    begin(type(op).__name__ + " backward")
    return device.zeros(result.shape, result.dtype)


def count_together(name: str, results: "Sequence[tensors.Tensor]") -> None:
    """Have changes in place counted together of results that lie in one memory. Raises TypeError if there is no result."""
    if not results:
        raise TypeError(f"{name}.forward returned an empty tuple, where an array or several are expected")
    versions: dict[int, list[int]] = {}
    for t in results:
        t._version = versions.setdefault(id(memory_of(t._data)), t._version)


def memory_of(array: Any) -> Any:
    """What owns an array's memory: the lease of a pool, or an array."""
    while array.base is not None and is_array(array.base):
        array = array.base
    return array if array.base is None else array.base


@functools.lru_cache(maxsize=128)
def check_gradients_taken(cls: Any, count: int) -> None:
    """Raise TypeError unless an op's backward takes as many gradients as forward has given results."""
    for method in (cls.backward, cls.backward_on_tape):
        try:
            inspect.signature(method).bind(None, *[None] * count)
        except TypeError:
            names = ", ".join(f"dy{i}" for i in range(count))
            taken = inspect.signature(method)
            raise TypeError(
                f"{cls.__name__}.forward gave {count} results, so {method.__name__} gets a gradient for each: it must be "
                f"{method.__name__}(self, {names}), and is {method.__name__}{taken}"
            ) from None
