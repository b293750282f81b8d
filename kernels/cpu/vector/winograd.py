"""Micro-kernels of Winograd's convolution: small linear maps of images, as LLVM vector code.

A transform takes m x m rows of channels to n x n rows, by the same one-dimensional map down the columns and along the rows.
The rows are the pixels of an image, or are found through tables of addresses. The maps are those of Winograd's F(2, 3) and
F(3, 2), from the points 0, 1, -1 and infinity (A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks",
2016); their numbers are 0, 1 and 1/2, up to the sign.
"""

import functools

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.values import minimum

PIXELS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # four pixels of an image
WINDOW = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # three weights
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))  # two outputs, from the products of the two above
OUTPUTS = ((1, 0), (0.5, 0.5), (0.5, -0.5), (0, 1))  # two gradients of outputs
WEIGHTS = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1))  # three gradients of weights, from PIXELS times OUTPUTS


def applied(matrix, values):
    """The one-dimensional map: matrix times values, by additions and at most one product for each result."""
    results = []
    for row in matrix:
        first, *others = [(factor, value) for factor, value in zip(row, values, strict=True) if factor]
        total = first[1] if first[0] > 0 else 0 - first[1]
        for factor, value in others:
            total = total + value if factor > 0 else total - value
        results.append(total * 0.5 if 0.5 in row else total)
    return results


def transform(code, matrix, source_at, target_at, channels, bias=None):
    """targets = matrix sources matrix^T, plus the row at the address `bias` unless that is 0: a register of channels at a time.

    source_at(i) and target_at(i) are the addresses of rows of channels, each asked for when it is needed: all at once would
    take more registers than there are.
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


def by_table(code, call, table):
    """The function that finds the pixels of a tile through a table, or the one for tiles that lie inside their image."""
    for scattered in code.first_case({True: table != 0, False: True}):
        call(scattered=scattered)


def tiles_along(code, count, image, step, places, channels, size, table, row_step, place_step, scattered):
    """(address of pixel i, address of place i) of one tile after another along a row of tiles; with a table, of one tile."""
    for tile in code.loop(count, at_least=1, image=image, places=places):
        if scattered:
            pixel_at = functools.partial(code.entry, table)
        else:
            pixel_at = lambda i, first=tile.image: first + (i // size) * row_step + (i % size) * step  # noqa: E731
        yield pixel_at, lambda i, first=tile.places: first + i * place_step
        tile.image += 2 * step
        tile.places += channels * code.bytes


@micro_kernel(by_table)
def transform_pixels(code, table, image, row_step, step, places, place_step, channels, count, *, scattered):
    """4 x 4 pixels to the 4 x 4 factors of a product, for `count` tiles side by side.

    Pixels lie `step` and their rows `row_step` bytes apart, from `image` on, or where the entries of `table` say, unless that
    is 0. The factors of a tile go to places that lie `place_step` bytes apart, and those of the next tile behind them.
    """
    tiles = tiles_along(code, count, image, step, places, channels, 4, table, row_step, place_step, scattered)
    for pixel_at, place_at in tiles:
        transform(code, PIXELS, pixel_at, place_at, channels)


@micro_kernel(by_table)
def transform_outputs(code, table, image, row_step, step, places, place_step, channels, count, *, scattered):
    """2 x 2 gradients of outputs to the 4 x 4 factors that meet those of pixels, as in `transform_pixels`."""
    tiles = tiles_along(code, count, image, step, places, channels, 2, table, row_step, place_step, scattered)
    for pixel_at, place_at in tiles:
        transform(code, OUTPUTS, pixel_at, place_at, channels)


@micro_kernel(by_table)
def transform_result(code, table, image, row_step, step, places, place_step, channels, count, bias, *, scattered):
    """4 x 4 products to 2 x 2 outputs, the other way, plus a row of biases at the address `bias` unless that is 0."""
    tiles = tiles_along(code, count, image, step, places, channels, 2, table, row_step, place_step, scattered)
    for pixel_at, place_at in tiles:
        transform(code, RESULT, place_at, pixel_at, channels, bias)


@micro_kernel()
def transform_window(code, sources, targets, channels):
    """3 x 3 weights to the 4 x 4 factors that meet those of pixels: tables of their addresses."""
    transform(code, WINDOW, functools.partial(code.entry, sources), functools.partial(code.entry, targets), channels)


@micro_kernel()
def transform_weights(code, sources, targets, channels):
    """4 x 4 products to 3 x 3 gradients of weights: tables of their addresses."""
    transform(code, WEIGHTS, functools.partial(code.entry, sources), functools.partial(code.entry, targets), channels)
