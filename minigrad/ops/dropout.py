"""Dropout by a counter-based generator: the mask is recomputed in backward, not stored."""

import functools

import numpy as np

from minigrad.checks import number
from minigrad.devices import Device, is_array
from minigrad.kernels.contract import Array
from minigrad.modes import at_work, begin, drawn_key, read, read_array
from minigrad.ops.checks import float_tensor
from minigrad.tape import Op
from minigrad.tensor import Tensor
from minigrad.types import Seed


class Dropout(Op):
    """Zero each element with probability p, scale the others by 1 / (1 - p)."""

    formula = "y = x m / (1 - p), m = 0 with probability p, else 1;  dx = dy m / (1 - p)"
    passes_on = False

    def forward(self, x: np.ndarray, *, p: float, key: np.ndarray) -> np.ndarray:
        self.p = p
        y = self.empty_like(x)
        self.kernels.dropout.dropout(x.reshape(-1), p, key, y.reshape(-1))
        self.save(key)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        (key,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        self.kernels.dropout.dropout(dy.reshape(-1), self.p, key, dx.reshape(-1))
        return (dx,)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        (key,) = self.saved  # type: ignore[misc]
        return (Dropout.apply(dy, p=self.p, key=key),)


def advanced(device: Device, state: Array) -> Array:
    """The next key of a (seed, counter) array, which is counted up."""
    key = device.empty((2,), np.dtype(np.uint64))
    device.kernels.dropout.advance(state, key)
    return key


def dropout(x: Tensor, p: float, *, training: bool, seed: Seed) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p); x itself when not training or p = 0.

    `seed` is an int, which always gives the same mask, or a uint64 array (seed, counter), whose counter goes up by one
    with each use. Masks come from Philox 4x32-10 (Salmon et al. 2011). Raises ValueError unless 0 <= p < 1.
    """
    float_tensor("dropout", x)
    p = number("dropout: p", p, 1)
    if not training or p == 0:
        return x
    return Dropout.apply(x, p=p, key=key_of(x, seed))


def key_of(x: Tensor, seed: Seed) -> Array:
    """The key by which elements are dropped, from a seed as `dropout` takes it."""
    device = at_work(x._device)
    begin("Dropout")
    if isinstance(seed, Tensor):
        read(seed)
        seed = seed._data
    elif is_array(seed):
        read_array(seed)
    if isinstance(seed, int | np.integer):
        return device.from_host(np.array([int(seed) % (1 << 64), 0], np.uint64))
    if is_array(seed) and seed.shape == (2,):
        if type(seed) is not x._device.array_type:
            raise RuntimeError(f"dropout: x is on {x.device!r}, its (seed, counter) is not; move it with .to(...)")
        if seed.dtype != np.uint64:
            raise TypeError(f"dropout: the (seed, counter) array must be uint64, not {seed.dtype}")
        return drawn_key(functools.partial(advanced, device, seed))
    raise TypeError(f"dropout: seed must be an int or a uint64 array (seed, counter), not {type(seed).__name__}")
