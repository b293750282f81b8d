"""What a captured step returns: which values may be, and the copies that its caller gets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from minigrad.capture.launches import Launch
from minigrad.capture.recorder import lease_of
from minigrad.capture.watch import same
from minigrad.devices import address, arrays_among
from minigrad.devices.base import POOLED_BYTES
from minigrad.modes import CaptureError
from minigrad.tensor import Tensor


def each_tensor(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest of tuples, lists and dicts with the function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[each_tensor(v, function) for v in value])
    if isinstance(value, tuple | list):
        return type(value)(each_tensor(v, function) for v in value)
    if isinstance(value, dict):
        return {name: each_tensor(v, function) for name, v in value.items()}
    return value


def returned(outputs: Any, written: Mapping[Tensor, Any] = MappingProxyType({})) -> Any:
    """The outputs as the caller gets them: in memory of their own where they were written into it, else copies.

    So the next replay does not write over them.
    """
    if isinstance(outputs, Tensor):
        array = outputs._device.copy(outputs._data) if outputs not in written else written[outputs]
        return Tensor._wrap(array, outputs._device)
    return each_tensor(outputs, lambda tensor: returned(tensor, written))


def movable(outputs: Any, others: Sequence[Any], launches: Sequence[Launch], pool: Any) -> dict[Tensor, Any]:
    """The outputs that replays may write into other memory, and the block of memory that is theirs alone.

    `others` are arrays that outlast a replay. Each launch that works on the block must have its address from an argument of its
    own: not from a table of addresses, as kernels have that take a list of arrays.
    """
    tensors: list[Tensor] = []
    each_tensor(outputs, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
    found = {}
    for tensor in tensors:
        lease = lease_of(tensor._data)
        if lease is None or lease.pool is not pool or tensor._data.nbytes < POOLED_BYTES:
            continue
        alone = [tensor._data, *others, *[t._data for t in tensors if t is not tensor]]
        if sum(lease_of(array) is lease for array in alone) == 1 and all(
            works_on_arguments(launch, lease.block) for launch in launches
        ):
            found[tensor] = lease.block
    return found


def works_on_arguments(launch: Launch, block: np.ndarray) -> bool:
    """Whether all that the kernel was called with of a block are arrays that the launch has as arguments."""
    own = {address(a) for a in launch.arguments if isinstance(a, np.ndarray)}
    start = address(block)
    return all(address(a) in own for a in arrays_among(launch.given) if start <= address(a) < start + block.size)


def same_place(array: np.ndarray, block: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """The array that lies in other memory as this one does in its block."""
    start = address(array) - address(block)
    return memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


def check_results(value: object, known: Iterable[object]) -> None:
    """Raise CaptureError for a result that replays would repeat though it may be another by then.

    Tensors are computed anew. Beside them, None and what is among `known` may be returned: the arguments, lengths of their
    axes, constants of the step's code, and what its names stand for.
    """
    if isinstance(value, tuple | list):
        for v in value:
            check_results(v, known)
    elif isinstance(value, dict):
        for v in value.values():
            check_results(v, known)
    elif value is not None and not isinstance(value, Tensor) and not any(same(k, value) for k in known):
        what = repr(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"
        raise CaptureError(
            f"a captured step returned {what}, which was computed in Python and would be the same in every replay; return "
            "tensors, and beside them only arguments, lengths of their axes, or constants that stand in the step's code"
        )
