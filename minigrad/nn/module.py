"""Module: parameters, buffers and child modules, found by their names as attributes."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeGuard

import numpy as np

from minigrad.changes import Watched
from minigrad.devices import Device
from minigrad.modes import takes_part
from minigrad.notebook import preformatted
from minigrad.ops import to
from minigrad.tensor import FLOATS, Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

CONTAINERS = (list, tuple, dict, set, frozenset, deque)
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
    modules count too; dicts, and lists of parameters, are `ModuleDict` and `ParameterList`. What asks for the parameters or
    buffers raises TypeError for a Parameter, a Module or another tensor to be trained that is where nobody looks for it.
    `training` tells BatchNorm and Dropout what to do; `train()` and `eval()` set it everywhere.
    """

    training: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        before = vars(self).get(name)
        if isinstance(before, Tensor) and value is not before:
            check_replacement(f"{type(self).__name__}.{name}", before, value)
        super().__setattr__(name, value)

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
        modules = list(self.modules())
        seen: set[int] = set()
        found = []
        for prefix, module in modules:
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    found.append((f"{prefix}.{name}" if prefix else name, value))
        seen.update(id(module) for _, module in modules)
        for _, module in modules:
            check_places(module, seen)
        return iter(found)

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

        Weights are laid out as here, with the outputs last: (in, out) for Linear, (kh, kw, in, out) for convolutions. PyTorch
        has them first, so its tensors with several axes are refused by a TypeError that says how to turn them; of a square
        NumPy array nobody can tell. Raises ValueError that lists all keys missing, unknown or of the wrong shape or dtype,
        and then changes nothing. With strict=False, missing and unknown keys are passed over, unless all are. A prefix that
        all names have on one side and not on the other is named.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"a state dict is a mapping of arrays by name, not {type(state_dict).__name__}")
        for name, value in state_dict.items():
            refuse_torch(name, value)
        own = dict(self._tensors())
        arrays = {name: np.asarray(value) for name, value in state_dict.items()}
        common = [name for name in own if name in arrays]
        problems = []
        if strict or (own and arrays and not common):
            missing, unknown = [n for n in own if n not in arrays], [n for n in arrays if n not in own]
            found = prefixed(missing, unknown)
            if found:
                missing, unknown = [], [n for n in unknown if n not in found[1]]
            problems += [f"missing: {name}" for name in missing] + [f"unknown: {name}" for name in unknown]
            problems += [found[0]] if found else []
        for name in common:
            have, want = arrays[name], own[name]
            if have.shape != want.shape:
                problems.append(f"{name}: shape {have.shape}, expected {want.shape}{turned(have.shape, want.shape)}")
            elif have.dtype != want.dtype:
                problems.append(f"{name}: dtype {have.dtype}, expected {want.dtype}")
        if problems:
            raise ValueError(
                f"state_dict does not fit {type(self).__name__}; nothing was loaded:\n  " + "\n  ".join(problems)
            )
        overwrite(self, [(own[name], arrays[name]) for name in common])

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
        settings = [f"  {text}" for text in [self.settings()] if text]
        lines = [f"  {name}: {child!r}".replace("\n", "\n  ") for name, child in children]
        return "\n".join([f"{type(self).__name__}(", *settings, *lines, ")"])

    def _repr_html_(self) -> str:
        """For notebooks."""
        count = sum(t.size for t in self.parameters())
        return preformatted(f"{type(self).__name__}, {count:,} parameters", repr(self))

    def settings(self) -> str:
        """What to show between the parentheses of its repr."""
        return ""


def check_places(module: Module, found: set[int]) -> None:
    """Raise TypeError for what should be trained but is not among what was found (ids), by its place in the module."""
    kind = type(module).__name__
    for name, value in vars(module).items():
        if isinstance(value, CONTAINERS):
            for place, item in inside(name, value, {id(value)}):
                if isinstance(item, Module | Tensor) and id(item) not in found and is_trained(item):
                    holders = "ModuleList or mg.nn.ModuleDict" if isinstance(item, Module) else "ParameterList"
                    raise TypeError(
                        f"{kind}.{place} is a {type(item).__name__} that is not looked for there: it would be neither trained "
                        f"nor saved; hold it in mg.nn.{holders}, or as an attribute"
                    )
        elif isinstance(value, Tensor) and not isinstance(value, Parameter) and is_trained(value):
            raise TypeError(
                f"{kind}.{name} is a Tensor that requires a gradient and would not be trained, since it is no Parameter; "
                "make it mg.nn.Parameter(...), or detach() it to keep it as a buffer"
            )


def check_replacement(place: str, before: Tensor, value: object) -> None:
    """Raise TypeError for what cannot take a tensor's place in a module: it would no longer be trained, or not be saved."""
    if isinstance(before, Parameter) and value is not None and not isinstance(value, Parameter):
        raise TypeError(
            f"{place} is a Parameter, and a {type(value).__name__} in its place would not be trained; "
            "for other values write `with mg.no_grad(): p[...] = values`, for another one mg.nn.Parameter(...), and to keep "
            "something else there, delete it before"
        )
    if isinstance(value, np.ndarray):
        raise TypeError(f"{place} is a Tensor, and an array in its place would not be saved; make it mg.tensor(...)")


def is_trained(value: Module | Tensor) -> bool:
    """Whether it is a module, or a tensor that an optimizer could change: a leaf that requires a gradient."""
    if isinstance(value, Module):
        return True
    return isinstance(value, Parameter) or (value.requires_grad and value.is_leaf)


def inside(place: str, container: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """(place, item) of all that is in a container, and in the containers in it; `seen` are those on the way."""
    items: Iterable[tuple[Any, Any]] = container.items() if isinstance(container, dict) else enumerate(container)
    for key, item in items:
        if not isinstance(item, CONTAINERS):
            yield f"{place}[{key!r}]", item
        elif id(item) not in seen:
            seen.add(id(item))
            yield from inside(f"{place}[{key!r}]", item, seen)


def refuse_torch(name: str, value: Any) -> None:
    """Raise TypeError for a tensor of PyTorch's with several axes, which are in another order there."""
    if type(value).__module__.partition(".")[0] == "torch" and value.ndim > 1:
        raise TypeError(
            f"{name} is a tensor of PyTorch's, which has the outputs of a layer on the first axis, minigrad on the last: "
            "give arrays, `v.numpy().T` for a Linear and `v.numpy().transpose(2, 3, 1, 0)` for a convolution"
        )


def turned(have: tuple[int, ...], want: tuple[int, ...]) -> str:
    """What to say of a shape that is right but for the order of axes, as PyTorch has them."""
    if len(have) == 2 and have[::-1] == want:
        return "; transposed it would fit: PyTorch's Linear has (out, in), here it is (in, out), so pass its .T"
    if len(have) == 4 and (have[2], have[3], have[1], have[0]) == want:
        return (
            "; PyTorch's convolutions have (out, in, kh, kw), here it is (kh, kw, in, out): pass .transpose(2, 3, 1, 0)"
        )
    return ""


def overwrite(model: Module, values: Iterable[tuple[Tensor, np.ndarray]]) -> None:
    """Write values of the right shapes and dtypes into parameters and buffers of a model, and tell its modules."""
    for t, array in values:
        t._device.write(t._data, array)
        t._version[0] += 1
    for _, module in model.modules():
        module.loaded()


@contextmanager
def modes_kept(model: Module) -> Iterator[None]:
    """Inside, modules may be put in training or evaluation mode; after it each is in the one it was in."""
    before = [(module, module.training) for _, module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def modules_at_work() -> list[Module]:
    """The modules whose `forward` is running on this thread, the outermost first."""
    found: list[Module] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward":
            module = frame.f_locals.get("self")
            if isinstance(module, Module) and not (found and found[-1] is module):
                found.append(module)
        frame = frame.f_back
    return found[::-1]


def prefixed(missing: list[str], unknown: list[str]) -> tuple[str, set[str]] | None:
    """(what to do, the unknown names it is about) where names are missing that are there with a prefix, or without one."""
    strange = set(unknown)
    for name in unknown:
        if missing and name.endswith(f".{missing[0]}"):
            prefix = name.removesuffix(missing[0])
            known = {prefix + own for own in missing}
            if known <= strange:
                return (
                    f"all {len(missing)} that are missing are there under the prefix {prefix!r}; pass\n"
                    f"  {{k.removeprefix({prefix!r}): v for k, v in state.items() if k.startswith({prefix!r})}}",
                    known,
                )
    for own in missing:
        if unknown and own.endswith(f".{unknown[0]}"):
            prefix = own.removesuffix(unknown[0])
            if {prefix + name for name in unknown} == set(missing):
                return (
                    f"all {len(unknown)} names that came are those of this module without the prefix {prefix!r}; pass\n"
                    f"  {{{prefix!r} + k: v for k, v in state.items()}}",
                    strange,
                )
    return None


def is_dtype(value: "str | Device | DTypeLike") -> "TypeGuard[DTypeLike]":
    """Whether NumPy takes it for a dtype."""
    if value is None or isinstance(value, Device):  # NumPy would take None for float64
        return False
    try:
        np.dtype(value)
    except TypeError:
        return False
    return True
