"""An array as a picture of few cells, each the mean of a block of elements, in one byte a cell."""

import base64
import math

import numpy as np

from minigrad.inspect.text import described

SIDE = 48  # cells in a row or column at most
TILES = 16  # channels that are shown of an image
# The bytes of a cell: between tiles, NaN or infinite, 0, and from there to the largest.
GAP, NOT_FINITE, ZERO, STEPS = 0, 1, 128, 126


def heat_map(array: np.ndarray, *, image: bool = False, side: int = SIDE) -> dict[str, object]:
    """The picture and its legend, as JSON has them.

    An array (..., c) is shown as rows of c elements; an `image`, of shape (n, h, w, c), by the channels of the first of the n
    beside one another. `cells` are rows x columns bytes in base64: 0 a gap, 1 not finite, 128 zero, 2 to 254 a mean from
    -scale to scale.
    """
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        if image and array.ndim == 4 and array.size:
            cells, gaps, about = channels(wide, side)
            of = [1, 1]
        else:
            grid, about = rows(wide), ""
            cells = shrunk(grid, side)
            gaps = np.zeros(cells.shape, bool)
            of = list(grid.shape)
        finite = np.isfinite(cells)
        scale = float(np.abs(cells[finite & ~gaps]).max(initial=0.0))
        unit = np.where(finite, cells, 0.0) / (scale or 1.0)
        codes = np.where(finite, ZERO + np.rint(STEPS * unit), NOT_FINITE)
        codes[gaps] = GAP
        words = described(array)
    return {
        "shape": list(array.shape),
        "rows": cells.shape[0],
        "columns": cells.shape[1],
        "of": of,
        "scale": scale,
        "cells": base64.b64encode(codes.astype(np.uint8).tobytes()).decode(),
        "about": about,
        "described": words,
        "numbers": [f"{value:.4g}" for value in wide.ravel()] if array.size <= 12 else [],
    }


def rows(array: np.ndarray) -> np.ndarray:
    """The array with two axes."""
    if array.ndim < 2:
        return array.reshape(1, -1)
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def shrunk(grid: np.ndarray, side: int) -> np.ndarray:
    """Means of blocks, no more than `side` in each direction."""
    if not grid.size:
        return np.zeros((0, 0))
    for axis in (0, 1):
        length = grid.shape[axis]
        if length > side:
            edges = np.linspace(0, length, side + 1).astype(np.intp)
            sums = np.add.reduceat(grid, edges[:-1], axis=axis)
            grid = sums / np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
    return grid


def channels(array: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The cells of the channels of the first image, tile by tile; which cells are gaps; and what is shown."""
    count = min(TILES, array.shape[3], (side // 2) ** 2)
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    room = max(1, (side - across + 1) // across)
    tiles = [shrunk(array[0, :, :, k], room) for k in range(count)]
    height, width = tiles[0].shape
    cells = np.zeros((down * (height + 1) - 1, across * (width + 1) - 1))
    gaps = np.ones(cells.shape, bool)
    for k, tile in enumerate(tiles):
        top, left = k // across * (height + 1), k % across * (width + 1)
        place = slice(top, top + height), slice(left, left + width)
        cells[place], gaps[place] = tile, False
    return cells, gaps, f"image 1 of {array.shape[0]}, {count} of {array.shape[3]} channels"
