"""Rows of a matrix, each shared by threads: the ground of softmax, its losses, and layer normalization.

A row belongs to as many threads of a warp as have four elements of it each: rows of ten classes to four threads, eight
rows to a warp, so that few lanes idle. Rows of more than LONG elements get a whole block. A thread reads four elements
at once where rows are of multiples of four, else four that lie `lanes` apart. Sums are compensated (see `sums`).
"""

from minigrad.kernels.cuda.parts.columns import FOURS, THREADS
from minigrad.kernels.cuda.parts.sums import add
from minigrad.kernels.cuda.tools.language import cuda, device_function, load4, real, store4, uint32

WARPS = THREADS // 32
TWO_WARPS = 2 * WARPS
LONG = 1024  # reckoned, not measured
EVERYONE = 0xFFFFFFFF


# Four elements of a row


@device_function
def first_of_mine():
    """Where in its row a thread begins; it goes on by four times the row's threads."""
    if FOURS:
        return uint32(uint32(cuda.threadIdx.x) * uint32(4))
    return uint32(cuda.threadIdx.x)


@device_function
def my_step():
    return uint32(uint32(cuda.blockDim.x) * uint32(4))


@device_function
def nth(k, q):
    """The place of the q-th of four elements that begin at k."""
    if FOURS:
        return uint32(k + q)
    return uint32(k + q * uint32(cuda.blockDim.x))


@device_function
def read(memory, start, k, n, fill):
    """Four elements of the row at `start`; `fill` for those beyond its end, of which the first is none."""
    if FOURS:
        return load4(memory, uint32(start + k))
    b, c, d = nth(k, uint32(1)), nth(k, uint32(2)), nth(k, uint32(3))
    return (
        memory[uint32(start + k)],
        memory[uint32(start + b)] if b < n else fill,
        memory[uint32(start + c)] if c < n else fill,
        memory[uint32(start + d)] if d < n else fill,
    )


@device_function
def write(memory, start, k, n, is_row, value):
    """Put them there, if this is a row."""
    if FOURS:
        if is_row:
            store4(memory, uint32(start + k), value[0], value[1], value[2], value[3])
    elif is_row:
        b, c, d = nth(k, uint32(1)), nth(k, uint32(2)), nth(k, uint32(3))
        memory[uint32(start + k)] = value[0]
        if b < n:
            memory[uint32(start + b)] = value[1]
        if c < n:
            memory[uint32(start + c)] = value[2]
        if d < n:
            memory[uint32(start + d)] = value[3]


# Over the threads of a row


@device_function
def larger(a, b):
    """The larger one; NaN is passed over and makes its row NaN by way of the sum."""
    return b if b > a else a


@device_function
def row_largest(v):
    """The largest v of the row's threads, for all of them; they must meet before the next one, as in a `row_sum`."""
    shared = cuda.shared.array(WARPS, real, 16)
    lanes = uint32(cuda.blockDim.x)
    offset = uint32(min(lanes, uint32(32)) >> uint32(1))
    while offset > uint32(0):
        v = larger(v, cuda.shfl_xor_sync(EVERYONE, v, offset))
        offset = uint32(offset >> uint32(1))
    if lanes > uint32(32):  # the block has one row
        shared[uint32(uint32(cuda.threadIdx.x) >> uint32(5))] = v
        cuda.syncthreads()
        for w in range(WARPS):
            v = larger(v, shared[uint32(w)])
    return v


@device_function
def row_sum(total, lost):
    """The sum of the row's threads' sums, in two parts, for all of them; they must meet before the next one."""
    shared = cuda.shared.array(TWO_WARPS, real, 16)
    lanes = uint32(cuda.blockDim.x)
    offset = uint32(min(lanes, uint32(32)) >> uint32(1))
    while offset > uint32(0):
        other = cuda.shfl_xor_sync(EVERYONE, total, offset)
        both = lost + cuda.shfl_xor_sync(EVERYONE, lost, offset)
        total, lost = add(total, both, other)
        offset = uint32(offset >> uint32(1))
    if lanes > uint32(32):
        warp = uint32(uint32(cuda.threadIdx.x) >> uint32(5))
        shared[warp] = total
        shared[uint32(warp + uint32(WARPS))] = lost
        cuda.syncthreads()
        total, lost = real(0), real(0)
        for w in range(WARPS):
            total, lost = add(total, lost + shared[uint32(uint32(w) + uint32(WARPS))], shared[uint32(w)])
    return total, lost


@device_function
def add_four(total, lost, v):
    total, lost = add(total, lost, v[0])
    total, lost = add(total, lost, v[1])
    total, lost = add(total, lost, v[2])
    return add(total, lost, v[3])


@device_function
def my_row():
    return uint32(uint32(cuda.blockIdx.x) * uint32(cuda.blockDim.y) + uint32(cuda.threadIdx.y))


@device_function
def start_of(row, m, n):
    """Where a row begins; beyond the last row, where that does, so that all threads of a warp go together."""
    return uint32(min(row, uint32(m - uint32(1))) * n)


def tile(n):
    """(threads of a row, rows of a block): powers of two."""
    if n > LONG:
        return THREADS, 1
    lanes = 1
    while 4 * lanes < n and lanes < 32:
        lanes *= 2
    return lanes, THREADS // lanes
