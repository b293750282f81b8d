"""Micro-kernels of pooling as LLVM vector code: what a window, or the windows of a pixel, come to, in registers.

    max_run      largest element of a window, and where it was       won_run      its gradient
    mean_run     mean of a window                                    share_run    its gradient

Each does so for a run, elements that lie one behind the other and whose windows have the same shape: the channels of a
pixel, or of several pixels. Windows are walked in row-major order. Sums are in the type of the data: over a row of the
window first, then over the rows. No memory outside the run and its windows is touched.

Arrays are given by the addresses of the run's first element: of x, in the first pixel of its window; of dy and winner, in
the first of the pixel's windows. Windows, or the windows of a pixel, are rows x columns, both at least 1. Steps are in
elements.
"""

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.values import join, minimum, where

VECTORS = 4  # registers of a run that are computed together
UNROLLED = 3  # columns of a window for which there is code without a loop: 3 x 3 is what networks pool over


def by_columns(code, call, columns):
    """The function that is unrolled for the window's number of columns, or the one with a loop."""
    for unrolled in code.first_case({UNROLLED: columns == UNROLLED, 0: True}):
        call(unrolled=unrolled)


def by_columns_of(code, call, stored, columns):
    """The same, with places of a type."""
    by_columns(code, lambda unrolled: call(stored=stored, unrolled=unrolled), columns)


def with_care_for_nan(code, call, stored, nan, columns):
    """The function for elements among which there may be a NaN, or the others."""
    for careful in code.first_case({True: nan, False: True}):
        if careful:
            call(stored=stored, nan=True, unrolled=0)
        else:
            by_columns(code, lambda unrolled: call(stored=stored, nan=False, unrolled=unrolled), columns)


class Piece:
    """Part of a run: some registers from element `start` on, of the last only the lanes of the mask.

    It goes through a window register by register: all of them in each step would be more than the CPU has.
    """

    def __init__(self, code, start, vectors, mask=None):
        self.code, self.start, self.vectors, self.mask = code, start, vectors, mask

    def __iter__(self):
        return (Piece(self.code, self.start + j * self.code.lanes, 1, self.mask) for j in range(self.vectors))

    def load(self, array, distance, stored=None):
        """What lies so many elements further on than the piece."""
        return self.code.load(self.address(array, self.start + distance, stored), self.mask, self.vectors, stored)

    def store(self, value, array, stored=None):
        """Write the piece."""
        self.code.store(value, self.address(array, self.start, stored), self.mask, stored)

    def address(self, array, element, stored):
        """Where an element of an array is."""
        return array + element * (stored.bitwidth // 8 if stored else self.code.bytes)

    def everywhere(self, value):
        """A value in all lanes of all registers."""
        return join([self.code.everywhere(value)] * self.vectors)


def pieces(code, length):
    """The pieces of a run: of VECTORS registers, or of one in a short run.

    The last begins where it is full; what it shares with the one before is computed twice, to the same bits. What is
    shorter than a register is masked.
    """
    cases = {0: length < code.lanes, 1: length < VECTORS * code.lanes, VECTORS: True}
    for vectors in code.first_case(cases):
        if vectors == 0:
            yield Piece(code, code.index(0), 1, code.first_lanes(length))
        else:
            size = vectors * code.lanes
            for piece in code.loop((length + (size - 1)) // size):
                yield Piece(code, minimum(piece.number * size, length - size), vectors)


@micro_kernel(with_care_for_nan)
def max_run(
    code, x, row_step, rows, column_step, columns, place, width, length, y, winner, *, stored, nan, unrolled
):  # fmt: skip
    """y = largest of x over a window, winner = its place, which is counted from `place` on, `width` to a row.

    `nan` tells that there may be a NaN among the elements: it takes a second comparison to let the first one win.
    """
    for piece in pieces(code, length):
        start = {"largest": piece.everywhere(-float("inf")), "winner": piece.everywhere(place)}
        for row in code.loop(rows, at_least=1, **start):
            row_place = code.everywhere(place + row.number * width)
            for tap in code.loop(unrolled or columns, at_least=1, largest=row.largest, winner=row.winner):
                here = row_place + code.everywhere(tap.number)
                results = []
                for part, largest, winner_so_far in zip(piece, tap.largest, tap.winner, strict=True):
                    u = part.load(x, row.number * row_step + tap.number * column_step)
                    better = u > largest
                    if nan:  # better than any number, and nothing better than the first
                        better = ~(u <= largest) & (largest == largest)
                    results.append((where(better, u, largest), where(better, here, winner_so_far)))
                tap.largest, tap.winner = map(join, zip(*results, strict=True))
            row.largest, row.winner = tap.largest, tap.winner
        piece.store(row.largest, y)
        piece.store(row.winner, winner, stored)


@micro_kernel(by_columns_of)
def won_run(
    code, dy, winner, row_step, rows, column_step, columns, place, down, across, length, dx, *, stored, unrolled
):  # fmt: skip
    """dx = sum of dy over those of rows x columns windows whose winner is this pixel.

    The pixel's place in the first window is `place`; it falls by `down` with every row of windows, and by `across` with
    every column.
    """

    def won(piece, row, column):
        distance = row * row_step + column * column_step
        own_place = code.everywhere(place - (row * down + column * across))
        return where(piece.load(winner, distance, stored) == own_place, piece.load(dy, distance), 0)

    sum_run(code, rows, unrolled or columns, length, dx, won)


@micro_kernel(by_columns)
def mean_run(code, x, row_step, rows, column_step, columns, length, y, *, unrolled):
    """y = mean of x over a window."""

    def pixel(piece, row, column):
        return piece.load(x, row * row_step + column * column_step)

    count = code.everywhere((rows * columns).to(code.scalar))
    sum_run(code, rows, unrolled or columns, length, y, pixel, count)


@micro_kernel(by_columns)
def share_run(code, dy, row_step, rows, column_step, columns, weights, weights_step, length, dx, *, unrolled):
    """dx = sum of dy times its window's weight over rows x columns windows.

    weights is the address of the first window's weight, weights_step the elements from one row of windows to the next.
    """

    def share(piece, row, column):
        weight = code.broadcast(weights + (row * weights_step + column) * code.bytes)
        return piece.load(dy, row * row_step + column * column_step) * weight

    sum_run(code, rows, unrolled or columns, length, dx, share)


def sum_run(code, rows, columns, length, result, term, divisor=None):
    """result = sum of term(piece, row, column), divided by `divisor` if there is one, for all pieces of a run."""
    for piece in pieces(code, length):
        zeros = code.everywhere(0.0, piece.vectors)
        for row in code.loop(rows, at_least=1, total=zeros):
            for tap in code.loop(columns, at_least=1, total=zeros):
                terms = (term(part, row.number, tap.number) for part in piece)
                tap.total = join([total + one for total, one in zip(tap.total, terms, strict=True)])
            row.total += tap.total
        piece.store(row.total if divisor is None else row.total / divisor, result)
