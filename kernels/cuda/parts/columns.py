"""How a block walks down the columns of a matrix: the ground of batch normalization, and of sums in a fixed order.

A block is a tile of `across` x `down` threads. It has a chunk of the rows and a panel of the columns; a thread has four
columns of the panel, and every `down`-th row of the chunk. The four are neighbours where FOURS says that 16 bytes can be
read at once, else `across` apart; neighbouring threads read neighbouring memory either way, and a matrix of three
columns keeps all lanes busy, with rows. What the threads of one column have found is added up a tree, in an order that
depends on the tile alone.

Columns beyond the last one are read as if they were the last, so that no load waits for a comparison, and not written.
"""

from typing import Any, NamedTuple

from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, load4, real, store4, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT32, kernel

THREADS = 256  # of a block, at most
ACROSS = 64  # of them beside each other, at most: a row of 1 KiB
SHARED = 4 * THREADS
FOURS = Choice("FOURS", False)  # whether four neighbours are read and written by 16 bytes, not one by one


class Place(NamedTuple):
    """Where in a tile of `across` x `down` threads one is, and which panel of the columns the tile has."""

    x: Any
    y: Any
    across: Any
    down: Any
    panel: Any


@device_function
def place_in_block(panel):
    """That of this thread where the block is the tile."""
    x, y = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
    return Place(x, y, uint32(cuda.blockDim.x), uint32(cuda.blockDim.y), uint32(panel))


@device_function
def my_columns(c, place):
    """The four columns of a thread."""
    x, across = place.x, place.across
    panel = uint32(place.panel * across * uint32(4))
    if FOURS:
        j = min(uint32(panel + x * uint32(4)), uint32(c - uint32(4)))
        return j, uint32(j + uint32(1)), uint32(j + uint32(2)), uint32(j + uint32(3))
    last = uint32(c - uint32(1))
    j = uint32(panel + x)
    return (
        min(j, last),
        min(uint32(j + across), last),
        min(uint32(j + across * uint32(2)), last),
        min(uint32(j + across * uint32(3)), last),
    )


@device_function
def owned_columns(c, place):
    """How many of them there are."""
    x, across = place.x, place.across
    panel = uint32(place.panel * across * uint32(4))
    if FOURS:
        return uint32(4) if uint32(panel + x * uint32(4)) < c else uint32(0)
    j = uint32(panel + x)
    if j >= c:
        return uint32(0)
    if uint32(j + across) >= c:
        return uint32(1)
    if uint32(j + across * uint32(2)) >= c:
        return uint32(2)
    return uint32(4) if uint32(j + across * uint32(3)) < c else uint32(3)


@device_function
def read(memory, i, j):
    """The four numbers of the row that begins at i."""
    if FOURS:
        return load4(memory, uint32(i + j[0]))
    return memory[uint32(i + j[0])], memory[uint32(i + j[1])], memory[uint32(i + j[2])], memory[uint32(i + j[3])]


@device_function
def write(memory, i, j, owned, value):
    """Put them there, those that there are."""
    if FOURS:
        if owned > uint32(0):
            store4(memory, uint32(i + j[0]), value[0], value[1], value[2], value[3])
    else:
        k = uint32(i + j[0]), uint32(i + j[1]), uint32(i + j[2]), uint32(i + j[3])
        write_each(memory, k, owned, value)


@device_function
def write_each(memory, j, owned, value):
    """Put four numbers to the columns of an array that may not lie as the matrix does, one by one."""
    if owned > uint32(0):
        memory[j[0]] = value[0]
    if owned > uint32(1):
        memory[j[1]] = value[1]
    if owned > uint32(2):
        memory[j[2]] = value[2]
    if owned > uint32(3):
        memory[j[3]] = value[3]


@device_function
def kept(shared, i):
    """Four numbers of a shared array, THREADS apart, so that neighbouring threads use neighbouring banks."""
    return (
        shared[i],
        shared[uint32(i + uint32(THREADS))],
        shared[uint32(i + uint32(2 * THREADS))],
        shared[uint32(i + uint32(3 * THREADS))],
    )


@device_function
def keep(shared, i, value):
    """Put them there."""
    shared[i] = value[0]
    shared[uint32(i + uint32(THREADS))] = value[1]
    shared[uint32(i + uint32(2 * THREADS))] = value[2]
    shared[uint32(i + uint32(3 * THREADS))] = value[3]


@device_function
def add_down(value, place):
    """The sums of four numbers over the threads of each column, for all of them; log2(down) steps.

    Between two of these all threads must meet, when they have read the first sums.
    """
    shared = cuda.shared.array(SHARED, real, 16)
    x, y, across = place.x, place.y, place.across
    me = uint32(y * across + x)
    keep(shared, me, value)
    cuda.syncthreads()
    n = place.down
    while n > uint32(1):
        half = uint32((n + uint32(1)) >> uint32(1))
        if uint32(y + half) < n:
            other = uint32(me + half * across)
            shared[me] += shared[other]
            shared[uint32(me + uint32(THREADS))] += shared[uint32(other + uint32(THREADS))]
            shared[uint32(me + uint32(2 * THREADS))] += shared[uint32(other + uint32(2 * THREADS))]
            shared[uint32(me + uint32(3 * THREADS))] += shared[uint32(other + uint32(3 * THREADS))]
        cuda.syncthreads()
        n = half
    return kept(shared, x)


def tile(m, c, blocks, least):
    """(grid, block, rows of a chunk) for an (m, c) matrix: about so many blocks, at least `least` rows to a thread.

    Threads take a multiple of four rows, because they read some rows ahead.
    """
    fours = -(-c // 4)
    panels = -(-fours // ACROSS)
    across = -(-fours // panels)
    down = THREADS // across
    rows = max(least, -(-m * panels // (down * blocks)))
    chunk = down * 4 * -(-rows // 4)
    return (-(-m // chunk), panels), (across, down), chunk


def in_fours(c, column, width, *arrays):
    """Whether columns can be read by 16 bytes: float32, rows and the first column of multiples of four, aligned memory."""
    return (
        arrays[0].dtype == FLOAT32 and not (c | column | width) & 3 and all(array.pointer % 16 == 0 for array in arrays)
    )


def by_fours(function, **options):
    """A kernel's variants {whether elements are read by fours: kernel}."""
    return {
        True: kernel(threads=THREADS, types=(FLOAT32,), **options)(function).variant(FOURS=True),
        False: kernel(threads=THREADS, **options)(function).variant(FOURS=False),
    }
