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
from minigrad.kernels.cuda.parts.columns import by_fours, in_fours, my_columns, owned_columns, read, tile, write
from minigrad.kernels.cuda.parts.norm_rows import (
    all_slopes,
    block_statistics,
    each,
    gradient_rows,
    gradient_totals,
    inverse_deviations,
    inverse_deviations_given,
    normalize_rows,
    product,
    split_mean,
    zeros,
)
from minigrad.kernels.cuda.parts.wide import (
    MERGE_SHARED,
    MERGED,
    MERGERS,
    add_down_wide,
    all_overflowed,
    overflowed,
    put_wide_statistics,
    wide_statistics,
)
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, float64, real, uint32
from minigrad.kernels.cuda.tools.launch import Double, Doubles, Real, Reals, UInt, blocks_for, kernel
from minigrad.kernels.one_by_one import one_by_one

THREADS = columns.THREADS
ONE_LAUNCH = 1024  # rows; this and the next two are reckoned, not measured
SUM_BLOCKS = 1024  # as many chunks as one block merges quickly, and enough to fill a GPU
ROW_BLOCKS = 4096
ANY = -1
ACTIVATION = Choice("ACTIVATION", ANY)  # compiled in, or else whatever the kernel is given


# Kernels, forward. Those that read the mean split it, one float64 subtraction per channel and thread.


@device_function
def compiled(activation):
    """The activation's number, a constant for the compiler if the kernel is made for one."""
    if ACTIVATION == ANY:
        return activation
    return uint32(ACTIVATION)


@device_function
def latest_first():
    """The chunk of a block that goes over rows again: in the opposite order of the first pass."""
    return uint32(uint32(cuda.gridDim.x) - uint32(1) - uint32(cuda.blockIdx.x))


def statistics_of_chunks(x: Reals, partial: Reals, m: UInt, c: UInt, chunk: UInt):
    j = my_columns(c)
    start = uint32(uint32(cuda.blockIdx.x) * chunk)
    mean, squares = block_statistics(x, c, start, uint32(min(uint32(start + chunk), m)), j)
    if uint32(cuda.threadIdx.y) == uint32(0):
        owned = owned_columns(c)
        i = uint32(uint32(2) * uint32(cuda.blockIdx.x) * c)
        write(partial, i, j, owned, mean)
        write(partial, uint32(i + c), j, owned, squares)


@kernel(threads=MERGED * MERGERS, uses_float64=True)
def merge_statistics(
    partial: Reals, x: Reals, chunks: UInt, chunk: UInt, m: UInt, c: UInt, mean: Doubles, var: Doubles
):
    shared = cuda.shared.array(MERGE_SHARED, float64, 16)
    j = uint32(uint32(cuda.blockIdx.x) * uint32(MERGED) + uint32(cuda.threadIdx.x))
    channel = min(j, uint32(c - uint32(1)))
    k = uint32(cuda.threadIdx.y)
    total, squares = float64(0), float64(0)
    while k < chunks:
        rows = float64(min(chunk, uint32(m - k * chunk)))
        i = uint32(uint32(2) * k * c + channel)
        offset = float64(partial[i])
        total += rows * offset
        squares += float64(partial[uint32(i + c)]) + rows * offset * offset
        k = uint32(k + uint32(cuda.blockDim.y))
    total, squares = add_down_wide(shared, total, squares)
    offset = total / float64(m)
    center, variance = float64(x[channel]) + offset, squares / float64(m) - offset * offset
    too_large = overflowed(squares)
    if cuda.syncthreads_or(too_large):
        wide_mean, wide_variance = wide_statistics(shared, x, m, c, channel)
        if too_large == uint32(1):
            center, variance = wide_mean, wide_variance
    if uint32(cuda.threadIdx.y) == uint32(0) and j < c:
        mean[j] = center
        var[j] = variance if not variance < float64(0) else float64(0)


def normalize(
    x: Reals, gamma: Reals, beta: Reals, mean: Doubles, var: Doubles, y: Reals, m: UInt, c: UInt, chunk: UInt,
    width: UInt, column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j = my_columns(c)
    start = uint32(latest_first() * chunk)
    end = uint32(min(uint32(start + chunk), m))
    high, low = split_mean(mean, j)
    scale = product(each(gamma, j), inverse_deviations(var, j, eps))
    normalize_rows(
        x, y, c, width, column, start, end, j, owned_columns(c), high, low, scale, each(beta, j), compiled(activation)
    )


@kernel(threads=THREADS, uses_float64=True)
def batch_norm_in_one(
    x: Reals, gamma: Reals, beta: Reals, mean: Doubles, var: Doubles, y: Reals, m: UInt, c: UInt, width: UInt,
    column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j, owned = my_columns(c), owned_columns(c)
    offset, squares = block_statistics(x, c, uint32(0), m, j)
    if uint32(cuda.threadIdx.y) == uint32(0):
        origin = read(x, uint32(0), j)
        n = float64(m)
        write(mean, uint32(0), j, owned, (
            float64(origin[0]) + float64(offset[0]), float64(origin[1]) + float64(offset[1]),
            float64(origin[2]) + float64(offset[2]), float64(origin[3]) + float64(offset[3]),
        ))  # fmt: skip
        write(var, uint32(0), j, owned, (
            float64(squares[0]) / n, float64(squares[1]) / n, float64(squares[2]) / n, float64(squares[3]) / n
        ))  # fmt: skip
    too_large = all_overflowed(squares)
    if cuda.syncthreads_or(too_large):
        put_wide_statistics(x, m, c, j[0], owned, too_large, mean, var)
    high, low = split_mean(mean, j)
    scale = product(each(gamma, j), inverse_deviations(var, j, eps))
    normalize_rows(
        x, y, c, width, column, uint32(0), m, j, owned, high, low, scale, each(beta, j), compiled(activation)
    )


def normalize_by_given(
    x: Reals, gamma: Reals, beta: Reals, mean: Reals, var: Reals, y: Reals, m: UInt, c: UInt, chunk: UInt, width: UInt,
    column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j = my_columns(c)
    start = uint32(uint32(cuda.blockIdx.x) * chunk)
    end = uint32(min(uint32(start + chunk), m))
    scale = product(each(gamma, j), inverse_deviations_given(var, j, eps))
    normalize_rows(
        x,
        y,
        c,
        width,
        column,
        start,
        end,
        j,
        owned_columns(c),
        each(mean, j),
        zeros(),
        scale,
        each(beta, j),
        compiled(activation),
    )


# Kernels, backward


def gradient_sums(
    dy: Reals, x: Reals, y: Reals, gamma: Reals, beta: Reals, mean: Doubles, var: Doubles, partial: Reals, m: UInt,
    c: UInt, chunk: UInt, width: UInt, column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j = my_columns(c)
    start = uint32(uint32(cuda.blockIdx.x) * chunk)
    end = uint32(min(uint32(start + chunk), m))
    high, low = split_mean(mean, j)
    inverse_std = inverse_deviations(var, j, eps)
    scale = product(each(gamma, j), inverse_std)
    total, moment = gradient_totals(
        dy, x, y, c, width, column, start, end, j, high, low, scale, each(beta, j), inverse_std, compiled(activation)
    )
    if uint32(cuda.threadIdx.y) == uint32(0):
        owned = owned_columns(c)
        i = uint32(uint32(2) * uint32(cuda.blockIdx.x) * c)
        write(partial, i, j, owned, total)
        write(partial, uint32(i + c), j, owned, moment)


@kernel(threads=MERGED * MERGERS, uses_float64=True)
def merge_gradients(partial: Reals, chunks: UInt, c: UInt, dgamma: Reals, dbeta: Reals):
    shared = cuda.shared.array(MERGE_SHARED, float64, 16)
    j = uint32(uint32(cuda.blockIdx.x) * uint32(MERGED) + uint32(cuda.threadIdx.x))
    channel = min(j, uint32(c - uint32(1)))
    k = uint32(cuda.threadIdx.y)
    total, moment = float64(0), float64(0)
    while k < chunks:
        i = uint32(uint32(2) * k * c + channel)
        total += float64(partial[i])
        moment += float64(partial[uint32(i + c)])
        k = uint32(k + uint32(cuda.blockDim.y))
    total, moment = add_down_wide(shared, total, moment)
    if uint32(cuda.threadIdx.y) == uint32(0) and j < c:
        dgamma[j] = real(moment)
        dbeta[j] = real(total)


def gradient(
    dy: Reals, x: Reals, y: Reals, gamma: Reals, beta: Reals, mean: Doubles, var: Doubles, dgamma: Reals, dbeta: Reals,
    dx: Reals, m: UInt, c: UInt, chunk: UInt, width: UInt, column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j = my_columns(c)
    start = uint32(latest_first() * chunk)
    end = uint32(min(uint32(start + chunk), m))
    high, low = split_mean(mean, j)
    inverse_std = inverse_deviations(var, j, eps)
    scale = product(each(gamma, j), inverse_std)
    slope, offset = all_slopes(inverse_std, dgamma, dbeta, j, m)
    gradient_rows(
        dy,
        x,
        y,
        dx,
        c,
        width,
        column,
        start,
        end,
        j,
        owned_columns(c),
        high,
        low,
        scale,
        each(beta, j),
        slope,
        offset,
        compiled(activation),
    )


@kernel(threads=THREADS, uses_float64=True)
def gradient_in_one(
    dy: Reals, x: Reals, y: Reals, gamma: Reals, beta: Reals, mean: Doubles, var: Doubles, dgamma: Reals, dbeta: Reals,
    dx: Reals, m: UInt, c: UInt, width: UInt, column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j, owned = my_columns(c), owned_columns(c)
    high, low = split_mean(mean, j)
    inverse_std, shift = inverse_deviations(var, j, eps), each(beta, j)
    scale = product(each(gamma, j), inverse_std)
    total, moment = gradient_totals(
        dy, x, y, c, width, column, uint32(0), m, j, high, low, scale, shift, inverse_std, compiled(activation)
    )
    if uint32(cuda.threadIdx.y) == uint32(0):
        write(dgamma, uint32(0), j, owned, moment)
        write(dbeta, uint32(0), j, owned, total)
    cuda.syncthreads()
    slope, offset = all_slopes(inverse_std, dgamma, dbeta, j, m)
    gradient_rows(
        dy,
        x,
        y,
        dx,
        c,
        width,
        column,
        uint32(0),
        m,
        j,
        owned,
        high,
        low,
        scale,
        shift,
        slope,
        offset,
        compiled(activation),
    )


def gradient_by_given(
    dy: Reals, x: Reals, y: Reals, gamma: Reals, beta: Reals, mean: Reals, var: Reals, partial: Reals, dx: Reals,
    m: UInt, c: UInt, chunk: UInt, width: UInt, column: UInt, eps: Real, activation: UInt,
):  # fmt: skip
    j, owned = my_columns(c), owned_columns(c)
    start = uint32(uint32(cuda.blockIdx.x) * chunk)
    end = uint32(min(uint32(start + chunk), m))
    high, inverse_std, shift = each(mean, j), inverse_deviations_given(var, j, eps), each(beta, j)
    scale = product(each(gamma, j), inverse_std)
    total, moment = gradient_totals(
        dy, x, y, c, width, column, start, end, j, high, zeros(), scale, shift, inverse_std, compiled(activation)
    )
    if uint32(cuda.threadIdx.y) == uint32(0):
        i = uint32(uint32(2) * uint32(cuda.blockIdx.x) * c)
        write(partial, i, j, owned, total)
        write(partial, uint32(i + c), j, owned, moment)
    gradient_rows(
        dy,
        x,
        y,
        dx,
        c,
        width,
        column,
        start,
        end,
        j,
        owned,
        high,
        zeros(),
        scale,
        shift,
        zeros(),
        zeros(),
        compiled(activation),
    )


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


statistics_kernels = by_fours(statistics_of_chunks)
normalize_kernels = by_activation(by_fours(normalize, uses_float64=True))
given_kernels = by_fours(normalize_by_given)
sums_kernels = by_activation(by_fours(gradient_sums, uses_float64=True))
gradient_kernels = by_activation(by_fours(gradient, uses_float64=True))
gradient_given_kernels = by_fours(gradient_by_given)


def merging(chunks, c):
    """(grid, block) of a kernel that merges chunks."""
    return blocks_for(c, MERGED), (MERGED, min(MERGERS, chunks))


def in_one(m, c):
    """(grid, block) of a kernel that does all in one launch: eight channels, 32 bytes, to a block."""
    across = 2 if c > 4 else 1
    return (1, blocks_for(c, 4 * across)), (across, min(THREADS // across, m))


def batch_norm_forward(x, gamma, beta, eps, activation, y, column, mean, var):
    m, c = x.shape
    width = y.shape[1]
    if m <= ONE_LAUNCH:
        grid, block = in_one(m, c)
        batch_norm_in_one[grid, block](x, gamma, beta, mean, var, y, m, c, width, column, eps, activation)
        return
    batch_norm_statistics(x, mean, var)
    batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column)


def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    width = dy.shape[1]
    given = dy, x, y, gamma, beta, mean, var
    if m <= ONE_LAUNCH:
        grid, block = in_one(m, c)
        gradient_in_one[grid, block](*given, dgamma, dbeta, dx, m, c, width, column, eps, activation)
        return
    fours = in_fours(c, column, width, dy, x, y, dx)
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    chunks = grid[0]
    partial = context.empty((chunks, 2, c), x.dtype)
    sums_kernels[fours, activation][grid, block](*given, partial, m, c, chunk, width, column, eps, activation)
    merge_gradients[merging(chunks, c)](partial, chunks, c, dgamma, dbeta)
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    gradient_kernels[fours, activation][grid, block](
        *given, dgamma, dbeta, dx, m, c, chunk, width, column, eps, activation
    )


def batch_norm_statistics(x, mean, var):
    m, c = x.shape
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    chunks = grid[0]
    partial = context.empty((chunks, 2, c), x.dtype)
    statistics_kernels[in_fours(c, 0, 0, x)][grid, block](x, partial, m, c, chunk)
    merge_statistics[merging(chunks, c)](partial, x, chunks, chunk, m, c, mean, var)


def batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column):
    m, c = x.shape
    width = y.shape[1]
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    normalize_kernels[in_fours(c, column, width, x, y), activation][grid, block](
        x, gamma, beta, mean, var, y, m, c, chunk, width, column, eps, activation
    )


def batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta):
    m, c = x.shape
    width = dy.shape[1]
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    chunks = grid[0]
    partial = context.empty((chunks, 2, c), x.dtype)
    sums_kernels[in_fours(c, column, width, dy, x, y), activation][grid, block](
        dy, x, y, gamma, beta, mean, var, partial, m, c, chunk, width, column, eps, activation
    )
    merge_gradients[merging(chunks, c)](partial, chunks, c, dgamma, dbeta)


def batch_norm_gradient(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta, dx):
    m, c = x.shape
    width = dy.shape[1]
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    gradient_kernels[in_fours(c, column, width, dy, x, y, dx), activation][grid, block](
        dy, x, y, gamma, beta, mean, var, dgamma, dbeta, dx, m, c, chunk, width, column, eps, activation
    )


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
    width = y.shape[1]
    fours = in_fours(c, column, width, x, y)
    grid, block, chunk = tile(m, c, ROW_BLOCKS, 4)
    given_kernels[fours][grid, block](x, gamma, beta, mean, var, y, m, c, chunk, width, column, eps, activation)


def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    width = dy.shape[1]
    fours = in_fours(c, column, width, dy, x, y, dx)
    grid, block, chunk = tile(m, c, SUM_BLOCKS, 8)
    chunks = grid[0]
    partial = context.empty((chunks, 2, c), x.dtype)
    gradient_given_kernels[fours][grid, block](
        dy, x, y, gamma, beta, mean, var, partial, dx, m, c, chunk, width, column, eps, activation
    )
    merge_gradients[merging(chunks, c)](partial, chunks, c, dgamma, dbeta)


def running_update(mean, var, m, decay, running_mean, running_var):
    c = mean.size
    update[blocks_for(c, THREADS), THREADS](mean, var, running_mean, running_var, c, decay, m / (m - 1))
