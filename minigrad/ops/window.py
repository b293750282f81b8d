"""What the arguments of ops over windows of images mean: size, stride, padding and dilation."""

import operator
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from minigrad.checks import MOST
from minigrad.kernels.window import Window

Pair = tuple[int, int]
Size = SupportsIndex | Sequence[SupportsIndex]  # an int, or a pair (vertical, horizontal)
Padding = Size | Sequence[Sequence[SupportsIndex]] | str  # or a pair of pairs ((top, bottom), (left, right)), or "same"


def resolve(name: str, image: Pair, size: Size, stride: Size, padding: Padding, dilation: Size = 1) -> Window:
    """The window that the arguments of the op `name` describe for images of (height, width), and how often it fits.

    size, stride and dilation are an int or a pair (vertical, horizontal). padding is an int, a pair (vertical,
    horizontal), a pair of pairs ((top, bottom), (left, right)), or "same": as many windows as pixels, divided by the stride
    and rounded up; what is to be padded for that goes half to each side, an odd pixel to the end. An image without pixels
    has no window then. Raises TypeError for what is no integer, and ValueError for sizes, strides and dilations below
    1, paddings below 0, a window that is larger than the padded image, and numbers that 32 bits do not hold.
    """
    kernel, steps = pair(name, "size", size), pair(name, "stride", stride)
    gaps = pair(name, "dilation", dilation)
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True))
    if is_same(padding):
        counts = tuple(-(-n // step) for n, step in zip(image, steps, strict=True))
        axes = zip(image, spans, steps, counts, strict=True)
        surplus = [max((count - 1) * step + span - n, 0) if count else 0 for n, span, step, count in axes]
        (top, bottom), (left, right) = [(s // 2, s - s // 2) for s in surplus]
        check_sizes(name, image, ((top, bottom), (left, right)), counts)
        return Window(*kernel, *steps, top, bottom, left, right, *gaps, *counts)
    sides = paddings(name, padding)
    padded = tuple(n + before + after for n, (before, after) in zip(image, sides, strict=True))
    if any(span > n for span, n in zip(spans, padded, strict=True)):
        dilated = "" if gaps == (1, 1) else f", {times(spans)} with dilation {times(gaps)},"
        around = "" if padded == tuple(image) else f", {times(padded)} with its padding"
        raise ValueError(
            f"{name}: the window {times(kernel)}{dilated} is larger than the image, which is {times(image)}{around}; "
            'use a smaller window, or padding="same"'
        )
    counts = tuple((n - span) // step + 1 for n, span, step in zip(padded, spans, steps, strict=True))
    check_sizes(name, image, sides, counts)
    return Window(*kernel, *steps, *sides[0], *sides[1], *gaps, *counts)


def check_sizes(name: str, image: Pair, sides: tuple[Pair, Pair], counts: tuple[int, ...]) -> None:
    """Raise ValueError for a padded image, or a result, of a size that nothing can work on."""
    padded = tuple(n + before + after for n, (before, after) in zip(image, sides, strict=True))
    if max(padded) > MOST:
        raise ValueError(
            f"{name}: an image of {times(image)} would be {times(padded)} with its padding; sides up to {MOST} are possible"
        )
    if counts[0] * counts[1] > MOST:
        raise ValueError(
            f"{name}: an image of {times(image)} would become one of {times(counts)}; up to {MOST} pixels are possible"
        )


def pair(name: str, argument: str, value: Size) -> Pair:
    """An argument given as an int or as a pair of ints, each at least 1."""
    vertical, horizontal = integers(name, argument, value)
    if vertical < 1 or horizontal < 1:
        raise ValueError(f"{name}: {argument} must be at least 1, not {value!r}")
    if vertical > MOST or horizontal > MOST:
        raise ValueError(f"{name}: {argument} must be at most {MOST}, not {value!r}")
    return vertical, horizontal


def is_same(padding: Padding) -> bool:
    """Whether padding is given as "same", so that it depends on the image."""
    return isinstance(padding, str) and padding == "same"


def paddings(name: str, padding: Padding) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) from an int, a pair, or a pair of pairs."""
    if isinstance(padding, str):
        raise ValueError(f'{name}: padding must be an int, a pair, a pair of pairs or "same", not {padding!r}')
    if isinstance(padding, tuple | list) and len(padding) == 2 and all(isinstance(p, tuple | list) for p in padding):
        sides = integers(name, "padding", padding[0]), integers(name, "padding", padding[1])
    else:
        vertical, horizontal = integers(name, "padding", padding)
        sides = (vertical, vertical), (horizontal, horizontal)
    if min(sides[0] + sides[1]) < 0:
        raise ValueError(f"{name}: padding must not be negative, but it is {padding!r}")
    if max(sides[0] + sides[1]) > MOST:
        raise ValueError(f"{name}: padding must be at most {MOST}, not {padding!r}")
    return sides


def integers(name: str, argument: str, value: object) -> Pair:
    """Two ints from a pair of them, or from one that stands for both."""
    try:
        if isinstance(value, tuple | list):
            if len(value) != 2:
                raise ValueError(f"{name}: {argument} must be an int or a pair, not {len(value)} values: {value!r}")
            return operator.index(value[0]), operator.index(value[1])
        number = operator.index(value)  # type: ignore[arg-type]  # which is what is found out here
    except TypeError:
        raise TypeError(f"{name}: {argument} must be made of integers, not {value!r}") from None
    return number, number


def times(lengths: Iterable[int]) -> str:
    """Height and width as one writes them: 3 x 5."""
    return " x ".join(map(str, lengths))
