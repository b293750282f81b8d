"""In which order of axes an array is at hand.

minigrad has images (N, H, W, C), ONNX (N, C, H, W). Nothing is transposed until someone needs an order that is not there: a
transpose of the model only says which order its result is in, and ops that go element by element take any.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Axes = tuple[int, ...]  # an array laid out so is plain.transpose(axes), plain being as minigrad has it

IMAGES: Axes = (0, 3, 1, 2)  # (N, H, W, C) with the channels first
WEIGHT: Axes = (3, 2, 0, 1)  # a convolution's (kh, kw, in, out) as (out, in, kh, kw)
WEIGHT_TRANSPOSED: Axes = (2, 3, 0, 1)  # a transposed convolution's as (in, out, kh, kw)

GATES: dict[str, Axes] = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Which of our gates ONNX has at each place: i, o, f, c of our i, f, g, o; z, r, h of our r, z, n."""


class Flattened(NamedTuple):
    """Features of images (H, W, C) that were flattened with the channels first."""

    h: int
    w: int
    c: int

    @property
    def order(self) -> np.ndarray:
        """Its feature j is feature order[j] of the plain ones."""
        return np.arange(self.h * self.w * self.c).reshape(self).transpose(2, 0, 1).reshape(-1)


Layout = Axes | Flattened


def plain(ndim: int) -> Axes:
    """The layout that minigrad has."""
    return tuple(range(ndim))


def inverse(axes: Axes) -> Axes:
    """What undoes a transpose."""
    return tuple(int(i) for i in np.argsort(axes))


def between(have: Axes, want: Axes) -> Axes:
    """By which transpose an array that is laid out as `have` is laid out as `want`."""
    return tuple(have.index(a) for a in want)


def without(axes: Axes, gone: Sequence[int]) -> Axes:
    """The layout once some axes are gone, and the others counted anew."""
    left = [a for a in axes if a not in gone]
    return tuple(sorted(left).index(a) for a in left)


def in_order(axes: Axes, shape: Sequence[int | None]) -> bool:
    """Whether a transpose moves nothing but axes of length 1, so that memory stays as it is."""
    moved = [a for a in axes if shape[a] != 1]
    return moved == sorted(moved)
