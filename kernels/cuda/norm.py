"""Batch normalization over the rows of x (m, c). Contracts and formulas: kernels/reference/norm.py.

How a block walks over x is in `columns`; a thread's coefficients stay in registers on the way. Large arrays take three
launches each way:

    statistics, gradient_sums    a chunk of rows per block: what it knows of each channel, two numbers    reads x (dy, x)
    merge_...                    the chunks' numbers together, in float64, in a fixed order               next to nothing
    normalize, gradient          the rows, the latest first: of those, some may still be in the cache     reads, writes x

So forward moves three times the bytes of x, backward five, which is what bounds them. Up to ONE_LAUNCH rows, one launch
does it all: a block has eight channels, sums them, and goes over its rows again, which the cache still holds. Launches
are what such arrays cost.

Statistics without cancellation: a thread sums differences from its own first row, and their squares. That row is a
sample of what the thread sees, never so far from its mean that the variance would be lost beside it: (first - mean)^2 <=
rows * variance. Threads and then chunks are merged as mean and sum of squared differences from it (Chan, Golub and
LeVeque 1983), means as offsets from the first row of x, so that they are of the size of the deviation and float32 is
enough for them.

Where squares are too large for x's type (in float32 from deviations of 1e18 on), the blocks that put chunks together, or
that do all in one launch, sum the column once more in float64.

x - mean takes the mean in two parts, a float of x's type and a remainder. gamma / sqrt(var + eps) and all that follows
is computed in x's type by the same instructions both ways, so backward finds the same z, to the bit, and ReLU's gradient
comes through just where its result was positive.
"""

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cuda.parts import columns
from minigrad.kernels.cuda.parts.columns import (
    by_fours,
    in_fours,
    my_columns,
    owned_columns,
    read,
    tile,
    write,
    write_each,
)
from minigrad.kernels.cuda.parts.norm_rows import (
    Channels,
    GivenChannels,
    Part,
    Rows,
    all_slopes,
    block_statistics,
    coefficients,
    coefficients_given,
    gradient_rows,
    gradient_totals,
    normalize_rows,
    zeros,
)
from minigrad.kernels.cuda.parts.wide import (
    WIDE_SHARED,
    all_overflowed,
    put_wide_statistics,
    statistics_of_chunks,
    total_of_chunks,
)
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, device_function, float64, real, uint32
from minigrad.kernels.cuda.tools.launch import Double, Doubles, Reals, UInt, blocks_for, kernel
from minigrad.kernels.one_by_one import one_by_one

THREADS = columns.THREADS
ONE_LAUNCH = 1024  # rows; this and the next two are reckoned, not measured
SUM_BLOCKS = 1024  # as many chunks as one block merges quickly, and enough to fill a GPU
ROW_BLOCKS = 4096
MOST_PANELS = 65535  # blocks of a grid beside each other in y (CUDA C++ Programming Guide, "Technical Specifications")


# Kernels, forward


@device_function
def chunk_of(number, rows):
    """The Part of the chunk of that number, for this thread."""
    start = uint32(number * rows.chunk)
    return Part(start, uint32(min(uint32(start + rows.chunk), rows.m)), my_columns(rows.c), owned_columns(rows.c))


@device_function
def own_chunk(rows):
    """The Part of this block."""
    return chunk_of(uint32(cuda.blockIdx.x), rows)


@device_function
def latest_first(rows):
    """That of a block that goes over rows again: in the opposite order of the first pass."""
    return chunk_of(uint32(uint32(cuda.gridDim.x) - uint32(1) - uint32(cuda.blockIdx.x)), rows)


@device_function
def put_partial(partial, c, part, first, second):
    """What a block knows of its columns, two numbers each."""
    if uint32(cuda.threadIdx.y) == uint32(0):
        i = uint32(uint32(2) * uint32(cuda.blockIdx.x) * c)
        write(partial, i, part.j, part.owned, first)
        write(partial, uint32(i + c), part.j, part.owned, second)


def statistics(x: Reals, partial: Reals, rows: Rows):
    part = own_chunk(rows)
    offset, squares = block_statistics(x, rows.c, part)
    put_partial(partial, rows.c, part, offset, squares)


@kernel(threads=THREADS, uses_float64=True)
def merge_statistics(partial: Reals, x: Reals, chunks: UInt, rows: Rows, mean: Doubles, var: Doubles):
    shared = cuda.shared.array(WIDE_SHARED, float64, 16)
    part = own_chunk(rows)
    offset, variances = statistics_of_chunks(shared, partial, chunks, rows, part.j)
    put_statistics(shared, x, rows, part, offset, variances, mean, var)


@device_function
def put_statistics(shared, x, rows, part, offset, variances, mean, var):
    """mean and var of four columns, from what the uppermost thread of each knows, means as offsets from the first row.

    Whether all threads must meet once more before they read them: squares were too large for x's type.
    """
    too_large = uint32(0)
    if uint32(cuda.threadIdx.y) == uint32(0):
        too_large = all_overflowed(variances)
        origin = read(x, uint32(0), part.j)
        write_each(mean, part.j, part.owned, (
            float64(origin[0]) + float64(offset[0]), float64(origin[1]) + float64(offset[1]),
            float64(origin[2]) + float64(offset[2]), float64(origin[3]) + float64(offset[3]),
        ))  # fmt: skip
        write_each(var, part.j, part.owned, variances)
    if cuda.syncthreads_or(too_large):
        put_wide_statistics(shared, x, rows, part, too_large, mean, var)
        return True
    return False


def normalize(x: Reals, y: Reals, rows: Rows, channels: Channels):
    part = latest_first(rows)
    normalize_rows(x, y, rows, part, coefficients(channels, part.j))


def batch_norm_in_one(x: Reals, y: Reals, rows: Rows, channels: Channels):
    shared = cuda.shared.array(WIDE_SHARED, float64, 16)
    part, n = own_chunk(rows), float64(rows.m)
    offset, squares = block_statistics(x, rows.c, part)
    variances = (
        float64(squares[0]) / n, float64(squares[1]) / n, float64(squares[2]) / n, float64(squares[3]) / n
    )  # fmt: skip
    if put_statistics(shared, x, rows, part, offset, variances, channels.mean, channels.var):
        cuda.syncthreads()
    normalize_rows(x, y, rows, part, coefficients(channels, part.j))


def normalize_by_given(x: Reals, y: Reals, rows: Rows, channels: GivenChannels):
    part = own_chunk(rows)
    normalize_rows(x, y, rows, part, coefficients_given(channels, part.j))


# Kernels, backward


def gradient_sums(dy: Reals, x: Reals, y: Reals, partial: Reals, rows: Rows, channels: Channels):
    part = own_chunk(rows)
    total, moment = gradient_totals(dy, x, y, rows, part, coefficients(channels, part.j))
    put_partial(partial, rows.c, part, total, moment)


@kernel(threads=THREADS, uses_float64=True)
def merge_gradients(partial: Reals, chunks: UInt, c: UInt, dgamma: Reals, dbeta: Reals):
    shared = cuda.shared.array(WIDE_SHARED, float64, 16)
    j, owned = my_columns(c), owned_columns(c)
    total, moment = total_of_chunks(shared, partial, chunks, c, j)
    if uint32(cuda.threadIdx.y) == uint32(0):
        write(dbeta, uint32(0), j, owned, (real(total[0]), real(total[1]), real(total[2]), real(total[3])))
        write(dgamma, uint32(0), j, owned, (real(moment[0]), real(moment[1]), real(moment[2]), real(moment[3])))


def gradient(
    dy: Reals, x: Reals, y: Reals, dgamma: Reals, dbeta: Reals, dx: Reals, rows: Rows, channels: Channels
):  # fmt: skip
    part = latest_first(rows)
    of = coefficients(channels, part.j)
    slope, offset = all_slopes(of.inverse_std, dgamma, dbeta, part.j, rows.m)
    gradient_rows(dy, x, y, dx, rows, part, of, slope, offset)


def gradient_in_one(
    dy: Reals, x: Reals, y: Reals, dgamma: Reals, dbeta: Reals, dx: Reals, rows: Rows, channels: Channels
):  # fmt: skip
    part = own_chunk(rows)
    of = coefficients(channels, part.j)
    total, moment = gradient_totals(dy, x, y, rows, part, of)
    if uint32(cuda.threadIdx.y) == uint32(0):
        write(dgamma, uint32(0), part.j, part.owned, moment)
        write(dbeta, uint32(0), part.j, part.owned, total)
    cuda.syncthreads()
    slope, offset = all_slopes(of.inverse_std, dgamma, dbeta, part.j, rows.m)
    gradient_rows(dy, x, y, dx, rows, part, of, slope, offset)


def gradient_by_given(
    dy: Reals, x: Reals, y: Reals, partial: Reals, dx: Reals, rows: Rows, channels: GivenChannels
):  # fmt: skip
    part = own_chunk(rows)
    of = coefficients_given(channels, part.j)
    total, moment = gradient_totals(dy, x, y, rows, part, of)
    put_partial(partial, rows.c, part, total, moment)
    gradient_rows(dy, x, y, dx, rows, part, of, zeros(), zeros())


@kernel(threads=THREADS, uses_float64=True)
def update(
    mean: Doubles, var: Doubles, running_mean: Reals, running_var: Reals, c: UInt, decay: Double, unbiased: Double
):
    j = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if j < c:
        rest = float64(1) - decay
        running_mean[j] = real(decay * float64(running_mean[j]) + rest * mean[j])
        running_var[j] = real(decay * float64(running_var[j]) + rest * (var[j] * unbiased))


# Which kernel for which array


def by_activation(kernels):
    """{(by fours, activation): kernel}; the activation is compiled in with fours, where speed counts most."""
    return {
        (fours, number): base.variant(ACTIVATION=number) if fours else base
        for fours, base in kernels.items()
        for number in (IDENTITY, RELU, SIGMOID)
    }


in_one_kernels = by_fours(batch_norm_in_one, uses_float64=True)
gradient_in_one_kernels = by_fours(gradient_in_one, uses_float64=True)
statistics_kernels = by_fours(statistics)
normalize_kernels = by_activation(by_fours(normalize, uses_float64=True))
given_kernels = by_fours(normalize_by_given)
sums_kernels = by_activation(by_fours(gradient_sums, uses_float64=True))
gradient_kernels = by_activation(by_fours(gradient, uses_float64=True))
gradient_given_kernels = by_fours(gradient_by_given)


def merging(chunks, c):
    """(grid, block) of a kernel that merges chunks: four columns to a block, more if a grid had not room for all."""
    across = blocks_for(c, 4 * MOST_PANELS)
    return (1, blocks_for(c, 4 * across)), (across, min(THREADS // across, chunks))


def in_one(m, c):
    """(grid, block) of a kernel that does all in one launch: eight channels, 32 bytes, to a block."""
    across = 2 if c > 4 else 1
    return (1, blocks_for(c, 4 * across)), (across, min(THREADS // across, m))


def batch_norm_forward(x, gamma, beta, eps, activation, y, column, mean, var):
    m, c = x.shape
    if m <= ONE_LAUNCH:
        grid, block = in_one(m, c)
        rows = Rows(m, c, m, y.shape[1], column)
        kernel = in_one_kernels[in_fours(c, column, rows.width, x, y)]
        kernel[grid, block](x, y, rows, Channels(gamma, beta, mean, var, eps, activation))
        return
    batch_norm_statistics(x, mean, var)
    batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column)


def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    if m <= ONE_LAUNCH:
        grid, block = in_one(m, c)
        rows = Rows(m, c, m, dy.shape[1], column)
        kernel = gradient_in_one_kernels[in_fours(c, column, rows.width, dy, x, y, dx, dgamma, dbeta)]
        kernel[grid, block](dy, x, y, dgamma, dbeta, dx, rows, Channels(gamma, beta, mean, var, eps, activation))
        return
    given = dy, x, y, column, gamma, beta, mean, var, eps, activation
    batch_norm_sums(*given, dgamma, dbeta)
    batch_norm_gradient(*given, dgamma, dbeta, dx)


def batch_norm_statistics(x, mean, var):
    m, c = x.shape
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    partial, rows = context.empty((grid[0], 2, c), x.dtype), Rows(m, c, chunk, c, 0)
    statistics_kernels[in_fours(c, 0, 0, x)][grid, block](x, partial, rows)
    merge_statistics[merging(grid[0], c)](partial, x, grid[0], rows, mean, var)


def batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column):
    m, c = x.shape
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    rows = Rows(m, c, chunk, y.shape[1], column)
    kernel = normalize_kernels[in_fours(c, column, rows.width, x, y), activation]
    kernel[grid, block](x, y, rows, Channels(gamma, beta, mean, var, eps, activation))


def batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta):
    m, c = x.shape
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    rows, channels = Rows(m, c, chunk, dy.shape[1], column), Channels(gamma, beta, mean, var, eps, activation)
    kernel = sums_kernels[in_fours(c, column, rows.width, dy, x, y), activation]
    partial = context.empty((grid[0], 2, c), x.dtype)
    kernel[grid, block](dy, x, y, partial, rows, channels)
    merge_gradients[merging(grid[0], c)](partial, grid[0], c, dgamma, dbeta)


def batch_norm_gradient(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta, dx):
    m, c = x.shape
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    rows = Rows(m, c, chunk, dy.shape[1], column)
    kernel = gradient_kernels[in_fours(c, column, rows.width, dy, x, y, dx), activation]
    kernel[grid, block](dy, x, y, dgamma, dbeta, dx, rows, Channels(gamma, beta, mean, var, eps, activation))


def batch_norms_forward(xs, gammas, betas, eps, activations, y, columns, means, variances):
    """One after another: a GPU's memory does not care which columns of y are written when."""
    one_by_one(batch_norm_forward, xs, gammas, betas, eps, activations, y, columns, means, variances)


def batch_norms_backward(dy, xs, y, columns, gammas, betas, means, variances, eps, activations, dxs, dgammas, dbetas):
    """One after another."""
    given = gammas, betas, means, variances, eps, activations
    one_by_one(batch_norm_backward, dy, xs, y, columns, *given, dxs, dgammas, dbetas)


def batch_norm_inference(x, gamma, beta, mean, var, eps, activation, y, column):
    m, c = x.shape
    if not x.size:
        return
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    rows = Rows(m, c, chunk, y.shape[1], column)
    kernel = given_kernels[in_fours(c, column, rows.width, x, y)]
    kernel[grid, block](x, y, rows, GivenChannels(gamma, beta, mean, var, eps, activation))


def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    rows, channels = Rows(m, c, chunk, dy.shape[1], column), GivenChannels(gamma, beta, mean, var, eps, activation)
    kernel = gradient_given_kernels[in_fours(c, column, rows.width, dy, x, y, dx)]
    partial = context.empty((grid[0], 2, c), x.dtype)
    kernel[grid, block](dy, x, y, partial, dx, rows, channels)
    merge_gradients[merging(grid[0], c)](partial, grid[0], c, dgamma, dbeta)


def running_update(mean, var, m, decay, running_mean, running_var):
    c = mean.size
    update[blocks_for(c, THREADS), THREADS](mean, var, running_mean, running_var, c, decay, m / (m - 1))
