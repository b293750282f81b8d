"""Arrays of a file while a model from it runs: tensors in the orders of axes they are at hand in, or numbers as NumPy arrays.

Numbers are what a graph computes shapes and indices from. Orders are as in minigrad.onnx.layout, but from the file's side: a
tensor laid out as `axes` is the file's array transposed by them, so images (N, C, H, W) are (N, H, W, C) as (0, 2, 3, 1).
"""

from collections.abc import Sequence

import numpy as np

from minigrad.devices import Device
from minigrad.onnx.layout import Axes, between, in_order, plain
from minigrad.tensor import Tensor

LAST: Axes = (0, 2, 3, 1)  # images with the channels last, as minigrad has them
WEIGHT_LAST: Axes = (2, 3, 1, 0)  # a convolution's weight (kh, kw, in, out)


class Held:
    """A tensor in each order of axes that was asked for."""

    def __init__(self, tensor: Tensor, axes: Axes | None = None) -> None:
        self.axes = plain(tensor.ndim) if axes is None else axes  # as it came
        self.versions = {self.axes: tensor}

    @property
    def tensor(self) -> Tensor:
        """As it came."""
        return self.versions[self.axes]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return tuple(self.tensor.shape[self.axes.index(i)] for i in range(self.ndim))

    @property
    def device(self) -> Device:
        """Where it is."""
        return self.tensor._device

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self.tensor.dtype

    def laid(self, axes: Axes) -> Tensor:
        """In an order of axes; what is not at hand is made, without a copy where only axes of length 1 move."""
        if axes not in self.versions:
            shape = self.shape
            have = next((have for have in self.versions if moves_nothing(have, axes, shape)), self.axes)
            if moves_nothing(have, axes, shape):
                self.versions[axes] = self.versions[have].reshape(tuple(shape[a] for a in axes))
            else:
                self.versions[axes] = self.versions[have].transpose(between(have, axes))
        return self.versions[axes]

    @property
    def plain(self) -> Tensor:
        """In the order of the file."""
        return self.laid(plain(self.ndim))

    def reshaped(self, shape: Sequence[int]) -> "Held":
        """In another shape."""
        return Held(self.plain.reshape(tuple(int(n) for n in shape)))


def constant(array: np.ndarray, device: Device) -> Tensor:
    """Numbers as a tensor; a captured step may keep them, since they follow from the file and from shapes alone."""
    return Tensor._wrap(device.from_host(np.ascontiguousarray(array)), device)


def moves_nothing(have: Axes, want: Axes, shape: Sequence[int]) -> bool:
    """Whether an array in one order is the same memory in another."""
    return in_order(between(have, want), [shape[a] for a in have])
