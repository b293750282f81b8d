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

from minigrad.kernels.cuda.parts.factors import place_in_matrix
from minigrad.kernels.cuda.parts.plans import (
    DOUBLE,
    FLOAT32_TILES,
    TF32_TILES,
    aligned,
    best_tiling,
    kernels_for,
    run_tiled,
    shared_bytes,
    uses_tf32,
)
from minigrad.kernels.cuda.parts.tensor_cores import product_tf32
from minigrad.kernels.cuda.parts.tiles import HAS_BIAS, WIDE_A, WIDE_B, product
from minigrad.kernels.cuda.tools.language import cuda, device_function, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT64, Reals, UInt, UIntWindow, ULong

PRODUCT = product


@device_function
def place_in_window(where, pixel, tap):
    """An element of x, as a pixel of y meets it at a tap; `where` is ((images, height, width, channels) of x, the window)."""
    (images, h, w, c), window = where
    i = uint32(pixel[1] * window.sh + tap[0] * window.dil_h - window.top)
    j = uint32(pixel[2] * window.sw + tap[1] * window.dil_w - window.left)
    found = (pixel[0] < images) & (tap[0] < window.kh) & (i < h) & (j < w)
    return found, uint32(((pixel[0] * h + i) * w + j) * c + tap[2])


@device_function
def place_in_turned_window(where, tap, pixel):
    """The same, of the transposed matrix."""
    return place_in_window(where, pixel, tap)


@device_function
def place_under_window(where, pixel, tap):
    """An element of y, as a pixel of x meets it at a tap; `where` is (images, channels of y, the window)."""
    images, k, window = where
    i_moved = uint32(pixel[1] + window.top - tap[0] * window.dil_h)
    j_moved = uint32(pixel[2] + window.left - tap[1] * window.dil_w)
    i = uint32(i_moved // window.sh) if window.sh > uint32(1) else i_moved
    j = uint32(j_moved // window.sw) if window.sw > uint32(1) else j_moved
    met = (uint32(i * window.sh) == i_moved) & (uint32(j * window.sw) == j_moved)
    found = (pixel[0] < images) & (tap[0] < window.kh) & (i < window.oh) & (j < window.ow) & met
    return found, uint32(((pixel[0] * window.oh + i) * window.ow + j) * k + tap[2])


@device_function
def place_in_turned_weights(where, channel, tap):
    """A weight, from a channel of x to a channel of y, which is the third digit of the tap; `where` is (c, k, the window)."""
    c, k, window = where
    found = (channel[2] < c) & (tap[0] < window.kh)
    return found, uint32(((tap[0] * window.kw + tap[1]) * c + channel[2]) * k + tap[2])


def forward(
    x: Reals, w: Reals, bias: Reals, y: Reals, images: UInt, height: UInt, width: UInt, c: UInt, k: UInt,
    window: UIntWindow, step0: UInt, step1: UInt, step2: UInt, b_load: UInt, across: UInt, part: UInt,
    y_step: ULong, flags: UInt,
):  # fmt: skip
    rows, depth = uint32(images * window.oh * window.ow), uint32(window.kh * window.kw * c)
    plain = (uint32(0), uint32(0))
    seen = (images, height, width, c), window
    factor_x = (window.oh, window.ow), (window.kw, c), (step0, step1, step2), seen
    factor_w = (plain, plain, (uint32(0), uint32(0), b_load), (k, depth, uint32(1), k))
    begin = uint32(uint32(cuda.blockIdx.z) * part)
    end = uint32(min(depth, uint32(begin + part)))
    PRODUCT(
        x, place_in_window, factor_x, w, place_in_matrix, factor_w, bias, y, y_step, rows, k, across, begin, end, flags
    )


def backward_x(
    dy: Reals, w: Reals, bias: Reals, dx: Reals, images: UInt, height: UInt, width: UInt, c: UInt, k: UInt,
    window: UIntWindow, step0: UInt, step1: UInt, step2: UInt, b_load: UInt, across: UInt, part: UInt,
    dx_step: ULong, flags: UInt,
):  # fmt: skip
    rows, depth = uint32(images * height * width), uint32(window.kh * window.kw * k)
    step = (step0, step1, step2)
    factor_dy = (height, width), (window.kw, k), step, (images, k, window)
    factor_w = (uint32(0), uint32(0)), (window.kw, k), step, (c, k, window)
    begin = uint32(uint32(cuda.blockIdx.z) * part)
    end = uint32(min(depth, uint32(begin + part)))
    PRODUCT(
        dy, place_under_window, factor_dy, w, place_in_turned_weights, factor_w,
        bias, dx, dx_step, rows, c, across, begin, end, flags,
    )  # fmt: skip


def backward_w(
    x: Reals, dy: Reals, bias: Reals, dw: Reals, images: UInt, height: UInt, width: UInt, c: UInt, k: UInt,
    window: UIntWindow, step0: UInt, step1: UInt, step2: UInt, b_load: UInt, across: UInt, part: UInt,
    dw_step: ULong, flags: UInt,
):  # fmt: skip
    rows, depth = uint32(window.kh * window.kw * c), uint32(images * window.oh * window.ow)
    plain = (uint32(0), uint32(0))
    seen = (images, height, width, c), window
    factor_x = (window.kw, c), (window.oh, window.ow), (step0, step1, step2), seen
    factor_dy = (plain, plain, (uint32(0), uint32(0), b_load), (k, depth, uint32(1), k))
    begin = uint32(uint32(cuda.blockIdx.z) * part)
    end = uint32(min(depth, uint32(begin + part)))
    PRODUCT(
        x, place_in_turned_window, factor_x, dy, place_in_matrix, factor_dy,
        bias, dw, dw_step, rows, k, across, begin, end, flags,
    )  # fmt: skip


DEEP = {forward: (True, False), backward_x: (True, True), backward_w: (False, False)}
KERNELS = {}
for _function, (_a_deep, _b_deep) in DEEP.items():
    _order = [{"A_DEEP": _a_deep, "B_DEEP": _b_deep}]
    _made = (
        kernels_for(_function, FLOAT32_TILES, _order)
        | kernels_for(_function, TF32_TILES, _order, PRODUCT=product_tf32)
        | kernels_for(_function, [DOUBLE], _order, "float64")
    )
    KERNELS |= {(_function, tile): made for (tile, *_), made in _made.items()}


def digits(x, middle, low):
    """x as a number of three digits."""
    high, last = divmod(x, low)
    return *divmod(high, middle), last


def run(function, a, b, bias, c, sizes, window, product_shape, radices, wide_rows, flags=0):
    """Launch a pass, a product of that shape (m, n, k); `radices` are those of the depth of A, `sizes` (n, h, w, c, k)."""
    m, n, depth = product_shape
    if not c.size:
        return
    work = m * n * depth
    tiles = [DOUBLE] if c.dtype == FLOAT64 else TF32_TILES if uses_tf32(work) else FLOAT32_TILES
    how = best_tiling(tiles, m, n, depth)
    tile = how.tile
    a_deep, b_deep = DEEP[function]
    step = digits(tile.step(a_deep, tile.rows), *radices)
    found = (WIDE_A if aligned(a, wide_rows[0]) else 0) | (WIDE_B if aligned(b, wide_rows[1]) else 0)
    configured = KERNELS[function, tile][
        (how.tiles, 1, how.parts), tile.threads, shared_bytes(tile, c.itemsize, a_deep, b_deep)
    ]

    def fill(bias, c, flags):
        configured(
            a, b, bias, c, *sizes, window, *step, tile.step(b_deep, tile.columns),
            how.across, how.part, m * n, flags | found,
        )  # fmt: skip

    run_tiled(fill, how, bias, c, n, flags)


def conv_forward(x, w, bias, window, y):
    n, height, width, c = x.shape
    kh, kw, _, k = w.shape
    flags = HAS_BIAS if bias.size else 0
    shape = n * window.oh * window.ow, k, kh * kw * c
    run(forward, x, w, bias, y, (n, height, width, c, k), window, shape, (kw, c), (c, k), flags)


def conv_backward_x(dy, w, window, dx):
    n, height, width, c = dx.shape
    kh, kw, _, k = w.shape
    shape = n * height * width, c, kh * kw * k
    run(backward_x, dy, w, dx, dx, (n, height, width, c, k), window, shape, (kw, k), (k, k))


def conv_backward_w(x, dy, window, dw):
    n, height, width, c = x.shape
    kh, kw, _, k = dw.shape
    shape = kh * kw * c, k, n * window.oh * window.ow
    run(backward_w, x, dy, dw, dw, (n, height, width, c, k), window, shape, (window.oh, window.ow), (c, k))
