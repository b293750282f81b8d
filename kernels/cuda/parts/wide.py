"""Sums in float64 by the threads of a column: chunks put together, and columns whose squares x's type does not hold.

A block of these kernels has at most MERGED threads beside each other, each with a column, and at most MERGERS below them.
"""

from minigrad.kernels.cuda.tools.language import cuda, device_function, float32, float64, uint32

MERGED, MERGERS = 4, 256
MERGE_SHARED = 2 * MERGED * MERGERS  # elements of the shared array that they add up in; of the kernel, which has one


@device_function
def add_down_wide(shared, a, b):
    """The sums of two float64 over the threads of each column, for all of them; between two of these they must meet."""
    x, y = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
    me = uint32(y * uint32(MERGED) + x)
    shared[me] = a
    shared[uint32(me + uint32(MERGED * MERGERS))] = b
    cuda.syncthreads()
    n = uint32(cuda.blockDim.y)
    while n > uint32(1):
        half = uint32((n + uint32(1)) >> uint32(1))
        if uint32(y + half) < n:
            other = uint32(me + half * uint32(MERGED))
            shared[me] += shared[other]
            shared[uint32(me + uint32(MERGED * MERGERS))] += shared[uint32(other + uint32(MERGED * MERGERS))]
        cuda.syncthreads()
        n = half
    return shared[x], shared[uint32(x + uint32(MERGED * MERGERS))]


@device_function
def overflowed(squares):
    """1 if a sum of squares is infinite or NaN, else 0."""
    return uint32(0) if squares - squares == float32(0) else uint32(1)


@device_function
def wide_statistics(shared, x, m, c, j):
    """(mean, variance) of column j in float64, by its threads, for all of them."""
    down, n = uint32(cuda.blockDim.y), float64(m)
    total = float64(0)
    i = uint32(cuda.threadIdx.y)
    while i < m:
        total += float64(x[uint32(i * c + j)])
        i = uint32(i + down)
    total, _ = add_down_wide(shared, total, float64(0))
    cuda.syncthreads()  # all have read the sum
    mean, squares = total / n, float64(0)
    i = uint32(cuda.threadIdx.y)
    while i < m:
        gap = float64(x[uint32(i * c + j)]) - mean
        squares += gap * gap
        i = uint32(i + down)
    squares, _ = add_down_wide(shared, squares, float64(0))
    return mean, squares / n


@device_function
def all_overflowed(squares):
    """A bit for each of four sums: whether it is infinite or NaN."""
    return uint32(
        overflowed(squares[0])
        | overflowed(squares[1]) << uint32(1)
        | overflowed(squares[2]) << uint32(2)
        | overflowed(squares[3]) << uint32(3)
    )


@device_function
def put_wide_statistics(x, m, c, first, owned, chosen, mean, var):
    """mean and var of those of a thread's columns whose bit is set, anew; they are blockDim.x apart from the first on.

    All threads see them, for they have met.
    """
    shared = cuda.shared.array(MERGE_SHARED, float64, 16)
    k = uint32(0)
    while k < uint32(4):
        j = min(uint32(first + k * uint32(cuda.blockDim.x)), uint32(c - uint32(1)))
        center, variance = wide_statistics(shared, x, m, c, j)
        if uint32(cuda.threadIdx.y) == uint32(0) and k < owned and (chosen >> k) & uint32(1):
            mean[j] = center
            var[j] = variance
        cuda.syncthreads()
        k = uint32(k + uint32(1))
