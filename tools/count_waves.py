"""How much of a GPU the products of an Inception step leave idle at their end, counted without one.

    python tools/count_waves.py

A launch of blocks fills a GPU in waves, and the last is rarely full. For the three products of each convolution (its result,
the gradients of image and weights), weighed by their multiply-adds, this counts the time that the last waves cost beyond what
blocks spread evenly would take, on the 132 multiprocessors of an H100 or H200, for the tiles and parts of
kernels/cuda/parts/plans.py. At most: a wave takes its time however few of its blocks there are. At least: a multiprocessor
with one block of two has it done in half the time. What stream-K could save lies between, less what it costs.
"""

import math

import numpy as np
from rich.console import Console
from rich.table import Table

import minigrad as mg
from minigrad.kernels.cuda.parts import plans

MULTIPROCESSORS = 132
STEPS = (0.25, 128), (1.0, 50), (1.0, 250)  # width, batch
TILES = {"float32": plans.FLOAT32_TILES, "TF32": plans.TF32_TILES, "bf16": plans.BF16_TILES}
Product = tuple[int, int, int]  # rows, columns, depth


def products_of(width: float, batch: int) -> list[Product]:
    """Those of all convolutions of an Inception step."""
    model = mg.models.Inception(width=width).to("reference")
    found: list[Product] = []

    forward = mg.nn.Conv2d.forward

    def noted(layer: mg.nn.Conv2d, image: mg.Tensor) -> mg.Tensor:
        result = forward(layer, image)
        *window, before, after = layer.weight.shape
        taps = math.prod(window)
        inputs, outputs = (batch * math.prod(x.shape[1:3]) for x in (image, result))
        found.extend([(outputs, after, taps * before), (inputs, before, taps * after), (taps * before, after, outputs)])
        return result

    mg.nn.Conv2d.forward = noted  # type: ignore[assignment,method-assign]
    try:
        with mg.no_grad():
            model(mg.tensor(np.zeros((1, 32, 32, 3), np.float32), device="reference"))
    finally:
        mg.nn.Conv2d.forward = forward  # type: ignore[method-assign]
    return found


def lost(products: list[Product], tiles: tuple[plans.TileSize, ...], whole: bool) -> float:
    """The time of last waves beyond that of blocks spread evenly, as a share of the latter."""
    even = taken = 0.0
    for m, n, k in products:
        is_small = tiles is plans.FLOAT32_TILES and m * n * k <= plans.SMALL_WORK
        how = plans.best_tiling((plans.SMALL,) if is_small else tiles, m, n, k)
        at_once = MULTIPROCESSORS * (how.tile.min_blocks if whole else 1)
        waves = how.tiles * how.parts / at_once
        even += m * n * k
        taken += m * n * k * math.ceil(waves) / waves
    return taken / even - 1


def main() -> None:
    """Print the table."""
    table = Table("width", "batch", "products in", "at least", "at most")
    for width, batch in STEPS:
        products = products_of(width, batch)
        for name, tiles in TILES.items():
            least, most = (f"{lost(products, tiles, whole):.0%}" for whole in (False, True))
            table.add_row(f"{width:g}", str(batch), name, least, most)
    Console().print(table)


if __name__ == "__main__":
    main()
