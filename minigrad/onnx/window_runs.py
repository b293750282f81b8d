"""Convolutions and pools of ONNX here; those of sequences (N, C, L) as of images of one row."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.onnx.held import LAST, WEIGHT_LAST, Held, constant
from minigrad.onnx.layout import WEIGHT_TRANSPOSED, Axes
from minigrad.onnx.movement_runs import known
from minigrad.onnx.source import Reader, Run, Source
from minigrad.tensor import Tensor

Sides = tuple[tuple[int, int], tuple[int, int]]
SEQUENCE_LAST: Axes = (0, 2, 1)  # sequences with the channels last
SEQUENCE_WEIGHT_LAST: Axes = (2, 1, 0)  # the weight of their convolutions (k, in, out)


def images(node: Source, x: Held, axes: int = 2) -> Tensor:
    """Images (N, H, W, C), or sequences as images of one row."""
    if x.ndim != axes + 2:
        what = "images (N, C, H, W)" if axes == 2 else "sequences (N, C, L)"
        raise node.error(f"it works on {what}, not on an array of shape {x.shape}")
    if axes == 2:
        return x.laid(LAST)
    sequence = x.laid(SEQUENCE_LAST)
    return sequence.reshape(sequence.shape[0], 1, *sequence.shape[1:])


def of_images(y: Tensor, axes: int) -> Held:
    """Images, or sequences, of which the images had one row."""
    return Held(y, LAST) if axes == 2 else Held(y.reshape(y.shape[0], *y.shape[2:]), SEQUENCE_LAST)


def in_two(numbers: Sequence[int], usual: int = 1) -> list[int]:
    """What is said of the axes of a window, of images."""
    return [*[usual] * (2 - len(numbers)), *numbers]


def check_window(node: Source, size: Sequence[int]) -> None:
    """ValueError for a window that is neither over sequences nor over images."""
    if len(size) not in (1, 2):
        raise node.error(
            f"its window has {len(size)} axes, and minigrad's ops are over images and sequences, with two or one"
        )


def padding_of(
    node: Source, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Callable[[Sequence[int]], Sides]:
    """How much is put around an image of (height, width): as the file says, or so that the strides alone make it smaller."""
    pads = node.attribute("pads")
    auto = node.must("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    given = pads if pads is not None and auto == "NOTSET" else [0] * 2 * len(size)
    before, after = in_two(given[: len(size)], 0), in_two(given[len(size) :], 0)
    spans = [(k - 1) * d + 1 for k, d in zip(in_two(size), in_two(dilations), strict=True)]

    def sides(image: Sequence[int]) -> Sides:
        if not auto.startswith("SAME"):
            return (before[0], after[0]), (before[1], after[1])
        found = []
        for n, span, step in zip(image, spans, in_two(strides), strict=True):
            surplus = max((-(-n // step) - 1) * step + span - n, 0)
            half = surplus // 2
            found.append((half, surplus - half) if auto == "SAME_UPPER" else (surplus - half, half))
        return found[0], found[1]

    return sides


def conv(node: Source) -> Run:
    """A convolution; its weight is kept as minigrad has it, (kh, kw, in, out) or (k, in, out)."""
    weight = node.constants.get(node.inputs[1])
    size = node.attribute("kernel_shape", None if weight is None else [*weight.shape[2:]]) or [1, 1]
    check_window(node, size)
    axes = len(size)
    if weight is not None and (weight.ndim != axes + 2 or [*weight.shape[2:]] != [*size]):
        raise node.error(f"its weight has shape {weight.shape}, and (out, in, {size}) over images was expected")
    groups = node.attribute("group", 1)
    if not isinstance(groups, int) or groups < 1 or (weight is not None and weight.shape[0] % groups):
        channels = "" if weight is None else f" the {weight.shape[0]} output channels of its weight {weight.shape}"
        raise node.error(f"group={groups!r} does not divide{channels or ' any number of channels'}")
    strides, dilations = node.attribute("strides", [1] * axes), node.attribute("dilations", [1] * axes)
    padding = padding_of(node, size, strides, dilations)
    order = WEIGHT_LAST if axes == 2 else SEQUENCE_WEIGHT_LAST
    node.given(None, order)

    def run(xs: list[Any], training: bool) -> Held:
        x, w, *rest = xs
        b = rest[0].plain if rest and rest[0] is not None else None
        image, taps = images(node, x, axes), w.laid(order)
        taps = taps if axes == 2 else taps.reshape(1, *taps.shape)
        sides = padding(image.shape[1:3])
        steps, gaps = in_two(strides), in_two(dilations)
        y = ops.conv2d(image, taps, b, stride=steps, padding=sides, dilation=gaps, groups=groups)
        return of_images(y, axes)

    return run


def conv_transpose(node: Source) -> Run:
    """A transposed convolution of images; its weight is kept as minigrad has it, (kh, kw, in, out / groups)."""
    weight = node.constants.get(node.inputs[1])
    size = node.attribute("kernel_shape", None if weight is None else [*weight.shape[2:]]) or [1, 1]
    if len(size) != 2 or (weight is not None and [*weight.shape[2:]] != [*size]):
        raise node.error(
            f"its window has the lengths {[*size]}, and transposed convolutions are of images, with two axes"
        )
    node.must("auto_pad", "NOTSET")
    strides, dilations = node.attribute("strides", [1, 1]), node.attribute("dilations", [1, 1])
    more, groups = node.attribute("output_padding", [0, 0]), node.attribute("group", 1)
    top, left, bottom, right = node.attribute("pads", [0, 0, 0, 0])
    node.given(None, WEIGHT_TRANSPOSED)

    def run(xs: list[Any], training: bool) -> Held:
        x, w, *rest = xs
        b = rest[0].plain if rest and rest[0] is not None else None
        y = ops.conv_transpose2d(
            images(node, x), w.laid(WEIGHT_TRANSPOSED), b, stride=strides, padding=((top, bottom), (left, right)),
            output_padding=more, dilation=dilations, groups=groups,
        )  # fmt: skip
        return Held(y, LAST)

    return run


def resize(node: Source) -> Run:
    """Images in another size, by the nearest pixels or between the four around."""
    mode = node.must("mode", "nearest", "linear")
    ways = {"nearest": ("asymmetric",), "linear": ("half_pixel", "pytorch_half_pixel", "align_corners")}[mode]
    way = node.attribute("coordinate_transformation_mode", "half_pixel")
    if way not in ways:
        raise node.error(
            f"coordinate_transformation_mode={way!r} is not supported with mode={mode!r}, only {' or '.join(ways)}"
        )
    if node.attribute("nearest_mode", "round_prefer_floor") != "floor" and mode == "nearest":
        raise node.error("nearest_mode must be 'floor'; the others are not supported")
    for name, usual in (("antialias", 0), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        node.must(name, usual)
    node.attribute("cubic_coeff_a")
    node.attribute("extrapolation_value")
    scales = node.constants.get(node.inputs[2]) if node.has(2) else None
    scales = None if scales is None or not scales.size else scales
    node.inputs = [node.inputs[0], *node.inputs[3:]] if scales is None else node.inputs[:1]
    node.of_numbers = True
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        x = images(node, xs[0])
        corners, by = way == "align_corners", "nearest" if mode == "nearest" else "bilinear"
        if scales is not None:
            check_channels(node, scales[:2] == 1)
            return Held(ops.interpolate(x, scale=scales[2:].tolist(), mode=by, align_corners=corners), LAST)
        if len(xs) < 2:
            raise node.error("its scales must be constants, or its sizes must be there")
        sizes = known(node, xs[1], "sizes")
        check_channels(node, sizes[:2] == xs[0].shape[:2])
        return Held(ops.interpolate(x, size=sizes[2:].tolist(), mode=by, align_corners=corners), LAST)

    return run


def check_channels(node: Source, kept: Any) -> None:
    """ValueError unless batch and channels stay as they are."""
    if not np.all(kept):
        raise node.error("it changes the number of images or channels, which is not supported")


def max_pool(node: Source) -> Run:
    """The largest of each window."""
    size, strides, padding, rounded_up = pool_settings(node)
    node.must("storage_order", 0)
    if len(node.outputs) > 1:
        raise node.error("the places of the largest elements, its second result, are not supported")

    def run(xs: list[Any], training: bool) -> Held:
        x = images(node, xs[0], len(size))
        sides = padding(x.shape[1:3])
        if rounded_up:
            sides = rounded(sides, x.shape[1:3], size, strides)
        return of_images(ops.max_pool2d(x, in_two(size), stride=in_two(strides), padding=sides), len(size))

    return run


def average_pool(node: Source) -> Run:
    """The mean of each window; where padding counts, as zeros, the means of what is there are made smaller by that."""
    size, strides, padding, rounded_up = pool_settings(node)
    counted = bool(node.must("count_include_pad", 0, 1))

    def run(xs: list[Any], training: bool) -> Held:
        x = images(node, xs[0], len(size))
        given = sides = padding(x.shape[1:3])
        if rounded_up:
            sides = rounded(given, x.shape[1:3], size, strides)
        y = ops.avg_pool2d(x, in_two(size), stride=in_two(strides), padding=sides)
        if counted and given != ((0, 0), (0, 0)):
            y = y * shares(x, y, in_two(size), in_two(strides), given)
        return of_images(y, len(size))

    return run


def pool_settings(node: Source) -> tuple[list[int], list[int], Callable[[Sequence[int]], Sides], bool]:
    """(size, strides, padding of an image, whether the number of windows is rounded up) of a pool."""
    size = node.attribute("kernel_shape")
    check_window(node, size)
    strides = node.attribute("strides", [1] * len(size))
    ones = [1] * len(size)
    node.must("dilations", ones)
    padding = padding_of(node, size, strides, ones)
    rounded_up = bool(node.must("ceil_mode", 0, 1)) and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    node.given()
    return size, strides, padding, rounded_up


def rounded(padding: Sides, image: Sequence[int], size: Sequence[int], strides: Sequence[int]) -> Sides:
    """Padding with so much more at the end that a last, incomplete window is one too, if it begins in the image."""
    sides = []
    for (before, after), n, k, step in zip(padding, image, in_two(size), in_two(strides), strict=True):
        count = math.ceil((n + before + after - k) / step) + 1
        if (count - 1) * step >= n + before:
            count -= 1
        sides.append((before, max(after, (count - 1) * step + k - n - before)))
    return sides[0], sides[1]


def shares(x: Tensor, y: Tensor, size: Sequence[int], strides: Sequence[int], padding: Sides) -> Tensor:
    """Of each window in the padded image the share that lies in the image, (OH, OW, 1)."""
    counts = []
    for n, windows, k, step, (before, after) in zip(x.shape[1:3], y.shape[1:3], size, strides, padding, strict=True):
        first = np.arange(windows) * step - before
        inside = np.minimum(first + k, n) - np.maximum(first, 0)
        counts.append(inside / (np.minimum(first + k, n + after) - first))
    share = (counts[0][:, None] * counts[1])[:, :, None].astype(x.dtype)
    return constant(share, x._device)


def over_pixels(function: Callable[..., Tensor]) -> Reader:
    """A reduction of each channel to one element."""

    def reader(node: Source) -> Run:
        node.given()

        def run(xs: list[Any], training: bool) -> Held:
            x = xs[0]
            axes = tuple(sorted(x.axes.index(a) for a in range(2, x.ndim)))
            return Held(function(x.tensor, axis=axes, keepdims=True), x.axes)

        return run

    return reader
