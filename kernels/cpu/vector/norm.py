"""Micro-kernels of batch normalization as LLVM vector code: sums over rows, and the rows themselves.

    column_sums        over the rows of a chunk, kept in registers: the sums of dz and of dz (x - mean),
                       or those of x - shift and of its square
    normalized_rows    y = (x - mean) scale + beta, and ReLU of that
    gradient_rows      dx = scale dz + slope (x - mean) + offset

dz is the gradient before the activation: dy itself, dy where ReLU let x through, or dy y (1 - y) for sigmoid. All walk
down a strip of up to MAX_VECTORS registers' columns, whose coefficients stay in registers on the way, and ask the cache for
the rows to come: columns of a wide matrix are too far apart for the CPU to guess them all. They take addresses and steps in
bytes, of the strip's first elements; dy and y have the same step, and dx that of x. Of the last register only `lanes`
elements count.

The coefficients come as a table (6, c): the mean as a float and the remainder, scale, beta, slope and offset.
"""

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.tiles import WIDTHS
from minigrad.kernels.cpu.vector.values import fma, join, where

DEVIATION = 3  # in place of an activation, for column_sums: dz is x - shift too; the table is one row, the shift
HIGH, LOW, SCALE, BETA, SLOPE, OFFSET = range(6)  # rows of the table
AHEAD = 8  # rows from the one at work to the one that the cache is asked for
UNROLLED = 4  # rows that are added to each other before they are added to the sums


def strips(*activations):
    """A choice of the function for a width and an activation."""

    def choose(code, call, vectors, activation):
        for number in code.first_case({number: activation == number for number in activations}):
            for width in code.first_case({width: vectors == width for width in WIDTHS}):
                call(width=width, activation=number)

    return choose


class Strip:
    """A strip's coefficients in registers, and the formulas for a row of it."""

    def __init__(self, code, width, activation, table, table_step, lanes):
        self.code, self.width, self.activation = code, width, activation
        self.mask = code.first_lanes(lanes)
        given = 1 if activation == DEVIATION else 6
        self.coefficients = [self.load(table + k * table_step) for k in range(given)]

    def load(self, address):
        """A row."""
        return self.code.load(address, self.mask, self.width)

    def store(self, row, address):
        """Write a row."""
        self.code.store(row, address, self.mask)

    def ask_for(self, address, step):
        """Ask the cache for the row AHEAD rows further on."""
        for j in range(self.width):
            self.code.prefetch(address + step * AHEAD + j * self.code.width)

    def deviation(self, x):
        """x - mean of the row at an address, but for the mean's remainder."""
        return self.load(x) - self.coefficients[HIGH]

    def normalized(self, far):
        """(x - mean) scale + beta, from the deviation."""
        return fma(far - self.coefficients[LOW], self.coefficients[SCALE], self.coefficients[BETA])

    def gradient(self, dy, x, y):
        """(dz, x - mean) of the row at these addresses."""
        far = self.deviation(x)
        if self.activation == DEVIATION:
            return far, far
        dz = self.load(dy)
        if self.activation == RELU:
            dz = where(self.normalized(far) <= 0, 0, dz)
        elif self.activation == SIGMOID:
            dz = join([g * v * (1 - v) for g, v in zip(dz, self.load(y), strict=True)])
        return dz, far


@micro_kernel(strips(IDENTITY, RELU, SIGMOID, DEVIATION))
def column_sums(
    code, dy, x, y, wide_step, x_step, rows, table, table_step, first, second, lanes, *, width, activation
):  # fmt: skip
    """first = sum of dz, second = sum of dz (x - mean) over `rows` rows, for the columns of a strip; or see DEVIATION."""
    strip = Strip(code, width, activation, table, table_step, lanes)
    zeros = code.everywhere(0.0, width)
    values = {"first": zeros, "second": zeros, "dy": dy, "x": x, "y": y}
    # UNROLLED rows at a time, then the rest one by one.
    for count, rounds in ((UNROLLED, rows // UNROLLED), (1, rows % UNROLLED)):
        for row in code.loop(rounds, **values):
            # 1. The terms of `count` rows.
            terms = []
            for _ in range(count):
                strip.ask_for(row.x, x_step)
                if activation != DEVIATION:
                    strip.ask_for(row.dy, wide_step)
                terms.append(strip.gradient(row.dy, row.x, row.y))
                row.dy, row.x, row.y = row.dy + wide_step, row.x + x_step, row.y + wide_step
            # 2. They are added to each other first: short chains wait less, and round less, than a long one. Register by
            # register, since all sums of all registers at once would be too many for the CPU.
            parts = [[(dz[j], far[j]) for dz, far in terms] for j in range(width)]
            row.first = join([row.first[j] + tree([dz for dz, _ in part]) for j, part in enumerate(parts)])
            row.second = join([row.second[j] + dot(part) for j, part in enumerate(parts)])
        values = vars(row)
    strip.store(row.first, first)
    strip.store(row.second, second)


def dot(rows):
    """The sum of dz (x - mean) over rows, two by two, then as a tree."""
    sums = []
    for k in range(0, len(rows), 2):
        (dz, far), *second = rows[k : k + 2]
        sums.append(fma(*second[0], dz * far) if second else dz * far)
    return tree(sums)


def tree(values):
    """The sum of values, neighbours first."""
    while len(values) > 1:
        left_over = values[len(values) // 2 * 2 :]
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + left_over
    return values[0]


@micro_kernel(strips(IDENTITY, RELU))
def normalized_rows(code, x, y, wide_step, x_step, rows, table, table_step, lanes, *, width, activation):
    """y = (x - mean) scale + beta, or ReLU of that, for the columns of a strip of `rows` rows."""
    strip = Strip(code, width, activation, table, table_step, lanes)
    for row in code.loop(rows, at_least=1, x=x, y=y):
        strip.ask_for(row.x, x_step)
        strip.ask_for(row.y, wide_step)
        z = strip.normalized(strip.deviation(row.x))
        strip.store(where(z <= 0, 0, z) if activation == RELU else z, row.y)
        row.x += x_step
        row.y += wide_step


@micro_kernel(strips(IDENTITY, RELU, SIGMOID))
def gradient_rows(code, dy, x, y, wide_step, x_step, rows, table, table_step, dx, lanes, *, width, activation):
    """dx = scale dz + (slope (x - mean) + offset) for the columns of a strip of `rows` rows."""
    strip = Strip(code, width, activation, table, table_step, lanes)
    *_, slope, offset = strip.coefficients
    scale = strip.coefficients[SCALE]
    for row in code.loop(rows, at_least=1, dy=dy, x=x, y=y, dx=dx):
        strip.ask_for(row.dy, wide_step)
        strip.ask_for(row.x, x_step)
        strip.ask_for(row.dx, x_step)
        dz, far = strip.gradient(row.dy, row.x, row.y)
        strip.store(fma(scale, dz, fma(slope, far, offset)), row.dx)
        row.dy, row.x, row.y, row.dx = row.dy + wide_step, row.x + x_step, row.y + wide_step, row.dx + x_step
