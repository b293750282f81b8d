"""Batch Normalization after training: population statistics (Algorithm 2) and folding into the layer before."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad.modes import no_grad
from minigrad.nn.layers import BatchNorm, Linear, Sequential
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor


@no_grad()
def recompute_statistics(model: Module, batches: Iterable[Any]) -> Module:
    """Replace the running averages of every BatchNorm by population statistics over training mini-batches.

    E[x] is the average of the batch means and Var[x] = m / (m - 1) times the average of the biased batch variances, with
    the network as it is now (Ioffe & Szegedy 2015, Algorithm 2, lines 8 to 10). `batches` gives inputs, as arrays or
    Tensors, or tuples whose first entry is the input. The model comes back in evaluation mode. ValueError without batches.
    """
    norms = [module for _, module in model.modules() if isinstance(module, BatchNorm)]
    was_training = [(module, module.training) for _, module in model.modules()]
    decays = [norm.decay for norm in norms]
    sums = [(np.zeros(norm.features), np.zeros(norm.features)) for norm in norms]
    before = {id(norm): (norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()) for norm in norms}
    count = 0
    device = next((t.device for t in model.parameters()), None)
    try:
        model.train()
        for _, module in model.modules():
            if not isinstance(module, BatchNorm):
                module.training = False  # dropout and the like stay off: these are the statistics of inference
        for norm in norms:
            norm.decay = 0.0  # then the running average is the batch's own statistic, the variance unbiased
        for batch in batches:
            x = batch[0] if isinstance(batch, tuple | list) else batch
            model(x if isinstance(x, Tensor) else Tensor(x, device=device))
            count += 1
            for norm, (mean, var) in zip(norms, sums, strict=True):
                mean += norm.running_mean.numpy()
                var += norm.running_var.numpy()
        if not count:
            raise ValueError("recompute_statistics needs at least one batch")
    except BaseException:
        for norm in norms:
            for buffer, array in zip((norm.running_mean, norm.running_var), before[id(norm)], strict=True):
                buffer._device.write(buffer._data, array)
        for module, training in was_training:
            module.training = training
        raise
    finally:
        for norm, decay in zip(norms, decays, strict=True):
            norm.decay = decay
    for norm, (mean, var) in zip(norms, sums, strict=True):
        for buffer, total in ((norm.running_mean, mean), (norm.running_var, var)):
            buffer._device.write(buffer._data, (total / count).astype(buffer.dtype))
            buffer._version[0] += 1
    return model.eval()


def fold_batch_norm(model: Module) -> Module:
    """A copy of the model, for inference, with every BatchNorm that follows a Linear or Conv2d in a Sequential folded in.

    With s = gamma / sqrt(Var + eps): W' = W s per output, b' = (b - E) s + beta. Other modules are copied as they are.
    The copy is in evaluation mode. Raises ValueError if the model has BatchNorm layers but none could be folded.
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
    if isinstance(twin, Sequential):
        twin.layers = fold_layers(twin.layers)
    return twin


def fold_layers(layers: list[Module]) -> list[Module]:
    """The layers with each BatchNorm that follows a layer with weights folded into it."""
    result: list[Module] = []
    for layer in layers:
        if isinstance(layer, BatchNorm) and result and has_weight(result[-1]):
            fold_into(result[-1], layer)
        else:
            result.append(layer)
    return result


def has_weight(layer: Module) -> bool:
    """Whether a BatchNorm after it can be folded into its weight, whose last axis is the output."""
    return isinstance(layer, Linear) or type(layer).__name__ == "Conv2d"


def fold_into(layer: Any, norm: BatchNorm) -> None:
    """W' = W s, b' = (b - E) s + beta, computed in float64."""
    scale = 1 / np.sqrt(norm.running_var.numpy().astype(np.float64) + norm.eps)
    if norm.gamma is not None:
        scale = scale * norm.gamma.numpy()
    bias = -norm.running_mean.numpy().astype(np.float64)
    if layer.bias is not None:
        bias = bias + layer.bias.numpy()
    bias = bias * scale
    if norm.beta is not None:
        bias = bias + norm.beta.numpy()
    dtype, device = layer.weight.dtype, layer.weight.device
    layer.weight = Parameter((layer.weight.numpy() * scale).astype(dtype), device=device)
    layer.bias = Parameter(bias.astype(dtype), device=device)
