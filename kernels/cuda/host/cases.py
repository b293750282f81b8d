"""A table of what kernels ask of a GPU, of named cases: counted on the host, the same on every machine.

    python -m minigrad.kernels.cuda.host.cases            as text
    python -m minigrad.kernels.cuda.host.cases FILE PAGE  as JSON, which the tests compare with, and as the table of a page

Sizes are a few blocks of each kernel: what a block asks for does not change with how many there are, and the host counts some
millions of instructions a second. So the times tell what bounds a kernel on a card, not how long a large problem takes: these
few blocks leave most of a card idle.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigrad.kernels.activations import IDENTITY, RELU
from minigrad.kernels.cuda import (
    attention,
    conv,
    dropout,
    elementwise,
    gemm,
    layer_norm,
    loss,
    movement,
    norm,
    optim,
    pool,
    reduce,
)
from minigrad.kernels.cuda.host.counts import A100, H100, bound, table
from minigrad.kernels.cuda.host.driver import HostDriver
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools.array import CudaArray
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.window import Window

CARDS = A100, H100
MANY = 1 << 14  # elements
CLASSES = 10


class Case(NamedTuple):
    """What is done to arrays of these shapes; a shape (dtype, ...) is of that type, others of float32."""

    run: object
    shapes: list[tuple]


def window(size, stride, padding, height, width):
    """A square window over an image, as much padding on each side."""
    oh, ow = ((n + 2 * padding - size) // stride + 1 for n in (height, width))
    return Window(size, size, stride, stride, padding, padding, padding, padding, 1, 1, oh, ow)


def by_tile(tile):
    """A B by one tile, of two tiles down and eight steps deep."""
    m, n, k = 2 * tile.rows, tile.columns, 8 * tile.depth

    def run(a, b, c):
        gemm.launcher(a, b, m, n, k, False, False, plans.tiling_by(tile, m, n, k, 1))(c, c, plans.WIDE_C)

    return Case(run, [(m, k), (k, n), (m, n)])


def by_pass(run, tile, order):
    """A pass of a convolution of 3 x 3 by one tile; `order` of x, w, y is that of its arrays."""
    x, w, y = (2, 16, 16, 16), (3, 3, 16, tile.columns), (2, 16, 16, tile.columns)

    def by(*arrays):
        before = conv.best_tiling
        conv.best_tiling = lambda _, m, n, k: plans.tiling_by(tile, m, n, k, 1)
        try:
            run(*arrays[:2], *arrays[3:], window(3, 1, 1, 16, 16), arrays[2])
        finally:
            conv.best_tiling = before

    shapes = [{"x": x, "w": w, "y": y}[name] for name in order]
    return Case(by, [*shapes, (0,)] if run is conv.conv_forward else shapes)


POOLED = window(3, 2, 1, 16, 16)
ROWS = (1024, 64)
COLUMN = [(64,)] * 2 + [(np.float64, 64)] * 2  # gamma, beta, mean, variance
ATTENDED = [(2, 64, 64)] * 3

CASES = {
    "matrix turned around": Case(
        lambda x, y: movement.strided_read(x, (128, 128), (1, 128), 0, y), [(128, 128), (128, 128)]
    ),
    "relu": Case(elementwise.relu_forward, [(MANY,), (MANY,)]),
    "sigmoid": Case(elementwise.sigmoid_forward, [(MANY,), (MANY,)]),
    "gradient of sigmoid": Case(elementwise.sigmoid_backward, [(MANY,)] * 3),
    "sum of all": Case(reduce.sum_forward, [(1, MANY, 1), (1, 1)]),
    "sum of rows": Case(reduce.sum_forward, [(64, 256, 1), (64, 1)]),
    "sum of columns": Case(reduce.sum_forward, [(1, *ROWS), (1, 64)]),
    "batch norm": Case(
        lambda x, y, g, b, m, v, *running: norm.batch_norm_forward(x, g, b, 1e-5, RELU, y, 0, m, v, 0.9, *running),
        [ROWS, ROWS, *COLUMN, *COLUMN[:2]],
    ),
    "gradient of batch norm": Case(
        lambda dy, x, y, dx, g, b, m, v, dg, db: norm.batch_norm_backward(
            dy, x, y, 0, g, b, m, v, 1e-5, IDENTITY, dx, dg, db
        ),
        [*[ROWS] * 4, *COLUMN, *COLUMN[:2]],
    ),
    "layer norm": Case(
        lambda x, g, b, y, m, s: layer_norm.layer_norm_forward(x, g, b, 1e-5, True, y, m, s),
        [(64, 256), (256,), (256,), (64, 256), (np.float64, 64), (np.float64, 64)],
    ),
    "cross entropy": Case(
        lambda x, labels, p, y: loss.cross_entropy_forward(x, labels, p, y),
        [(1024, CLASSES), (np.int64, 1024), (1024, CLASSES), (1,)],
    ),
    "maximum of windows": Case(
        lambda x, y, w: pool.max_pool_forward(x, POOLED, y, w),
        [(2, 16, 16, 16), (2, 8, 8, 16), (np.uint8, 2, 8, 8, 16)],
    ),
    "gradient of maximum": Case(
        lambda dy, w, dx: pool.max_pool_backward(dy, w, POOLED, dx),
        [(2, 8, 8, 16), (np.uint8, 2, 8, 8, 16), (2, 16, 16, 16)],
    ),
    "attention": Case(
        lambda q, k, v, y, lse, none, key: attention.attention_forward(
            q, k, v, none, 1, 0.125, False, 0.0, key, y, lse
        ),
        [*ATTENDED, (2, 64, 64), (2, 64), (0, 0, 0), (np.uint64, 2)],
    ),
    "sgd": Case(lambda p, g, v, h: optim.sgd([p], [g], [v], [0], h), [(MANY,)] * 3 + [(np.float64, 1, 4)]),
    "dropout": Case(lambda x, key, y: dropout.dropout(x, 0.5, key, y), [(MANY,), (np.uint64, 2), (MANY,)]),
    **{f"product, {tile}": by_tile(tile) for tile in (*plans.FLOAT32_TILES, plans.SMALL)},
    **{f"product in TF32, {tile}": by_tile(tile) for tile in plans.TF32_TILES},
    **{f"product in bfloat16, {tile}": by_tile(tile) for tile in plans.BF16_TILES},
    **{f"product of two parts, {tile}": by_tile(tile) for tile in plans.BF16_3X_TILES},
    **{f"convolution, {tile}": by_pass(conv.conv_forward, tile, "xwy") for tile in plans.FLOAT32_TILES},
    "convolution in TF32": by_pass(conv.conv_forward, plans.TF32_LARGE, "xwy"),
    "convolution in bfloat16": by_pass(conv.conv_forward, plans.BF16_LARGE, "xwy"),
    "convolution of two parts": by_pass(conv.conv_forward, plans.BF16_3X_TILES[0], "xwy"),
    "gradient of images": by_pass(conv.conv_backward_x, plans.TALL, "ywx"),
    "gradient of images in bfloat16": by_pass(conv.conv_backward_x, plans.BF16_TALL, "ywx"),
    "gradient of images of two parts": by_pass(conv.conv_backward_x, plans.BF16_3X_TILES[1], "ywx"),
    "gradient of weights": by_pass(conv.conv_backward_w, plans.TALL, "xyw"),
    "gradient of weights in bfloat16": by_pass(conv.conv_backward_w, plans.BF16_TALL, "xyw"),
    "gradient of weights of two parts": by_pass(conv.conv_backward_w, plans.BF16_3X_TILES[1], "xyw"),
}


def count(case):
    """{kernel and type: Counts} of a case, of ones, on a GPU of its own."""
    driver = HostDriver(1 << 26, counts=True)
    stream = driver.new_stream()

    def empty(shape, dtype):
        shape, dtype = tuple(shape), np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        return CudaArray(driver.allocate(max(size, 1)), shape, dtype, None)

    def ones(shape):
        dtype, shape = (shape[0], shape[1:]) if isinstance(shape[0], type) else (np.float32, shape)
        host, array = np.ones(shape, dtype), empty(shape, dtype)
        driver.to_device(array.pointer, host.ctypes.data, host.nbytes, stream)
        return array

    names = "driver", "stream", "empty", "tables"
    before = [getattr(context, name) for name in names]
    context.driver, context.stream, context.empty, context.tables = driver, stream, empty, {}
    try:
        case.run(*map(ones, case.shapes))
        return driver.counts
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(context, name, value)


def entry(counts):
    """The counts of a kernel as JSON has them, with what takes each card longest, and the least microseconds for that."""
    known = {name: value for name, value in counts._asdict().items() if value and name != "instructions"}
    known["instructions"] = {kind: n for kind, n in counts.instructions.items() if n}
    bounds = {card.name: bound(counts, card) for card in CARDS}
    return known | {name: [what, float(f"{1e6 * seconds:.4g}")] for name, (what, seconds) in bounds.items()}


HEAD = "| what is done | bytes asked for | sectors | touched | wavefronts | conflicts | instructions | A100 | H100 |"


def markdown(entries):
    """The table of a page, a line for each entry, which is named {what is done: kernel}."""
    lines = [HEAD, "|---|" + "---:|" * 8]
    for name, known in entries.items():
        what, kernel = name.split(": ")
        moved = sum(known.get(f"bytes_{way}", 0) for way in ("read", "written"))
        sectors, touched = (
            sum(known.get(f"{which}_{way}", 0) for way in ("read", "written")) for which in ("sectors", "touched")
        )
        shared = known.get("wavefronts", 0), known.get("conflicts", 0)
        numbers = [f"{n:,}" for n in (moved, sectors, touched, *shared, sum(known["instructions"].values()))]
        bounds = ["{}, {} us".format(*known[card.name]) for card in CARDS]
        lines.append(f"| {what}: `{kernel.partition(',')[0].partition(':')[0]}` | {' | '.join([*numbers, *bounds])} |")
    return "\n".join(lines)


def put_on(page, entries):
    """Write the table of a page anew."""
    before, found, rest = page.read_text().partition(HEAD)
    if not found:
        raise ValueError(f"{page} has no table that begins with {HEAD}")
    page.write_text(before + markdown(entries) + "\n\n" + rest.partition("\n\n")[2])


def main():
    found = {f"{name}: {kernel}": counts for name, case in CASES.items() for kernel, counts in count(case).items()}
    if len(sys.argv) > 1:
        entries = {name: entry(counts) for name, counts in found.items()}
        lines = [f"  {json.dumps(name)}: {json.dumps(known)}" for name, known in entries.items()]
        Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n")
        put_on(Path(sys.argv[2]), entries)
        return
    print(table(found, H100))


if __name__ == "__main__":
    main()
