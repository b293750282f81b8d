"""Module: parameters, buffers and child modules, found by their names as attributes."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeGuard

import numpy as np

from minigrad.changes import Watched
from minigrad.devices import Device
from minigrad.modes import takes_part
from minigrad.ops import to
from minigrad.tensor import FLOATS, Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

Value = Any
"""What goes into a module or comes out of one: nearly always a Tensor, and else what its author chose, a tuple or a dict."""


class Parameter(Tensor):
    """A tensor that a module trains; assigning one to an attribute of a module makes it a parameter of it."""

    __slots__ = ()

    def __init__(
        self,
        data: "ArrayLike | Tensor",
        dtype: "DTypeLike | None" = None,
        device: str | Device | None = None,
        requires_grad: bool = True,
    ) -> None:
        super().__init__(data, dtype, device, requires_grad)


class Module(Watched):
    """A part of a model: parameters (`Parameter`), buffers (other tensors) and modules, held as attributes.

    Subclasses set them in `__init__` and compute in `forward`; no base `__init__` needs to be called. Lists and tuples of
    modules count too. `training` tells BatchNorm and Dropout what to do; `train()` and `eval()` set it everywhere.
    """

    training: bool = True

    def forward(self, *inputs: Value, **options: Value) -> Value:
        """Compute the result; subclasses say how."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Value, **options: Value) -> Value:
        """Compute the result; what to call instead of `forward`, which gets tensors for NumPy arrays, of the same dtype."""
        takes_part(self)
        for value in inputs:
            if isinstance(value, np.ndarray):
                inputs = self._tensors_for(inputs)
                break
        return self.forward(*inputs, **options)

    def _tensors_for(self, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """The inputs, with tensors on the module's device for NumPy arrays."""
        device = next((parameter._device for parameter in self.parameters()), None)
        return tuple([Tensor(value, device=device) if isinstance(value, np.ndarray) else value for value in inputs])

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of the modules right below this one; those in lists are named by attribute and number."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item

    def modules(self) -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module) of this module ("") and all below it."""
        yield "", self
        for name, child in self.children():
            for below, module in child.modules():
                yield f"{name}.{below}" if below else name, module

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for prefix, module in self.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, parameter), each once."""
        return ((name, t) for name, t in self._tensors() if isinstance(t, Parameter))

    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of their making."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, tensor) of what is kept with the model but not trained, such as running statistics."""
        return ((name, t) for name, t in self._tensors() if not isinstance(t, Parameter))

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers, by dotted name."""
        return {name: t.copy() for name, t in self._tensors()}

    def load_state_dict(self, state_dict: "Mapping[str, ArrayLike | Tensor]", strict: bool = True) -> None:
        """Copy values (Tensors or arrays, by dotted name) into the parameters and buffers, in place.

        Raises ValueError that lists all keys missing, unknown or of the wrong shape or dtype, and then changes nothing.
        With strict=False, missing and unknown keys are passed over.
        """
        own = dict(self._tensors())
        arrays = {name: np.asarray(value) for name, value in state_dict.items()}
        problems = []
        if strict:
            problems += [f"missing: {name}" for name in own if name not in arrays]
            problems += [f"unknown: {name}" for name in arrays if name not in own]
        common = [name for name in own if name in arrays]
        for name in common:
            have, want = arrays[name], own[name]
            if have.shape != want.shape:
                problems.append(f"{name}: shape {have.shape}, expected {want.shape}")
            elif have.dtype != want.dtype:
                problems.append(f"{name}: dtype {have.dtype}, expected {want.dtype}")
        if problems:
            raise ValueError(
                f"state_dict does not fit {type(self).__name__}; nothing was loaded:\n  " + "\n  ".join(problems)
            )
        for name in common:
            own[name]._device.write(own[name]._data, arrays[name])
            own[name]._version[0] += 1
        for _, module in self.modules():
            module.loaded()

    def loaded(self) -> None:
        """Called after values were loaded; BatchNorm notes that its statistics are real."""

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below it in training mode."""
        for _, module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below it in evaluation mode."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def to(self, device_or_dtype: "str | Device | DTypeLike") -> Self:
        """Move all parameters and buffers to a device, or turn them into float32 or float64; the same Tensor objects.

        Gradients are forgotten, and an optimizer with state (momentum, say) has to be made after a change of dtype.
        """
        if is_dtype(device_or_dtype) and np.dtype(device_or_dtype) not in FLOATS:
            raise TypeError(f"a module can become float32 or float64, not {np.dtype(device_or_dtype)}")
        for _, t in self._tensors():
            if t.dtype.kind == "f" or not is_dtype(device_or_dtype):
                moved = to(t.detach(), device_or_dtype)
                t._data, t._device = moved._data, moved._device
                t._grad = None
                t._version[0] += 1
        return self

    def __repr__(self) -> str:
        children = list(self.children())
        if not children:
            return f"{type(self).__name__}({self.settings()})"
        lines = [f"  {name}: {child!r}".replace("\n", "\n  ") for name, child in children]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def settings(self) -> str:
        """What to show between the parentheses of its repr."""
        return ""


def is_dtype(value: "str | Device | DTypeLike") -> "TypeGuard[DTypeLike]":
    """Whether NumPy takes it for a dtype."""
    if value is None or isinstance(value, Device):  # NumPy would take None for float64
        return False
    try:
        np.dtype(value)
    except TypeError:
        return False
    return True
