"""Weights from PyTorch and to it: names and layouts converted, every key accounted for."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minigrad.interop.pairs import Axes, Names, Pair, pairs_of, renamed
from minigrad.nn import BatchNorm, Conv1d, Conv2d, ConvTranspose2d, Module
from minigrad.nn.module import overwrite, prefixed
from minigrad.ops.window import integers, is_same, paddings, pair

if TYPE_CHECKING:
    import torch

AnyModule = TypeVar("AnyModule", bound=Module)


def from_torch(
    model: AnyModule,
    source: "Mapping[str, Any] | torch.nn.Module",
    *,
    names: Names = None,
    example: Any = None,
    axes: Axes = None,
) -> AnyModule:
    """Put PyTorch's weights into a model, in place, and return it.

    Linear weights (out, in) become (in, out), convolutions (out, in / groups, kh, kw) become (kh, kw, in / groups, out),
    transposed ones (in, out / groups, kh, kw) become (kh, kw, in, out / groups), a BatchNorm's `weight` and `bias` become
    `gamma` and `beta`; `num_batches_tracked` is passed over. A Linear that reads flattened images gets its inputs in the order
    (H, W, C) from PyTorch's (C, H, W), and so does a BatchNorm between the two.

    Args:
        model: its modules are named as PyTorch's, or as `names` says.
        source: a state dict of torch tensors or NumPy arrays; or a torch module, of which then also eps and momentum of each
            BatchNorm (here decay = 1 - momentum) and the settings of each convolution are compared.
        names: PyTorch's names of modules by ours, {"3a.1": "inception3a.branch2"}, where what is below goes along and "" is
            the model itself; or a function of our name.
        example: an input of the model, (N, H, W, C) for images, which is run once to see where images are flattened. Needed
            where there is a Linear, and a Flatten or a forward of your own.
        axes: for parameters of modules of your own with several axes, by our name: PyTorch's axes in our order.

    Raises:
        ValueError: keys are missing or left over on either side, shapes or dtypes or settings differ, what is one tensor here
            is two there; all of it is listed, and nothing is changed.
    """
    problems, state = [], source
    pairs = pairs_of(model, names, example, axes)
    if not isinstance(source, Mapping):
        problems += settings_that_differ(model, source, names)
        state = source.state_dict()
    values, misfits = matched(pairs, state)  # type: ignore[arg-type]
    problems += misfits
    if problems:
        raise ValueError(
            f"the weights from PyTorch do not fit {type(model).__name__}; nothing was changed:\n  "
            + "\n  ".join(problems)
        )
    overwrite(model, values)
    return model


def to_torch(
    model: Module, *, names: Names = None, example: Any = None, axes: Axes = None, num_batches_tracked: int = 0
) -> "dict[str, torch.Tensor]":
    """The model's weights as a state dict of PyTorch's: `torch_model.load_state_dict(mg.interop.to_torch(model))`.

    The arguments are those of `from_torch`, and with the same ones the bits that came in go out. A BatchNorm without gamma
    gets a `weight` of ones. minigrad does not count batches: `num_batches_tracked`, which PyTorch uses only with
    momentum=None, is what it is told to be. Needs PyTorch.
    """
    import torch

    arrays = torch_arrays(model, names, example, axes, num_batches_tracked)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def torch_arrays(
    model: Module, names: Names = None, example: Any = None, axes: Axes = None, batches: int = 0
) -> dict[str, np.ndarray]:
    """The same as NumPy arrays, for which PyTorch need not be there."""
    arrays = {}
    for own in pairs_of(model, names, example, axes):
        if own.tensor is not None:
            arrays[own.theirs] = own.to_theirs(own.tensor.numpy())
        elif own.counts:
            arrays[own.theirs] = np.array(batches, np.int64)
        else:
            arrays[own.theirs] = np.full(own.shape, own.fill, own.dtype)
    return arrays


def matched(pairs: list[Pair], state: Mapping[str, Any]) -> tuple[list[tuple[Any, np.ndarray]], list[str]]:
    """([(tensor here, its new values)], what does not fit)."""
    unknown = [name for name in state if name not in {p.theirs for p in pairs}]
    there = [p for p in pairs if p.theirs in state]
    found = {id(p.tensor) for p in there}
    missing = [p for p in pairs if p.tensor is not None and id(p.tensor) not in found]
    problems = left_over(missing, unknown)
    values: dict[int, tuple[Pair, Any, np.ndarray]] = {}
    for own in there:
        array, why = as_numpy(own, state[own.theirs])
        if why or own.counts:
            problems += [f"{own.theirs}: {why}"] if why else []
        elif own.tensor is None:
            if not (array == own.fill).all():
                name = "gamma" if own.fill else "beta"
                problems.append(f"{own.theirs} is not {own.fill:g} everywhere, and the BatchNorm here has no {name}")
        else:
            ours = own.to_ours(array)
            first, *_, before = values.setdefault(id(own.tensor), (own, own.tensor, ours))
            if not np.array_equal(before, ours, equal_nan=True):
                problems.append(f"{first.theirs} and {own.theirs} differ, which are one tensor here, {first.own}")
    return [(t, array) for _, t, array in values.values()], problems


def left_over(missing: list[Pair], unknown: list[str]) -> list[str]:
    """What to say of names that one side has and the other has not."""
    found = prefixed([p.theirs for p in missing], unknown)
    if found:
        return [found[0]]
    here = [
        f"only here: {p.own}, {p.shape}" + (f", in PyTorch {p.theirs}" if p.theirs != p.own else "") for p in missing
    ]
    return here + [f"only in PyTorch: {name}" for name in unknown]


def as_numpy(own: Pair, value: Any) -> tuple[np.ndarray, str]:
    """(a tensor of PyTorch's as an array, why it does not fit or "")."""
    if type(value).__module__.partition(".")[0] == "torch":
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return np.zeros(0), "bfloat16, which NumPy does not have; convert it by .float()"
        value = value.numpy()
    array = np.asarray(value)
    if own.counts:
        return (
            array,
            "" if array.dtype.kind in "iu" and array.size == 1 else f"{array.dtype}{list(array.shape)}, no count",
        )
    if array.shape != own.their_shape:
        place = "" if own.theirs == own.own else f", our {own.own}"
        return array, f"shape {array.shape}, expected {own.their_shape}{place}"
    if own.tensor is not None and array.dtype != own.tensor.dtype:
        return (
            array,
            f"dtype {array.dtype}, expected {own.tensor.dtype}; convert the model by .to({array.dtype.name!r})",
        )
    return array, ""


def settings_that_differ(model: Module, source: Any, names: Names) -> list[str]:
    """Of each BatchNorm eps and momentum, of each convolution its settings, where PyTorch's module has others."""
    if not hasattr(source, "named_modules"):
        raise TypeError(f"from_torch takes a state dict or a module of PyTorch's, not {type(source).__name__}")
    theirs: dict[str, Any] = dict(source.named_modules())
    problems = []
    for path, module in model.modules():
        other: Any = theirs.get(renamed(path, names))
        if isinstance(module, BatchNorm) and hasattr(other, "momentum"):
            momentum = other.momentum
            if other.eps != module.eps:
                problems.append(f"{path}: eps {module.eps} here, {other.eps} in PyTorch")
            if momentum is None:
                problems.append(
                    f"{path}: momentum None in PyTorch, the average over all batches, which minigrad has not"
                )
            elif not math.isclose(1 - momentum, module.decay, abs_tol=1e-9):
                problems.append(
                    f"{path}: decay {module.decay} here, momentum {momentum} in PyTorch, a decay of {1 - momentum:g}"
                )
        if isinstance(module, Conv1d | Conv2d | ConvTranspose2d) and hasattr(other, "dilation"):
            for name, ours, there in settings_of(module, other):
                if ours != there:
                    problems.append(f"{path}: {name} {ours} here, {there} in PyTorch")
    return problems


def settings_of(conv: Conv1d | Conv2d | ConvTranspose2d, other: Any) -> list[tuple[str, Any, Any]]:
    """(name, ours, PyTorch's) of the settings of a convolution that can be compared."""
    name = type(conv).__name__
    steps, gaps = (pair(name, which, getattr(conv, which)) for which in ("stride", "dilation"))
    axes = slice(1) if isinstance(conv, Conv1d) else slice(2)
    settings: list[tuple[str, Any, Any]] = [
        ("stride", steps[axes], tuple(other.stride)),
        ("dilation", gaps[axes], tuple(other.dilation)),
        ("groups", conv.groups, other.groups),
        ("padding_mode", "zeros", other.padding_mode),
    ]
    if isinstance(conv, ConvTranspose2d):
        settings.append(
            ("output_padding", integers(name, "output_padding", conv.output_padding), tuple(other.output_padding))
        )
    if not is_same(conv.padding) and not isinstance(other.padding, str):
        ours = (integers(name, "padding", conv.padding),) if axes.stop == 1 else paddings(name, conv.padding)
        settings.append(("padding", ours, tuple((int(n), int(n)) for n in other.padding)))
    return settings
