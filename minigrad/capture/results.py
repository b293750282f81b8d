"""What a captured step returns: which values may be, and the copies that its caller gets."""

from collections.abc import Callable, Iterable
from typing import Any

from minigrad.capture.watch import same
from minigrad.modes import CaptureError
from minigrad.tensor import Tensor


def each_tensor(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
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


def returned(outputs: Any) -> Any:
    """The outputs as the caller gets them: copies, which the next replay does not write over."""
    if isinstance(outputs, Tensor):
        return Tensor._wrap(outputs._device.copy(outputs._data), outputs._device)
    return each_tensor(outputs, returned)


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
