"""The tile of a matrix product that a block computes, for matrices and for convolutions.

A block computes the rows x columns elements of a TILE of the result, a thread height x width of them in registers. It goes
along the shared depth in steps: while the threads multiply one tile of each factor out of shared memory, they have the loads
of the next on their way into registers, and write them to a second buffer: one barrier a step. Per depth a thread reads height
+ width numbers, 16 bytes at a time, and does height * width multiply-adds: 64 for 4 reads in the largest tile, which keeps the
arithmetic and not the shared memory busy (reckoned, not measured). The 32 threads of a warp are 4 x 8: the reads of a
warp then touch 64 and 128 neighbouring bytes, without bank conflicts. Rows of shared memory are 4 numbers longer than the
tile, so that the writes of a tile that is turned while it is stored spread over the banks: all at once, but in two turns
where it is 32 deep.
"""

from typing import Any, NamedTuple

from minigrad.kernels.cuda.parts.factors import READ4, WRITE4, fetch, four, number, own_group, own_lines, put, put_four
from minigrad.kernels.cuda.tools.language import Choice, at, cuda, device_function, int64, real, uint32, uint64


class TileSize(NamedTuple):
    """The size of a block's tile, and of a thread's (float32, float64) or a warp's (TF32, bfloat16)."""

    rows: int
    columns: int
    depth: int
    height: int
    width: int
    threads: int
    min_blocks: int  # on a multiprocessor at once
    cost: float  # of an element of the result, compared with the largest tile; reckoned, not measured
    stages: int = 2  # buffers of shared memory
    parts: int = 0  # of bfloat16 that a number becomes there: 1, rounded, or 2, high and low; 0: it stays float32

    @property
    def is_of_warps(self):
        """Whether height and width are a warp's, on tensor cores."""
        return self.rows * self.columns * 32 == self.threads * self.height * self.width

    def constants(self, dtype="float32"):
        """What a kernel's names in capitals stand for."""
        return {"TILE": self, **({"READ4": four, "WRITE4": put_four} if dtype == "float64" else {})}

    def step(self, deep, size):
        """How far a thread's depth advances from load to load, of a factor of `size` lines in a tile."""
        return self.depth if deep else self.threads * 4 // size

    def __str__(self):
        size = f"{self.rows}x{self.columns}x{self.depth}" + (f"x{self.stages}" if self.is_of_warps else "")
        return f"{size}-split" if self.parts == 2 else size


class Result(NamedTuple):
    """Where a block puts its tile of the product, for `flags` to tell what of it is wanted."""

    bias: Any  # n of them
    c: Any  # m x n
    step: Any  # from the C of a part, or of a batch's product, to the next
    m: Any
    n: Any
    across: Any  # tiles along a row
    flags: Any


TILE = Choice("TILE")  # one of those in plans.py
A_DEEP, B_DEEP = Choice("A_DEEP"), Choice("B_DEEP")  # in which order the factors lie in memory
WIDE_A, WIDE_B, WIDE_C, HAS_BIAS, ADDS = (
    1,
    2,
    4,
    8,
    16,
)  # flags of a launch: 16-byte accesses, bias, C += instead of C =
BIAS_FLAG, ADDS_FLAG = (
    Choice("HAS_BIAS", HAS_BIAS),
    Choice("ADDS", ADDS),
)  # 0 in kernels that are never launched with it


@device_function
def add4(c, start, column, inside, n, wide, sums, s):
    """To four sums those of C, as far as it goes."""
    if inside:
        if wide:
            before = READ4(c, uint32(start + column))
            sums[s] += before[0]
            sums[s + 1] += before[1]
            sums[s + 2] += before[2]
            sums[s + 3] += before[3]
        else:
            for e in range(4):
                if uint32(column + uint32(e)) < n:
                    sums[s + e] += c[uint32(start + column + uint32(e))]


@device_function
def store4_or_less(c, start, column, inside, n, wide, sums, s):
    """Four sums to C, as far as it goes."""
    if inside:
        if wide:
            WRITE4(c, uint32(start + column), sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
        else:
            for e in range(4):
                if uint32(column + uint32(e)) < n:
                    c[uint32(start + column + uint32(e))] = sums[s + e]


@device_function
def finish_row(c, result, row, sums, first, first_column, groups, column_step):
    """sums[first] and those after it to C: of a row `groups` times four columns."""
    m, n, flags = result.m, result.n, result.flags
    wide = (flags & uint32(WIDE_C)) != uint32(0)
    start = uint32(row * n)
    if flags & uint32(ADDS_FLAG):
        for j in range(groups):
            column = uint32(first_column + uint32(j * column_step))
            add4(c, start, column, (row < m) & (column < n), n, wide, sums, first + 4 * j)
    for j in range(groups):
        column = uint32(first_column + uint32(j * column_step))
        store4_or_less(c, start, column, (row < m) & (column < n), n, wide, sums, first + 4 * j)


@device_function
def finish_rows(c, result, sums, first, row, step, column, groups, column_step):
    """Four rows, `step` apart; written out, for the compiler would not unroll a loop and keep the sums in registers."""
    finish_row(c, result, row, sums, first, column, groups, column_step)
    finish_row(c, result, uint32(row + uint32(step)), sums, first + 4 * groups, column, groups, column_step)
    finish_row(c, result, uint32(row + uint32(2 * step)), sums, first + 8 * groups, column, groups, column_step)
    finish_row(c, result, uint32(row + uint32(3 * step)), sums, first + 12 * groups, column, groups, column_step)


@device_function
def add_bias(result, sums, rows, first_column, groups, column_step):
    """To each sum the bias of its column."""
    for j in range(groups):
        for e in range(4):
            column = uint32(first_column + uint32(j * column_step + e))
            value = real(0)
            if column < result.n:
                value = result.bias[column]
            for i in range(rows):
                sums[4 * (i * groups + j) + e] += value


@device_function
def multiply_depth(shared, left, right, sums):
    """Add the product of a column of A and a row of B."""
    a = cuda.local.array(8, real)
    b = cuda.local.array(8, real)
    for i in range(TILE.height // 4):
        v = READ4(shared, left + i * (TILE.rows * 4 // TILE.height))
        a[4 * i] = v[0]
        a[4 * i + 1] = v[1]
        a[4 * i + 2] = v[2]
        a[4 * i + 3] = v[3]
    for j in range(TILE.width // 4):
        v = READ4(shared, right + j * (TILE.columns * 4 // TILE.width))
        b[4 * j] = v[0]
        b[4 * j + 1] = v[1]
        b[4 * j + 2] = v[2]
        b[4 * j + 3] = v[3]
    for i in range(TILE.height):
        for j in range(TILE.width):
            sums[i * TILE.width + j] += a[i] * b[j]


@device_function
def multiply_tile(shared, left, right, sums):
    """Add the product of two tiles, which begin at `left` and `right` for this thread.

    Eight depths are written out: so many reads and multiply-adds the compiler puts into an order that hides the reads.
    """
    p, q = TILE.rows + 4, TILE.columns + 4
    for _ in range(TILE.depth // 8):
        multiply_depth(shared, left, right, sums)
        multiply_depth(shared, left + p, right + q, sums)
        multiply_depth(shared, left + 2 * p, right + 2 * q, sums)
        multiply_depth(shared, left + 3 * p, right + 3 * q, sums)
        multiply_depth(shared, left + 4 * p, right + 4 * q, sums)
        multiply_depth(shared, left + 5 * p, right + 5 * q, sums)
        multiply_depth(shared, left + 6 * p, right + 6 * q, sums)
        multiply_depth(shared, left + 7 * p, right + 7 * q, sums)
        left = left + 8 * p
        right = right + 8 * q


@device_function
def tile_corner(across):
    """(first row, first column) of the block's tile; tiles are numbered along the rows, `across` in each."""
    tile = uint32(cuda.blockIdx.x)
    return uint32(tile // across * uint32(TILE.rows)), uint32(tile % across * uint32(TILE.columns))


@device_function
def own_share(factor, first, begin, deep, size, most, lines):
    """What a thread loads of a factor's tile of `size` lines from `first` on: the digits of its lines to `lines`.

    Gives (line, depth) of its first group of four in the tile, that depth as a number from `begin` on, how many groups it loads
    and how far apart they are. A warp has at most so many lines together (see own_group).
    """
    loads, apart = size * TILE.depth // 4 // TILE.threads, TILE.threads * 4 // (TILE.depth if deep else size)
    line, k = own_group(uint32(cuda.threadIdx.x), deep, size, TILE.depth, min(most, apart))
    own_lines(factor, uint32(first + line), deep, apart, loads, lines)
    return line, k, number(uint32(begin + k), factor.depths), loads, apart


@device_function
def product(a, place_a, factor_a, b, place_b, factor_b, result, begin, end):
    """The block's tile of C = A B, over depths begin to end."""
    flags = result.flags
    pitch_a, pitch_b = TILE.rows + 4, TILE.columns + 4
    shared = cuda.shared.array(0, real, 16)
    buffer = TILE.depth * (pitch_a + pitch_b)
    sums = cuda.local.array(64, real)
    values_a = cuda.local.array(16, real)
    values_b = cuda.local.array(16, real)
    lines_a = cuda.local.array(12, uint32)
    lines_b = cuda.local.array(12, uint32)

    thread = uint32(cuda.threadIdx.x)
    first_row, first_column = tile_corner(result.across)
    line_a, k_a, depth_a, loads_a, apart_a = own_share(factor_a, first_row, begin, A_DEEP, TILE.rows, 16, lines_a)
    line_b, k_b, depth_b, loads_b, apart_b = own_share(factor_b, first_column, begin, B_DEEP, TILE.columns, 16, lines_b)
    to_a = uint32(k_a * uint32(pitch_a) + line_a)
    to_b = uint32(k_b * uint32(pitch_b) + line_b + uint32(TILE.depth * pitch_a))

    lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
    warps = uint32(TILE.columns // TILE.width // 8)
    row = uint32((warp // warps * uint32(4) + (lane >> uint32(3))) * uint32(4))
    column = uint32((warp % warps * uint32(8) + (lane & uint32(7))) * uint32(4))

    for i in range(TILE.height * TILE.width):
        sums[i] = real(0)
    steps = uint32((end - begin + uint32(TILE.depth - 1)) // uint32(TILE.depth))
    step = uint32(0)
    now = uint32(0)  # where the buffer begins that the next tiles go to
    while step <= steps:
        if step < steps:
            if A_DEEP and B_DEEP:
                depth_b = depth_a  # which it is already, but now it takes no registers of its own
            depth_a = fetch(a, place_a, factor_a, lines_a, depth_a, A_DEEP, flags & uint32(WIDE_A), loads_a, values_a)
            depth_b = fetch(b, place_b, factor_b, lines_b, depth_b, B_DEEP, flags & uint32(WIDE_B), loads_b, values_b)
        if step > uint32(0):
            other = uint32(buffer) - now
            multiply_tile(shared, int64(other + row), int64(other + column + uint32(TILE.depth * pitch_a)), sums)
        if step < steps:
            put(values_a, shared, int64(now + to_a), pitch_a, A_DEEP, apart_a, loads_a)
            put(values_b, shared, int64(now + to_b), pitch_b, B_DEEP, apart_b, loads_b)
            cuda.syncthreads()
        now = uint32(uint32(buffer) - now)
        step = uint32(step + uint32(1))

    row, column = uint32(first_row + row), uint32(first_column + column)
    if flags & uint32(BIAS_FLAG):
        add_bias(result, sums, TILE.height, column, TILE.width // 4, TILE.columns * 4 // TILE.width)
    c = at(result.c, uint64(cuda.blockIdx.z) * result.step)  # only now, for registers are scarce before
    finish_rows(c, result, sums, 0, row, 1, column, TILE.width // 4, TILE.columns * 4 // TILE.width)
    if TILE.height == 8:
        lower = uint32(row + uint32(TILE.rows // 2))
        finish_rows(c, result, sums, 4 * TILE.width, lower, 1, column, TILE.width // 4, TILE.columns * 4 // TILE.width)
