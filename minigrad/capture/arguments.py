"""The arguments of a captured step: what of them selects a recording, and what the step gets for them."""

import dataclasses
from typing import Any

import numpy as np

from minigrad.arrays import as_array
from minigrad.capture.recorder import Recorder
from minigrad.devices import Device, get_device, is_array
from minigrad.modes import CaptureError
from minigrad.tensor import Tensor


def described(name: Any, value: Any, arrays: list[np.ndarray]) -> Any:
    """What selects a recording, of one argument; its array goes to `arrays`."""
    if is_array(value):
        arrays.append(value)
        return name, value.shape, value.dtype
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise CaptureError(
                f"argument {name!r} of a captured step requires a gradient, which would stay on its copy inside; "
                "let the step find the tensor in an enclosing scope instead"
            )
        arrays.append(value._data)
        return name, value.shape, value.dtype, value.device
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"argument {name!r} of a captured step is a {type(value).__name__}; pass NumPy arrays, Tensors, "
            "or hashable Python values"
        ) from None
    return name, exactly(value)


class Itself:
    """A tensor among Python values: another one is another, whatever is in both."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return hash(self.tensor)


def exactly(value: Any) -> Any:
    """A hashable value such that equal ones are the same to Python code: 1 is not True, -0.0 not 0.0, one NaN like another."""
    kind = type(value)
    if isinstance(value, Tensor):
        return kind, Itself(value)
    if kind is float:
        return kind, value.hex()
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if issubclass(kind, np.generic):
        return kind, value.dtype, value.tobytes()
    if issubclass(kind, tuple | frozenset):
        return kind, (tuple if issubclass(kind, tuple) else frozenset)(map(exactly, value))
    if dataclasses.is_dataclass(value) and kind.__eq__ is not object.__eq__ and not isinstance(value, type):
        # the fields first: where they differ, the values are not compared, which might compare tensors by their elements
        return kind, tuple([exactly(getattr(value, f.name)) for f in dataclasses.fields(value) if hashes(f)]), value
    return kind, value


def hashes(field: "dataclasses.Field[object]") -> bool:
    """Whether a field of a dataclass takes part in its hash."""
    return field.compare if field.hash is None else field.hash


def differing(before: Any, now: Any) -> str | None:
    """In which arguments two calls differ, in words; None if in none."""
    (before, *modes), (now, *modes_now) = before, now
    if modes != modes_now:
        return "whether gradients are on, or the precision of products"
    if len(before) != len(now):
        return "the number of arguments"
    for (name, *was), (name_now, *is_) in zip(before, now, strict=True):
        which = f"argument {name}" if isinstance(name, int) else f"argument {name!r}"
        if name != name_now:
            return "the names of the arguments"
        if was != is_:
            if len(was) == len(is_) == 1:
                return (
                    f"{which}, a Python value: {was[0][1]!r} before, {is_[0][1]!r} now; pass changing numbers as arrays"
                )
            shapes = f": {was[0]} before, {is_[0]} now" if len(was) > 1 and len(is_) > 1 else ""
            return f"the shape or dtype of {which}{shapes}; a few shapes, padded, would be replayed"
    return None


def lengths(values: list[Any]) -> list[Any]:
    """Python values among the arguments, what is in their tuples, and the lengths of the axes of arrays and tensors."""
    known: list[object] = []
    for value in values:
        if is_array(value) or isinstance(value, Tensor):
            known += value.shape
        else:
            known.append(value)
            if isinstance(value, tuple | frozenset):
                known += lengths(list(value))
    return known


def check_dtypes(dtypes: dict[Any, np.dtype], named: list[tuple[Any, Any]]) -> None:
    """An argument keeps its dtype: a change is nearly always a mistake, and would double the work in silence."""
    for name, value in named:
        if is_array(value) or isinstance(value, Tensor):
            dtype = dtypes.setdefault(name, value.dtype)
            if value.dtype != dtype:
                which = f"argument {name}" if isinstance(name, int) else f"argument {name!r}"
                raise CaptureError(
                    f"{which} of the captured step was {dtype} when recorded and is {value.dtype} now; "
                    "convert it, or capture the function a second time"
                )


def inner(recorder: Recorder, value: object) -> object:
    """What the step gets for an argument."""
    if isinstance(value, Tensor):
        return recorder.input(value._data)
    if is_array(value):
        return recorder.input(as_array(value) if isinstance(value, np.ndarray) else value)
    return value


def as_tensor(value: object, device: Device) -> object:
    """What the step gets for an argument when it is not recorded."""
    if isinstance(value, np.ndarray):
        return Tensor(value, device=device)
    return Tensor._wrap(device.copy(value), device) if is_array(value) else value


def device_of(values: list[object]) -> Device:
    """The device of the tensors among the arguments; the CPU if there is none."""
    for value in values:
        if isinstance(value, Tensor):
            return value._device
    return get_device(None)
