"""Images on their way to the network; see kernels/reference/augment.py.

affine               One thread a pixel: where it comes from is computed once, for all its channels. Points are float64,
                     as in the reference, also where y is float32: some twenty operations a pixel, without which the
                     points of a large image would be off by more than y is rounded. The values are interpolated in the
                     type of y. Neighbouring threads read neighbouring pixels, unless the map shrinks the image much; the
                     four that a pixel lies between come from memory once and then from the cache.
shift_crop           One thread a value, which it moves as so many bytes, whatever they mean; a warp reads and writes 32
                     neighbours, a block 8 rows of 32.
brightness_contrast  One block an image, so there is one launch: first the mean, then the values, which come from the
                     cache when they are read again. Each thread adds up every IMAGE_THREADS-th value with compensation
                     (W. Kahan, "Further remarks on reducing truncation errors", 1965); these sums are added in float64,
                     in the same order always.
normalize            One thread four neighbouring values, which it reads and writes in one instruction each where sizes and
                     addresses allow it, else one. Finding the channel costs a division, for each four or each value.

So all of them move the weight of images and y, once. Images are uint8, float32 or float64, whatever y is; there is a
variant for each pair. A sum of a whole image by one block is slow where images are few and large.
"""

from typing import NamedTuple

from minigrad.kernels.cuda.tools.language import (
    Choice,
    cuda,
    device_function,
    float32,
    float64,
    int64,
    load4,
    real,
    store4,
    uint8,
    uint32,
    uint64,
)
from minigrad.kernels.cuda.tools.launch import (
    FLOAT32,
    Bytes,
    Double,
    Doubles,
    Longs,
    Of,
    Reals,
    UInt,
    blocks_for,
    kernel,
)

THREADS = 256
IMAGE_THREADS = 1024  # of the block of an image: the most there can be, for images may be few
WARP = 32
ALL = 0xFFFFFFFF
MOST_BLOCKS = 65535  # along a grid's second axis

IMAGE = Choice("IMAGE")  # the type of the images
WORD = Choice("WORD")  # an integer as long as a value of the images
WORD_OF_BYTES = Choice("WORD_OF_BYTES")  # whether four values are the bytes of a word
IMAGES = {"uint8": uint8, "float32": float32, "float64": float64}
WORDS = {1: uint8, 4: uint32, 8: uint64}


class Size(NamedTuple):
    """Of images: how many, rows, columns, channels."""

    n: UInt
    h: UInt
    w: UInt
    c: UInt


@device_function
def within(place, last):
    """The place, or the end of 0 to last that is nearer; 0 for NaN."""
    if place > float64(0):
        return min(place, float64(last))
    return float64(0)


@device_function
def between(a, b, share):
    return a + share * (b - a)


@kernel(threads=THREADS, uses_float64=True)
def affine_pixels(
    images: Of(IMAGE), matrices: Doubles, scale: Double, y: Reals, size: Size
):  # fmt: skip
    n, h, w, c = size
    p = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    pixels = uint32(h * w)
    i = uint32(cuda.blockIdx.y)
    if p < pixels:
        r = uint32(p // w)
        q = uint32(p - r * w)
        while i < n:
            m = uint32(i * uint32(6))
            row = matrices[m] * float64(r) + matrices[m + uint32(1)] * float64(q) + matrices[m + uint32(2)]
            column = (
                matrices[m + uint32(3)] * float64(r) + matrices[m + uint32(4)] * float64(q) + matrices[m + uint32(5)]
            )
            row, column = within(row, uint32(h - uint32(1))), within(column, uint32(w - uint32(1)))
            top, left = uint32(row), uint32(column)
            down, across = real(row - float64(top)), real(column - float64(left))
            bottom, right = min(uint32(top + uint32(1)), uint32(h - uint32(1))), uint32(0)
            if uint32(left + uint32(1)) < w:
                right = c
            first = uint32(i * pixels)
            above = uint32(uint32(first + top * w + left) * c)
            below = uint32(uint32(first + bottom * w + left) * c)
            at = uint32(uint32(first + p) * c)
            k = uint32(0)
            while k < c:
                upper = between(real(images[above]), real(images[uint32(above + right)]), across)
                lower = between(real(images[below]), real(images[uint32(below + right)]), across)
                y[at] = real(scale) * between(upper, lower, down)
                above, below = uint32(above + uint32(1)), uint32(below + uint32(1))
                at, k = uint32(at + uint32(1)), uint32(k + uint32(1))
            i = uint32(i + uint32(cuda.gridDim.y))


@kernel(threads=THREADS)
def shift_rows(
    images: Of(WORD), shifts: Longs, flips: Bytes, repeat: UInt, y: Of(WORD), size: Size
):  # fmt: skip
    n, h, w, c = size
    rows = uint32(n * h)
    j = uint32(uint32(cuda.blockIdx.x) * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x))
    row = uint32(uint32(cuda.blockIdx.y) * uint32(cuda.blockDim.y) + uint32(cuda.threadIdx.y))
    if j < uint32(w * c):
        q = uint32(j // c)
        k = uint32(j - q * c)
        while row < rows:
            i = uint32(row // h)
            column = q
            if flips[i]:
                column = uint32(w - uint32(1) - q)
            source_row = int64(uint32(row - i * h)) + shifts[uint32(i * uint32(2))]
            source_column = int64(column) + shifts[uint32(i * uint32(2) + uint32(1))]
            nearest_row = min(max(source_row, int64(0)), int64(h) - int64(1))
            nearest_column = min(max(source_column, int64(0)), int64(w) - int64(1))
            value = WORD(0)
            if repeat or (nearest_row == source_row and nearest_column == source_column):
                at = uint32(uint32(uint32(i * h + uint32(nearest_row)) * w + uint32(nearest_column)) * c + k)
                value = images[at]
            y[uint32(row * uint32(w * c) + j)] = value
            row = uint32(row + uint32(cuda.gridDim.y) * uint32(cuda.blockDim.y))


@device_function
def warp_sum(value):
    """The sum over the threads of a warp, in all of them."""
    lanes = uint32(16)
    while lanes:
        value += cuda.shfl_xor_sync(ALL, value, lanes)
        lanes = uint32(lanes >> uint32(1))
    return value


@kernel(threads=IMAGE_THREADS, uses_float64=True)
def adjust_images(
    images: Of(IMAGE), brightness: Doubles, contrast: Doubles, scale: Double, y: Reals, size: UInt
):  # fmt: skip
    sums = cuda.shared.array(WARP, float64)
    thread = uint32(cuda.threadIdx.x)
    i = uint32(cuda.blockIdx.x)
    first = uint32(i * size)
    total, lost = real(0), real(0)  # the sum so far, and what its roundings added to it
    j = thread
    while j < size:
        value = real(images[uint32(first + j)]) - lost
        rounded = total + value
        lost = (rounded - total) - value
        if lost != lost:  # beside an infinity nothing is lost
            lost = real(0)
        total = rounded
        j = uint32(j + uint32(IMAGE_THREADS))
    exact = warp_sum(float64(total))
    if thread % uint32(WARP) == uint32(0):
        sums[uint32(thread // uint32(WARP))] = exact
    cuda.syncthreads()
    mean = warp_sum(sums[uint32(thread % uint32(WARP))]) / float64(size)

    middle = real(mean)
    gain = real(scale * contrast[i])
    base = real(scale * mean + brightness[i])
    j = thread
    while j < size:
        at = uint32(first + j)
        y[at] = (real(images[at]) - middle) * gain + base
        j = uint32(j + uint32(IMAGE_THREADS))


@kernel(threads=THREADS)
def normalize_values(images: Of(IMAGE), shift: Reals, gain: Reals, y: Reals, n: UInt, c: UInt):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        k = uint32(i - uint32(i // c) * c)
        y[i] = (real(images[i]) - shift[k]) * gain[k]


@device_function
def load_four(images, i):
    """Four values: of 16 bytes, or the bytes of a word."""
    if WORD_OF_BYTES:
        word, byte = images[i], uint32(255)
        return (
            float32(uint32(word & byte)),
            float32(uint32(word >> uint32(8) & byte)),
            float32(uint32(word >> uint32(16) & byte)),
            float32(uint32(word >> uint32(24))),
        )
    return load4(images, uint32(i * uint32(4)))


@device_function
def after(k, c):
    """The channel of the next value."""
    k = uint32(k + uint32(1))
    return k if k < c else uint32(0)


@kernel(threads=THREADS, types=(FLOAT32,))
def normalize_fours(images: Of(IMAGE), shift: Reals, gain: Reals, y: Reals, fours: UInt, c: UInt):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < fours:
        at = uint32(i * uint32(4))
        k = uint32(at - uint32(at // c) * c)
        l = after(k, c)  # noqa: E741 - k, l, m and o are the channels of the four
        m = after(l, c)
        o = after(m, c)
        a, b, d, e = load_four(images, i)
        store4(
            y, at,
            (a - shift[k]) * gain[k], (b - shift[l]) * gain[l], (d - shift[m]) * gain[m], (e - shift[o]) * gain[o],
        )  # fmt: skip


AFFINE = {name: affine_pixels.variant(IMAGE=kind) for name, kind in IMAGES.items()}
SHIFT = {size: shift_rows.variant(WORD=kind) for size, kind in WORDS.items()}
ADJUST = {name: adjust_images.variant(IMAGE=kind) for name, kind in IMAGES.items()}
NORMALIZE = {name: normalize_values.variant(IMAGE=kind) for name, kind in IMAGES.items()}
NORMALIZE_FOURS = {
    "uint8": normalize_fours.variant(IMAGE=uint32, WORD_OF_BYTES=True),
    "float32": normalize_fours.variant(IMAGE=float32, WORD_OF_BYTES=False),
}


def affine(images, matrices, scale, y):
    n, h, w, c = images.shape
    if images.size:
        grid = blocks_for(h * w, THREADS), min(n, MOST_BLOCKS)
        AFFINE[images.dtype.name][grid, THREADS](images, matrices, scale, y, Size(n, h, w, c))


def shift_crop(images, shifts, flips, repeat, y):
    n, h, w, c = images.shape
    if images.size:
        block = WARP, THREADS // WARP
        grid = blocks_for(w * c, block[0]), blocks_for(n * h, block[1], MOST_BLOCKS)
        SHIFT[images.itemsize][grid, block](images, shifts, flips, int(repeat), y, Size(n, h, w, c))


def brightness_contrast(images, brightness, contrast, scale, y):
    n = images.shape[0]
    if images.size:
        ADJUST[images.dtype.name][n, IMAGE_THREADS](images, brightness, contrast, scale, y, images.size // n)


def normalize(images, shift, gain, y):
    n, c = images.size, images.shape[3]
    if n == 0:
        return
    kernel = NORMALIZE_FOURS.get(images.dtype.name)
    fits = n % 4 == 0 and images.pointer % (4 * images.itemsize) == 0 and y.pointer % 16 == 0
    if kernel and fits and y.dtype == FLOAT32:
        kernel[blocks_for(n // 4, THREADS), THREADS](images, shift, gain, y, n // 4, c)
    else:
        NORMALIZE[images.dtype.name][blocks_for(n, THREADS), THREADS](images, shift, gain, y, n, c)
