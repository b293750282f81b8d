"""A window on its way over an image, as the ops, the kernels of every target and their plans know it.

The functions are written once for all targets: they are plain Python, over one axis, and every target compiles them with
its integers, which `number` makes. Nothing in them goes below 0 on the way, so these may be unsigned.
"""

from typing import NamedTuple


class Window(NamedTuple):
    """Sizes in pixels, heights before widths.

    Window (i, j) has its first row at i sh - top and its first column at j sw - left; its rows are dil_h apart, its columns
    dil_w. So many rows and columns are added around the image as top, bottom, left and right say.
    """

    kh: int  # rows and columns of a window
    kw: int
    sh: int  # from a window to the next
    sw: int
    top: int
    bottom: int
    left: int
    right: int
    dil_h: int
    dil_w: int
    oh: int  # how many windows there are
    ow: int


def covered(place, size, stride, padding, length, number):
    """(pixels of window `place` that lie before the image, first pixel, last + 1) of what it covers."""
    start = number(place * stride)
    last = number(min(number(start + size), number(length + padding)) - padding)
    if start < padding:
        return number(padding - start), number(0), last
    return number(0), number(start - padding), last


def covering(pixel, size, stride, padding, windows, number):
    """(first, last + 1) of the windows that cover a pixel; the second is no larger if there is none."""
    place = number(pixel + padding)
    first = number(0)
    if place >= size:
        first = number(number(place - size) // stride + number(1))
    return first, min(number(place // stride + number(1)), windows)
