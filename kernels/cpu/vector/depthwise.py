"""Micro-kernels of depthwise convolution as LLVM vector code: channels in the lanes, some neighbouring pixels at once.

    weighted_run      y[pixel] = start + sum over the taps of x[pixel, tap] w[tap]
    correlated_run    sums[tap] += sum over the pixels of x[pixel, tap] dy[pixel]

Both work on a run: pixels of one row that meet the same taps, at the same distances. Where the taps of a row are three that
lie side by side, and pixels one or two apart, code without a loop loads what neighbouring pixels share once; for other
windows there is a loop. Steps and addresses are in bytes, `length` is the number of channels.
"""

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.target import REGISTERS
from minigrad.kernels.cpu.vector.values import fma, join, minimum

PIXELS = 8 if REGISTERS >= 32 else 4  # of a result that are summed up together
MET = 4  # pixels whose products are added to all sums together
UNROLLED = 3  # taps of a row for which there is code without a loop


def by_window(code, call, columns, column_step, pixel_step, length, *, known=None):
    """The function that is unrolled for taps side by side and pixels one or two apart, or the one with loops."""
    three = columns == UNROLLED if known is None else (columns == UNROLLED) & known
    ways = {
        (UNROLLED, 1): three & (pixel_step == column_step),
        (UNROLLED, 2): three & (pixel_step == column_step * 2),
        (0, 0): True,
    }
    for masked in code.first_case({True: length % code.lanes > 0, False: True}):
        for unrolled, apart in code.first_case(ways):
            call(unrolled=unrolled, apart=apart, masked=masked)


def by_square_window(code, call, rows, columns, column_step, pixel_step, length):
    """The same, unrolled for as many rows of taps too."""
    by_window(code, call, columns, column_step, pixel_step, length, known=rows == UNROLLED)


def blocks(code, count):
    """(first pixel, pixels) of the blocks of a run. The last begins where it is full; what it shares is computed twice."""
    for size in code.first_case({PIXELS: count >= PIXELS, PIXELS // 2: count >= PIXELS // 2, 1: True}):
        for block in code.loop((count + (size - 1)) // size, at_least=1):
            yield minimum(block.number * size, count - size), size


def vectors(code, length, masked):
    """(distance, mask) of the registers that hold a pixel's channels."""
    for vector in code.loop((length + (code.lanes - 1)) // code.lanes, at_least=1):
        start = vector.number * code.lanes
        yield start * code.bytes, code.first_lanes(length - start) if masked else None


def products(code, x, column_step, weights, pixels, apart, totals, mask):
    """totals[j] plus the products of pixel j with taps side by side; each pixel is loaded once."""
    seen = {}
    for b, weight in enumerate(weights):
        for j in range(pixels):
            place = j * apart + b
            if place not in seen:
                seen[place] = code.load(x + column_step * place, mask)
            totals[j] = fma(seen[place], weight, totals[j])


@micro_kernel(by_window)
def weighted_run(
    code, x, pixel_step, row_step, rows, column_step, columns, w, w_row_step, w_column_step, start, y, y_step, count,
    length, *, unrolled, apart, masked,
):  # fmt: skip
    """y = start + sum over rows x columns taps of x w, for `count` pixels."""
    for first, pixels in blocks(code, count):
        for distance, mask in vectors(code, length, masked):
            begin = join([code.load(start + distance, mask)] * pixels)
            for row in code.loop(rows, total=begin):
                here = x + distance + first * pixel_step + row.number * row_step
                weights = w + distance + row.number * w_row_step
                if unrolled:
                    row_weights = [code.load(weights + w_column_step * b, mask) for b in range(unrolled)]
                    totals = list(row.total)
                    products(code, here, column_step, row_weights, pixels, apart, totals, mask)
                    row.total = join(totals)
                else:
                    for tap in code.loop(columns, total=row.total, here=here, weights=weights):
                        weight = code.load(tap.weights, mask)
                        tap.total = join([
                            fma(code.load(tap.here + pixel_step * j, mask), weight, total)
                            for j, total in enumerate(tap.total)
                        ])  # fmt: skip
                        tap.here += column_step
                        tap.weights += w_column_step
                    row.total = tap.total
            for j, total in enumerate(row.total):
                code.store(total, y + distance + (first + j) * y_step, mask)


@micro_kernel(by_square_window)
def correlated_run(
    code, x, pixel_step, row_step, rows, column_step, columns, dy, dy_step, sums, sums_row_step, sums_column_step, count,
    length, *, unrolled, apart, masked,
):  # fmt: skip
    """sums += sum over `count` pixels of x dy, at rows x columns taps."""
    for distance, mask in vectors(code, length, masked):
        if (
            unrolled
        ):  # the sums of all taps stay in registers while the pixels pass, MET at a time, then the rest one by one
            places = [
                sums + distance + sums_row_step * a + sums_column_step * b
                for a in range(unrolled) for b in range(unrolled)
            ]  # fmt: skip
            state = join([code.load(place, mask) for place in places])
            here = {"x": x + distance, "dy": dy + distance, "total": state}
            for block in code.loop(count // MET, **here):
                add_products(code, block, MET, pixel_step, row_step, column_step, dy_step, unrolled, apart, mask)
            left = {"x": block.x, "dy": block.dy, "total": block.total}
            for pixel in code.loop(count % MET, **left):
                add_products(code, pixel, 1, pixel_step, row_step, column_step, dy_step, unrolled, apart, mask)
            for place, total in zip(places, pixel.total, strict=True):
                code.store(total, place, mask)
        else:  # tap by tap, all pixels each time: MET sums that do not wait for one another, added up at the end
            for row in code.loop(rows):
                for tap in code.loop(columns):
                    place = sums + distance + row.number * sums_row_step + tap.number * sums_column_step
                    met = x + distance + row.number * row_step + tap.number * column_step
                    zeros = code.everywhere(0.0, MET)
                    for block in code.loop(count // MET, x=met, dy=dy + distance, total=zeros):
                        block.total = join([
                            fma(code.load(block.x + pixel_step * j, mask), code.load(block.dy + dy_step * j, mask), total)
                            for j, total in enumerate(block.total)
                        ])  # fmt: skip
                        block.x += pixel_step * MET
                        block.dy += dy_step * MET
                    a, b, c, d = block.total
                    total = code.load(place, mask) + ((a + b) + (c + d))
                    for pixel in code.loop(count % MET, x=block.x, dy=block.dy, total=total):
                        pixel.total = fma(code.load(pixel.x, mask), code.load(pixel.dy, mask), pixel.total)
                        pixel.x += pixel_step
                        pixel.dy += dy_step
                    code.store(pixel.total, place, mask)


def add_products(code, state, pixels, pixel_step, row_step, column_step, dy_step, taps, apart, mask):
    """state.total plus the products of some pixels at taps x taps taps; state.x and state.dy go on to the next ones."""
    gradients = [code.load(state.dy + dy_step * j, mask) for j in range(pixels)]
    totals = list(state.total)
    for a in range(taps):
        seen = {}
        for j in range(pixels):
            for b in range(taps):
                place = j * apart + b
                if place not in seen:
                    seen[place] = code.load(state.x + row_step * a + column_step * place, mask)
                totals[a * taps + b] = fma(seen[place], gradients[j], totals[a * taps + b])
    state.total = join(totals)
    state.x += pixel_step * pixels
    state.dy += dy_step * pixels
