"""Gradients made smaller before an update: all together by their norm, or one by one."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from minigrad.checks import number
from minigrad.kernels.contract import Array
from minigrad.modes import at_work, begin, read_grad
from minigrad.tensor import FLOATS, Tensor

if TYPE_CHECKING:
    from minigrad.devices import Device

ORDERS = {1.0: 1, 2.0: 2, math.inf: 0}  # of norms, as the kernels have them


def clip_grad_norm(params: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale the gradients so that the norm of all of them together is at most `max_norm` (Pascanu, Mikolov & Bengio 2013).

    Returns the norm before, one float64 number. As in PyTorch the gradients g become g min(1, max_norm / (norm + 1e-6)), in
    place, and NaN in one of them makes all NaN. With max_norm=math.inf only the norm is found. In a captured step `max_norm` is
    a constant.

    Args:
        params: those whose gradients count; the ones that have none are passed over.
        norm_type: 2, 1 (sum of absolute values) or math.inf (the largest).

    Raises:
        RuntimeError: no parameter has a gradient.
    """
    limit = bound("max_norm", max_norm)
    if norm_type not in ORDERS:
        raise ValueError(f"norm_type must be 1, 2 or math.inf, not {norm_type!r}")
    order = ORDERS[norm_type]
    given = with_gradients("clip_grad_norm", params)
    home = given[0]._device
    device = at_work(home)
    total, norm = device.zeros((1,), FLOATS[1]), device.empty((1,), FLOATS[1])
    parts = [[p for p in given if gradient_of(p).dtype == dtype] for dtype in FLOATS]
    for part in filter(None, parts):
        device.kernels.optim.grad_total([gradient_of(p) for p in part], order, total)
    for part in filter(None, parts):
        grads, clipped = [gradient_of(p) for p in part], places_for(part, device)
        device.kernels.optim.clip_norm(grads, total, order, limit, clipped, norm)
        put(part, clipped)
    return Tensor._wrap(norm.reshape(()), home)


def clip_grad_value(params: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Bring every element of the gradients into the range from -clip_value to clip_value, in place; NaN stays.

    In a captured step `clip_value` is a constant. Raises RuntimeError if no parameter has a gradient.
    """
    limit = bound("clip_value", clip_value)
    given = with_gradients("clip_grad_value", params)
    device = at_work(given[0]._device)
    for dtype in FLOATS:
        part = [p for p in given if gradient_of(p).dtype == dtype]
        if part:
            clipped = places_for(part, device)
            device.kernels.optim.clip_value([gradient_of(p) for p in part], limit, clipped)
            put(part, clipped)


def bound(name: str, value: float) -> float:
    """The value as a float of 0 or more, of which infinity is one."""
    return math.inf if value == math.inf else number(name, value, math.inf)


def with_gradients(name: str, params: Iterable[Tensor] | Tensor) -> list[Tensor]:
    """The parameters that have a gradient, on one device."""
    given = [params] if isinstance(params, Tensor) else list(params)
    for i, p in enumerate(given):
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: parameter {i} must be a Tensor, not {type(p).__name__}")
        read_grad(p)
    found = [p for p in {id(p): p for p in given}.values() if p._grad is not None]
    if not found:
        raise RuntimeError(f"{name}: no parameter has a gradient; call loss.backward() before")
    if len({p.device for p in found}) > 1:
        raise ValueError(f"{name}: the parameters are on different devices; clip those of each device")
    begin(name)
    return found


def gradient_of(p: Tensor) -> Array:
    """The array of a gradient that is there."""
    return p._grad._data  # type: ignore[union-attr]


def places_for(params: list[Tensor], device: "Device") -> list[Array]:
    """Where the new gradients go: where the old ones are, unless somebody else may have those."""
    return [
        gradient_of(p) if p._grad_is_ours else device.empty(gradient_of(p).shape, gradient_of(p).dtype) for p in params
    ]


def put(params: list[Tensor], gradients: list[Array]) -> None:
    """Let the parameters have these gradients."""
    for p, gradient in zip(params, gradients, strict=True):
        if p._grad_is_ours:
            p._grad._version[0] += 1  # type: ignore[union-attr]
        else:
            p._grad = Tensor._wrap(gradient, p._device)
            p._grad_is_ours = True
