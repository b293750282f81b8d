"""Convolution of images as matrix products that are never written out; see kernels/reference/conv.py, and tiles.py.

    forward       rows: pixels of y              columns: channels of y    depth: tap, channel of x
    backward_x    rows: pixels of x              columns: channels of x    depth: tap, channel of y
    backward_w    rows: tap, channel of x        columns: channels of y    depth: pixels of y

The matrix of windows exists only as a rule that says which element of the image stands in a place, or that it is padding:
a pixel and a depth (row of the tap, column of the tap, channel) are numbers of three digits (see factors.py), from which
an address comes by a few multiply-adds, without a division. Four channels are loaded at once where the number of channels
is a multiple of four; they belong to the same tap then. Memory is read as in a product of matrices, but for the image,
each pixel of which is read for every tap, of all times but the first from a cache.

With strides each pixel of x meets only some taps; backward_x asks for all of them, and finds zeros for the others. The sum
over the pixels for the gradient of the weights is cut into parts, as many as fill a GPU.
"""

from typing import NamedTuple

from minigrad.kernels.cuda.parts.bfloat16 import product_bf16
from minigrad.kernels.cuda.parts.factors import Factor, place_in_matrix
from minigrad.kernels.cuda.parts.plans import (
    BF16_3X_TILES,
    BF16_TILES,
    DOUBLE,
    FLOAT32_TILES,
    TF32_KERNELS,
    aligned,
    best_tiling,
    fitting,
    kernels_for,
    run_tiled,
    tensor_tiles,
)
from minigrad.kernels.cuda.parts.tensor_cores import product_tf32
from minigrad.kernels.cuda.parts.tiles import HAS_BIAS, WIDE_A, WIDE_B, Result, product
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT64, Reals, UInt, UIntWindow, ULong

PRODUCT = Choice("PRODUCT", product)  # product, product_tf32 or product_bf16


class Images(NamedTuple):
    """The sizes of x, and the channels of y."""

    n: UInt
    h: UInt
    w: UInt
    c: UInt
    k: UInt


class Share(NamedTuple):
    """What falls to each block, and how far a thread's depths advance from one load to the next."""

    across: UInt  # tiles along a row of the result
    part: UInt  # depths
    high: UInt  # the digits of a depth of A
    middle: UInt
    low: UInt
    b_load: UInt  # depths of B


@device_function
def place_in_window(where, pixel, tap):
    """An element of x, as a pixel of y meets it at a tap; `where` is (the images, the window)."""
    images, window = where
    i = uint32(pixel[1] * window.sh + tap[0] * window.dil_h - window.top)
    j = uint32(pixel[2] * window.sw + tap[1] * window.dil_w - window.left)
    found = (pixel[0] < images.n) & (tap[0] < window.kh) & (i < images.h) & (j < images.w)
    return found, uint32(((pixel[0] * images.h + i) * images.w + j) * images.c + tap[2])


@device_function
def place_in_turned_window(where, tap, pixel):
    """The same, of the transposed matrix."""
    return place_in_window(where, pixel, tap)


@device_function
def place_under_window(where, pixel, tap):
    """An element of y, as a pixel of x meets it at a tap; `where` is (the images, the window)."""
    images, window = where
    i_moved = uint32(pixel[1] + window.top - tap[0] * window.dil_h)
    j_moved = uint32(pixel[2] + window.left - tap[1] * window.dil_w)
    i = uint32(i_moved // window.sh) if window.sh > uint32(1) else i_moved
    j = uint32(j_moved // window.sw) if window.sw > uint32(1) else j_moved
    met = (uint32(i * window.sh) == i_moved) & (uint32(j * window.sw) == j_moved)
    found = (pixel[0] < images.n) & (tap[0] < window.kh) & (i < window.oh) & (j < window.ow) & met
    return found, uint32(((pixel[0] * window.oh + i) * window.ow + j) * images.k + tap[2])


@device_function
def place_in_turned_weights(where, channel, tap):
    """A weight, from a channel of x to a channel of y, which is the third digit of the tap; `where` as above."""
    images, window = where
    found = (channel[2] < images.c) & (tap[0] < window.kh)
    return found, uint32(((tap[0] * window.kw + tap[1]) * images.c + channel[2]) * images.k + tap[2])


@device_function
def own_part(share, depth):
    """The depths that a block adds up: (begin, end)."""
    begin = uint32(uint32(cuda.blockIdx.z) * share.part)
    return begin, uint32(min(depth, uint32(begin + share.part)))


@device_function
def digits_of_step(share):
    """How far a depth of A advances from one load of a thread to the next."""
    return share.high, share.middle, share.low


@device_function
def plain_factor(lines, depths, share):
    """A matrix of so many lines, which are neighbours in memory; its depths are plain numbers."""
    plain = (uint32(0), uint32(0))
    return Factor(plain, plain, (uint32(0), uint32(0), share.b_load), (lines, depths, uint32(1), lines))


def forward(
    x: Reals, w: Reals, bias: Reals, y: Reals, images: Images, window: UIntWindow, share: Share, step: ULong, flags: UInt
):  # fmt: skip
    rows, depth = uint32(images.n * window.oh * window.ow), uint32(window.kh * window.kw * images.c)
    begin, end = own_part(share, depth)
    factor_x = Factor((window.oh, window.ow), (window.kw, images.c), digits_of_step(share), (images, window))
    factor_w = plain_factor(images.k, depth, share)
    result = Result(bias, y, step, rows, images.k, share.across, flags)
    PRODUCT(x, place_in_window, factor_x, w, place_in_matrix, factor_w, result, begin, end)


def backward_x(
    dy: Reals, w: Reals, bias: Reals, dx: Reals, images: Images, window: UIntWindow, share: Share, step: ULong, flags: UInt
):  # fmt: skip
    rows, depth = uint32(images.n * images.h * images.w), uint32(window.kh * window.kw * images.k)
    begin, end = own_part(share, depth)
    taps = window.kw, images.k
    factor_dy = Factor((images.h, images.w), taps, digits_of_step(share), (images, window))
    factor_w = Factor((uint32(0), uint32(0)), taps, digits_of_step(share), (images, window))
    result = Result(bias, dx, step, rows, images.c, share.across, flags)
    PRODUCT(dy, place_under_window, factor_dy, w, place_in_turned_weights, factor_w, result, begin, end)


def backward_w(
    x: Reals, dy: Reals, bias: Reals, dw: Reals, images: Images, window: UIntWindow, share: Share, step: ULong, flags: UInt
):  # fmt: skip
    rows, depth = uint32(window.kh * window.kw * images.c), uint32(images.n * window.oh * window.ow)
    begin, end = own_part(share, depth)
    factor_x = Factor((window.kw, images.c), (window.oh, window.ow), digits_of_step(share), (images, window))
    factor_dy = plain_factor(images.k, depth, share)
    result = Result(bias, dw, step, rows, images.k, share.across, flags)
    PRODUCT(x, place_in_turned_window, factor_x, dy, place_in_matrix, factor_dy, result, begin, end)


DEEP = {forward: (True, False), backward_x: (True, True), backward_w: (False, False)}
KERNELS = {}
for _function, (_a_deep, _b_deep) in DEEP.items():
    _order = [{"A_DEEP": _a_deep, "B_DEEP": _b_deep}]
    _never = (
        {"ADDS": 0} if _function is forward else {"ADDS": 0, "HAS_BIAS": 0}
    )  # which leaves registers to what there is
    _made = (
        kernels_for(_function, FLOAT32_TILES, _order, **_never)
        | kernels_for(_function, TF32_KERNELS, _order, PRODUCT=product_tf32, **_never)
        | kernels_for(_function, [*BF16_TILES, *BF16_3X_TILES], _order, PRODUCT=product_bf16, **_never)
        | kernels_for(_function, [DOUBLE], _order, "float64", **_never)
    )
    KERNELS |= {(_function, tile): made for (tile, *_), made in _made.items()}


def digits(x, middle, low):
    """x as a number of three digits."""
    high, last = divmod(x, low)
    return *divmod(high, middle), last


def run(function, a, b, bias, c, images, window, product_shape, radices, wide_rows, flags=0):
    """Launch a pass, a product of that shape (m, n, k); `radices` are those of the depth of A."""
    m, n, depth = product_shape
    if not c.size:
        return
    tiles = [DOUBLE] if c.dtype == FLOAT64 else tensor_tiles(m * n * depth) or FLOAT32_TILES
    how = best_tiling(tiles, m, n, depth)
    tile = how.tile
    a_deep, b_deep = DEEP[function]
    step = digits(tile.step(a_deep, tile.rows), *radices)
    share = Share(how.across, how.part, *step, tile.step(b_deep, tile.columns))
    found = (WIDE_A if aligned(a, wide_rows[0]) else 0) | (WIDE_B if aligned(b, wide_rows[1]) else 0)
    grid = how.tiles, 1, how.parts
    configured = KERNELS[function, fitting(tile, c.itemsize, a_deep, b_deep)][grid, tile.threads]

    def fill(bias, c, flags):
        configured(a, b, bias, c, images, window, share, m * n, flags | found)

    run_tiled(fill, how, bias, c, n, flags)


def conv_forward(x, w, bias, window, y):
    n, height, width, c = x.shape
    kh, kw, _, k = w.shape
    flags = HAS_BIAS if bias.size else 0
    shape = n * window.oh * window.ow, k, kh * kw * c
    run(forward, x, w, bias, y, Images(n, height, width, c, k), window, shape, (kw, c), (c, k), flags)


def conv_backward_x(dy, w, window, dx):
    n, height, width, c = dx.shape
    kh, kw, _, k = w.shape
    shape = n * height * width, c, kh * kw * k
    run(backward_x, dy, w, dx, dx, Images(n, height, width, c, k), window, shape, (kw, k), (k, k))


def conv_backward_w(x, dy, window, dw):
    n, height, width, c = x.shape
    kh, kw, _, k = dw.shape
    shape = kh * kw * c, k, n * window.oh * window.ow
    run(backward_w, x, dy, dw, dw, Images(n, height, width, c, k), window, shape, (window.oh, window.ow), (c, k))
