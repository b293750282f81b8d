"""Batch Normalization after training: population statistics (Algorithm 2) and folding into the layer before."""

import copy
from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar

import numpy as np

from minigrad.modes import no_grad
from minigrad.nn.conv import Conv2d
from minigrad.nn.layers import BatchNorm, Linear, Sequential, SyncBatchNorm
from minigrad.nn.module import Module, Parameter, Value, modes_kept
from minigrad.tensor import Tensor

Kind = TypeVar("Kind", bound=Module)


@no_grad()
def recompute_statistics(model: Module, batches: Iterable[Any]) -> Module:
    """Replace the running averages of every BatchNorm by population statistics over training mini-batches.

    E[x] is the average of the batch means and Var[x] = m / (m - 1) times the average of the biased batch variances, with
    the network as it is now (Ioffe & Szegedy 2015, Algorithm 2, lines 8 to 10). `batches` gives inputs, as arrays or
    Tensors, or tuples whose first entry is the input; of a Loader it is one whole epoch, and its position stays. A layer
    that is used several times in a pass gets the average over all its uses. The model comes back in evaluation mode.
    ValueError without batches.
    """
    norms = [Measured(module) for _, module in model.modules() if isinstance(module, BatchNorm)]
    device = next((t.device for t in model.parameters()), None)
    count = 0
    try:
        with modes_kept(model):
            for _, module in model.modules():  # dropout and the like stay off: these are the statistics of inference
                module.training = isinstance(module, BatchNorm)
            for norm in norms:
                norm.begin()
            for batch in batches.one_epoch() if hasattr(batches, "one_epoch") else batches:
                x = batch[0] if isinstance(batch, tuple | list) else batch
                model(x if isinstance(x, Tensor) else Tensor(x, device=device))
                count += 1
            if not count:
                raise ValueError("recompute_statistics needs at least one batch")
    except BaseException:
        for norm in norms:
            norm.give_back()
        raise
    finally:
        for norm in norms:
            norm.end()
    for norm in norms:
        norm.set_averages()
    return model.eval()


class Measured:
    """A BatchNorm whose statistics are summed up, over all batches and all its uses in each."""

    def __init__(self, norm: BatchNorm) -> None:
        self.norm = norm
        self.decay = norm.decay
        self.replaced = vars(norm).get("forward")  # a forward of this very instance
        self.buffers = norm.running_mean, norm.running_var
        self.before = [buffer.numpy().copy() for buffer in self.buffers]
        self.sums = [np.zeros(norm.features) for _ in self.buffers]
        self.uses = 0

    def begin(self) -> None:
        """From now on every use of the layer is counted."""
        forward = self.norm.forward
        self.norm.decay = 0.0  # then the running average is the batch's own statistic, the variance unbiased

        def measured(*args: Value, **options: Value) -> Value:
            self.put([np.zeros_like(array) for array in self.before])  # what is not finite would survive 0 times it
            y = forward(*args, **options)
            for total, buffer in zip(self.sums, self.buffers, strict=True):
                total += buffer.numpy()
            self.uses += 1
            return y

        self.norm.forward = measured  # type: ignore[method-assign]

    def end(self) -> None:
        """The layer is as it was, but for its statistics."""
        self.norm.decay = self.decay
        if self.replaced is None:
            vars(self.norm).pop("forward", None)
        else:
            self.norm.forward = self.replaced  # type: ignore[method-assign]

    def put(self, arrays: list[np.ndarray]) -> None:
        """Write the running statistics."""
        for buffer, array in zip(self.buffers, arrays, strict=True):
            buffer._device.write(buffer._data, array.astype(buffer.dtype))
            buffer._version[0] += 1

    def give_back(self) -> None:
        """The statistics are what they were."""
        self.put(self.before)

    def set_averages(self) -> None:
        """The statistics are the averages; what they were for a layer that was not used."""
        self.put([total / self.uses for total in self.sums] if self.uses else self.before)


def convert_sync_batch_norm(model: Module) -> Module:
    """Make every BatchNorm of a model a SyncBatchNorm, in place, and return the model.

    Parameters, running statistics and names stay, so optimizers made before and checkpoints go on to fit. Classes derived from
    BatchNorm are left as they are, since they may compute something else.
    """
    for _, module in model.modules():
        if type(module) is BatchNorm:
            module.__class__ = SyncBatchNorm  # it differs in what it computes, not in what it holds
    return model


def fold_batch_norm(model: Module) -> Module:
    """A copy of the model, for inference, with every BatchNorm that follows a Linear or Conv2d in a Sequential folded in.

    With s = gamma / sqrt(Var + eps): W' = W s per output, b' = (b - E) s + beta. Other modules are copied as they are, and so
    are layers with a forward of their own, which may compute something else. The copy is in evaluation mode. Raises
    ValueError if the model has BatchNorm layers but none could be folded.
    """
    folded = copy_module(model)
    found = sum(isinstance(module, BatchNorm) for _, module in model.modules())
    left = sum(isinstance(module, BatchNorm) for _, module in folded.modules())
    if found and left == found:
        raise ValueError(
            f"none of the {found} BatchNorm layers follows a Linear or Conv2d inside a Sequential, so none can be folded"
        )
    return folded.eval()


def copy_module(module: Module) -> Module:
    """A deep copy, folding on the way."""
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, Parameter):
            setattr(twin, name, Parameter(value.numpy(), device=value.device, requires_grad=value.requires_grad))
        elif isinstance(value, Tensor):
            setattr(twin, name, value.copy())
        elif isinstance(value, Module):
            setattr(twin, name, copy_module(value))
        elif isinstance(value, list | tuple) and any(isinstance(item, Module) for item in value):
            items = [copy_module(item) if isinstance(item, Module) else item for item in value]
            setattr(twin, name, type(value)(items))
    if isinstance(twin, Sequential) and is_plain(twin, Sequential):
        numbers = fold_layers(twin.layers)
        names = vars(twin).get("names")
        if isinstance(names, list) and len(names) == len(twin.layers):  # those of mg.models name their layers so
            vars(twin)["names"] = [names[i] for i in numbers]
        twin.layers = [twin.layers[i] for i in numbers]
    return twin


def fold_layers(layers: list[Module]) -> list[int]:
    """Fold each BatchNorm that follows a layer with weights, whose last axis is the output, into it; which layers are left."""
    left: list[int] = []
    for i, layer in enumerate(layers):
        before = layers[left[-1]] if left else None
        if (is_plain(layer, BatchNorm) or is_plain(layer, SyncBatchNorm)) and (
            is_plain(before, Linear) or is_plain(before, Conv2d)
        ):
            fold_into(before, layer)
        else:
            left.append(i)
    return left


def is_plain(module: Module | None, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether it computes what modules of this kind do: by their forward, and no other of its class or its own."""
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        return False
    return "forward" not in vars(module) and type(module).__call__ is Module.__call__


def fold_into(layer: Linear | Conv2d, norm: BatchNorm) -> None:
    """W' = W s, b' = (b - E) s + beta."""
    tensors = layer.weight, layer.bias, norm.gamma, norm.beta, norm.running_mean, norm.running_var
    weight, bias = folded_weight(*[None if t is None else t.numpy() for t in tensors], eps=norm.eps)
    device = layer.weight.device
    layer.weight = Parameter(weight, device=device)
    layer.bias = Parameter(bias, device=device)


def folded_weight(*arrays: np.ndarray | None, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(W', b') from weight, bias, gamma, beta, mean and variance, computed in float64; bias, gamma or beta may be None."""
    weight, bias, gamma, beta, mean, var = arrays
    if weight is None or mean is None or var is None:
        raise ValueError("weight, mean and variance must be there")
    scale = 1 / np.sqrt(var.astype(np.float64) + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = -mean.astype(np.float64)
    if bias is not None:
        shift = shift + bias
    shift = shift * scale
    if beta is not None:
        shift = shift + beta
    return (weight * scale).astype(weight.dtype), shift.astype(weight.dtype)
