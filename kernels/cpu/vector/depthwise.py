"""Micro-kernels of depthwise convolution as LLVM vector code: channels in the lanes, some neighbouring pixels at once.

    weighted_run      y[pixel] = start + sum over the taps of x[pixel, tap] w[tap]
    correlated_run    sums[tap] += sum over the pixels of x[pixel, tap] dy[pixel]

Both work on a run: pixels of one row that meet the same taps, at the same distances. Where the taps of a row are two or three
that lie side by side, and pixels one or two apart, code without a loop loads what neighbouring pixels share once; for other
windows there is a loop. Steps and addresses are in bytes, `length` is the number of channels.

A register holds some channels of a pixel, so what lies in memory one behind the other is worked on crosswise, which the
processor does not see through. So the code without a loop asks the cache for what the next row will need, line by line in
the order of memory: each register of each block of pixels for as many lines as it has worked on.
"""

import functools
from typing import NamedTuple

from minigrad.kernels.cpu.vector.code import VectorCode, micro_kernel
from minigrad.kernels.cpu.vector.copies import LINE
from minigrad.kernels.cpu.vector.target import REGISTERS
from minigrad.kernels.cpu.vector.values import Value, fma, join, minimum, where

PIXELS = 8 if REGISTERS >= 32 else 4  # of a result that are summed up together
MET = 4  # pixels whose products are added to all sums together
SIDES = (3, 2)  # taps of a row for which there is code without a loop: a window, and at an edge what is left of it


def by_window(code, call, columns, column_step, pixel_step, length):
    """The function that is unrolled for taps side by side and pixels one or two apart, or the one with loops."""
    ways = {
        (3, 1): (columns == 3) & (pixel_step == column_step),
        (3, 2): (columns == 3) & (pixel_step == column_step * 2),
        (2, 1): (columns == 2) & (pixel_step == column_step),
        (0, 0): True,
    }
    for masked in code.first_case({True: length % code.lanes > 0, False: True}):
        for unrolled, apart in code.first_case(ways):
            call(unrolled=unrolled, apart=apart, masked=masked)


def by_square_window(code, call, rows, columns, column_step, pixel_step, length, dy_rows):
    """The same, unrolled for rows of taps too, and for two rows of dy."""
    near, far = pixel_step == column_step, pixel_step == column_step * 2
    ways = {(3, 3, 1, 2): (rows == 3) & (columns == 3) & near & (dy_rows == 2)}
    for apart, steps in ((1, near), (2, far)):
        ways |= {
            (a, b, apart, 1): (rows == a) & (columns == b) & steps for a in SIDES for b in SIDES if b == 3 or apart == 1
        }
    for masked in code.first_case({True: length % code.lanes > 0, False: True}):
        for height, width, apart, together in code.first_case({**ways, (0, 0, 0, 1): True}):
            call(height=height, width=width, apart=apart, together=together, masked=masked)


def blocks(code, count):
    """(first pixel, pixels) of the blocks of a run. One may begin too early: what it shares is computed twice."""
    done = code.index(0)
    for size in (PIXELS, PIXELS // 2, 1):
        # A block that would be filled by less than half is left to smaller ones.
        several = where(count >= size, (count - done + (size - 1) // 2) // size, 0)
        for block in code.loop(several):
            yield minimum(done + block.number * size, count - size), size
        done = minimum(done + several * size, count)


def vectors(code, length, masked):
    """(distance, mask) of the registers that hold a pixel's channels."""
    for vector in code.loop((length + (code.lanes - 1)) // code.lanes, at_least=1):
        start = vector.number * code.lanes
        yield start * code.bytes, code.first_lanes(length - start) if masked else None


def fetch(code, address, length):
    """Ask the second-level cache for some bytes; the first one holds what is worked on now."""
    for line in range(0, length, LINE):
        code.prefetch(address + line, level=2)


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
    code, x, pixel_step, row_step, rows, column_step, columns, w, w_row_step, w_column_step, start, y, y_step, y_row_step,
    count, length, *, unrolled, apart, masked,
):  # fmt: skip
    """y = start + sum over rows x columns taps of x w, for `count` pixels."""
    for first, pixels in blocks(code, count):
        for distance, mask in vectors(code, length, masked):
            if unrolled:  # the rows that the next one meets first, and where that goes
                for row in range(apart):
                    coming = x + (rows + row) * row_step + first * pixel_step
                    fetch(code, coming + distance * (pixels * apart), pixels * apart * code.width)
                fetch(code, y + y_row_step + first * y_step + distance * pixels, pixels * code.width)
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
    code, x, pixel_step, row_step, rows, column_step, columns, dy, dy_step, dy_row_step, dy_rows, sums, sums_row_step,
    sums_column_step, count, length, *, height, width, apart, together, masked,
):  # fmt: skip
    """sums += sum over `count` pixels of x dy, at rows x columns taps, and the same of a second row if `dy_rows` is 2.

    That is one further down in x as well, and both meet three rows of three taps side by side, pixels one apart.
    """
    for distance, mask in vectors(code, length, masked):
        if height:  # the sums of all taps stay in registers while pixels pass, MET at a time, then the rest one by one
            places = [
                sums + distance + sums_row_step * a + sums_column_step * b for a in range(height) for b in range(width)
            ]
            met = Met(
                code, pixel_step, row_step, column_step, dy_step, dy_row_step, height, width, apart, together, mask
            )
            here = {"x": x + distance, "dy": dy + distance, "total": join([code.load(place, mask) for place in places])}
            # The rows of x and dy that come next, of which each register asks for its share.
            here["coming_x"] = x + row_step * (height + together - 1) + distance * count * apart
            here["coming_dy"] = dy + dy_row_step * together + distance * count
            for block in code.loop(count // MET, **here):
                met.add_products(block, MET)
            for pixel in code.loop(count % MET, **{name: getattr(block, name) for name in here}):
                met.add_products(pixel, 1)
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


class Met(NamedTuple):
    """How pixels of dy meet x at height x width taps, in one row of dy or in two `together`."""

    code: VectorCode
    pixel_step: Value
    row_step: Value
    column_step: Value
    dy_step: Value
    dy_row_step: Value
    height: int
    width: int
    apart: int
    together: int
    mask: Value | None

    def add_products(self, state, pixels):
        """state.total plus the products of some pixels; the addresses of `state` go on to the next ones."""
        code = self.code
        gradients = [
            [code.load(state.dy + self.dy_row_step * r + self.dy_step * j, self.mask) for j in range(pixels)]
            for r in range(self.together)
        ]
        totals = list(state.total)
        for row in range(self.height + self.together - 1):
            seen = functools.cache(
                lambda place, row=row: code.load(state.x + self.row_step * row + self.column_step * place, self.mask)
            )
            for r in range(self.together):
                a = row - r
                if 0 <= a < self.height:
                    for j in range(pixels):
                        for b in range(self.width):
                            totals[a * self.width + b] = fma(
                                seen(j * self.apart + b), gradients[r][j], totals[a * self.width + b]
                            )
        state.total = join(totals)
        share = pixels * code.width
        for row in range(max(self.apart, self.together)):
            fetch(code, state.coming_x + self.row_step * row, share * self.apart)
        for r in range(self.together):
            fetch(code, state.coming_dy + self.dy_row_step * r, share)
        state.coming_x += share * self.apart
        state.coming_dy += share
        state.x += self.pixel_step * pixels
        state.dy += self.dy_step * pixels
