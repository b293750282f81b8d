"""Micro-kernels of Winograd's convolution: small linear maps of images, as LLVM vector code.

A transform takes m x m rows of channels to n x n rows, by the same one-dimensional map down the columns and along the rows.
The rows are the pixels of an image, or are found through tables of addresses. The maps are those of Winograd's F(4, 3) for
windows of 3 taps and F(2, 5) for 5, and F(3, 4) and F(5, 2) for gradients (A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016): all take six pixels to six places.

They go by way of polynomials: the places of a product are its values at five points and at infinity. Which points is free, and
decides how much is lost by rounding: the usual 0, 1, -1, 2, -2 lose twice as much as these, found by trial (B. Barabasz,
A. Anderson, K. Soodhalter and D. Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
Networks", 2020, say why). All numbers but those divided by a distance are exact.
"""

import functools
import math
from fractions import Fraction

import numpy as np

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.values import fma, minimum

# Beside these there is infinity. From the second on they come in pairs p, -p.
POINTS = tuple(map(Fraction, ("0", "11/16", "-11/16", "3/2", "-3/2")))
PIXELS_ACROSS = 6  # of a tile: as many as there are points, with infinity
TAPS = (3, 5)  # of the windows that can go this way


def outputs_across(taps):
    """Outputs of a tile on an axis, and pixels from one tile to the next."""
    return PIXELS_ACROSS + 1 - taps


def polynomial(roots):
    """The coefficients of the product of all x - root, the lowest first."""
    return tuple(np.poly(np.array(roots, object))[::-1])


def powers(count, scaled=False):
    """p^0, p^1, ... of each point, a row for each; `scaled`, divided by the product of its distances from the others."""
    rows = []
    for p in POINTS:
        scale = math.prod(p - q for q in POINTS if q != p) if scaled else 1
        rows.append(tuple(p**i / scale for i in range(count)))
    return *rows, (0,) * (count - 1) + (1,)


def pixels_map():
    """The six pixels to places."""
    return *((*polynomial([q for q in POINTS if q != p]), 0) for p in POINTS), polynomial(POINTS)


def window_map(taps):
    """Weights to places."""
    return powers(taps, scaled=True)


def result_map(taps):
    """Places to outputs, from the products of weights and pixels."""
    return tuple(zip(*powers(outputs_across(taps)), strict=True))


def outputs_map(taps):
    """Gradients of outputs to places."""
    return powers(outputs_across(taps), scaled=True)


def weights_map(taps):
    """Places to gradients of weights, from the products of pixels and gradients."""
    return tuple(zip(*powers(taps), strict=True))


def weighted(factors, values):
    """The sum of factor times value, one after another; nothing is multiplied by zero."""
    terms = sorted((t for t in zip(factors, values, strict=True) if t[0]), key=lambda term: term[0] != 1)
    (factor, value), *others = terms
    total = value if factor == 1 else value * float(factor)
    for factor, value in others:
        total = total + value if factor == 1 else fma(value, value.like(float(factor)), total)
    return total


def to_places(matrix, values):
    """Pixels, weights or gradients to the six places. Even powers of p are those of -p, odd ones the opposite."""
    first, *pairs, last = matrix
    results = [weighted(first, values)]
    for row in pairs[::2]:
        even, odd = weighted(row[::2], values[::2]), weighted(row[1::2], values[1::2])
        results += [even + odd, even - odd]
    return [*results, weighted(last, values)]


def from_places(matrix, values):
    """The six places of a product to outputs or gradients of weights: even powers take p and -p together, odd ones apart."""
    first, a, b, c, d, last = values
    sums, differences = [first, a + b, c + d, last], [first, a - b, c - d, last]
    return [weighted(row[:2] + row[3::2], differences if i % 2 else sums) for i, row in enumerate(matrix)]


def transform(code, applied, matrix, source_at, target_at, channels, bias=None):
    """targets = matrix sources matrix^T, plus the row at the address `bias` unless that is 0: a register of channels at a time.

    `applied` is the function that multiplies by the matrix. source_at(i) and target_at(i) are the addresses of rows of
    channels, each asked for when it is needed: all at once would take more registers than there are.
    """
    size, results = len(matrix[0]), len(matrix)
    for vector in code.loop((channels + (code.lanes - 1)) // code.lanes, at_least=1):
        # 1. The last register is not full, and its rest is not touched.
        start = vector.number * code.lanes
        mask = code.first_lanes(minimum(channels - start, code.lanes))
        shift = start * code.bytes
        # 2. The map down the columns.
        rows = [code.load(source_at(i) + shift, mask) for i in range(size * size)]
        columns = [applied(matrix, rows[j::size]) for j in range(size)]
        # 3. The map along the rows, plus the bias or zeros.
        if bias is not None:
            with code.only_if(bias != 0, shift=code.everywhere(0.0)) as present:
                present.shift = code.load(bias + shift, mask)
        for i in range(results):
            for j, value in enumerate(applied(matrix, [column[i] for column in columns])):
                value = value if bias is None else value + present.shift
                code.store(value, target_at(i * results + j) + shift, mask)


def tiles_along(code, count, image, step, move, places, channels, size, table, row_step, place_step, scattered):
    """(address of pixel i, address of place i) of one tile after another along a row of tiles; with a table, of one tile."""
    for tile in code.loop(count, at_least=1, image=image, places=places):
        if scattered:
            pixel_at = functools.partial(code.entry, table)
        else:
            pixel_at = lambda i, first=tile.image: first + (i // size) * row_step + (i % size) * step  # noqa: E731
        yield pixel_at, lambda i, first=tile.places: first + i * place_step
        tile.image += move * step
        tile.places += channels * code.bytes


def by_table(code, call, table):
    """The function that finds the pixels of a tile through a table, or the one for tiles that lie inside their image."""
    for scattered in code.first_case({True: table != 0, False: True}):
        call(scattered=scattered)


def by_taps(code, call, taps):
    """The function for windows of so many taps."""
    first, second = TAPS
    for size in code.first_case({first: taps == first, second: True}):
        call(size=size)


def by_taps_and_table(code, call, taps, table):
    """Both choices."""
    by_taps(code, lambda size: by_table(code, functools.partial(call, size=size), table), taps)


@micro_kernel(by_table)
def transform_pixels(code, table, image, row_step, step, move, places, place_step, channels, count, *, scattered):
    """6 x 6 pixels to the 6 x 6 factors of a product, for `count` tiles side by side, each `move` pixels from the one before.

    Pixels lie `step` and their rows `row_step` bytes apart, from `image` on, or where the entries of `table` say, unless that
    is 0. The factors of a tile go to places that lie `place_step` bytes apart, and those of the next tile behind them.
    """
    size = PIXELS_ACROSS
    tiles = tiles_along(code, count, image, step, move, places, channels, size, table, row_step, place_step, scattered)
    for pixel_at, place_at in tiles:
        transform(code, to_places, pixels_map(), pixel_at, place_at, channels)


@micro_kernel(by_taps_and_table)
def transform_outputs(code, table, image, row_step, step, places, place_step, channels, count, *, size, scattered):
    """A tile's gradients of outputs to the 6 x 6 factors that meet those of pixels, as in `transform_pixels`."""
    across = outputs_across(size)
    tiles = tiles_along(
        code, count, image, step, across, places, channels, across, table, row_step, place_step, scattered
    )
    for pixel_at, place_at in tiles:
        transform(code, to_places, outputs_map(size), pixel_at, place_at, channels)


@micro_kernel(by_taps_and_table)
def transform_result(
    code, table, image, row_step, step, places, place_step, channels, count, bias, *, size, scattered
):  # fmt: skip
    """6 x 6 products to a tile's outputs, the other way, plus a row of biases at the address `bias` unless that is 0."""
    across = outputs_across(size)
    tiles = tiles_along(
        code, count, image, step, across, places, channels, across, table, row_step, place_step, scattered
    )
    for pixel_at, place_at in tiles:
        transform(code, from_places, result_map(size), place_at, pixel_at, channels, bias)


@micro_kernel(by_taps)
def transform_window(code, sources, targets, channels, *, size):
    """The weights of a window to the 6 x 6 factors that meet those of pixels: tables of their addresses."""
    sources, targets = functools.partial(code.entry, sources), functools.partial(code.entry, targets)
    transform(code, to_places, window_map(size), sources, targets, channels)


@micro_kernel(by_taps)
def transform_weights(code, sources, targets, channels, *, size):
    """6 x 6 products to gradients of the weights of a window: tables of their addresses."""
    sources, targets = functools.partial(code.entry, sources), functools.partial(code.entry, targets)
    transform(code, from_places, weights_map(size), sources, targets, channels)
