"""Batch normalization over the rows of x (m, c). Contracts and formulas: kernels/reference/norm.py.

How a block walks over x is in `columns`; a thread's coefficients stay in registers on the way. Large arrays take three
launches each way:

    statistics, gradient_sums    a chunk of rows per block: what it knows of each channel, two numbers    reads x (dy, x)
    merge_...                    the chunks' numbers together, in float64, in a fixed order               next to nothing
    normalize, gradient          the rows, the latest first: of those, some may still be in the cache     reads, writes x

So forward moves three times the bytes of x, backward five, which is what bounds them. Up to ONE_LAUNCH rows, one launch
does it all: a block has eight channels, sums them, and goes over its rows again, which the cache still holds. Launches
are what such arrays cost.

Many x that are normalized into columns of one y go through each of these together, up to four in one launch
(`parts/branches.py`), to the same bits as one by one.

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
from minigrad.kernels.cuda.parts.branches import (
    BRANCHES,
    Blocks,
    Rows,
    for_one_or_most,
    grid_of,
    latest_first,
    launch_branches,
    own,
    own_part,
    rows_of,
)
from minigrad.kernels.cuda.parts.columns import by_fours, in_fours, tile, write
from minigrad.kernels.cuda.parts.norm_given import (
    Channels,
    GivenChannels,
    Gradient,
    Merged,
    MergedGradient,
    Normalized,
    NormalizedInOne,
    Running,
    Summed,
    SummedGradient,
    follow,
    put_running,
)
from minigrad.kernels.cuda.parts.norm_rows import (
    all_slopes,
    block_statistics,
    coefficients,
    coefficients_given,
    gradient_rows,
    gradient_totals,
    normalize_rows,
    put_partial,
    zeros,
)
from minigrad.kernels.cuda.parts.wide import (
    WIDE_SHARED,
    put_statistics,
    statistics_of_chunks,
    total_of_chunks,
)
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, float64, real, uint32
from minigrad.kernels.cuda.tools.launch import Doubles, Reals, Several, blocks_for, kernel

THREADS = columns.THREADS
ONE_LAUNCH = 1024  # rows; this and the next two are reckoned, not measured
SUM_BLOCKS = 1024  # as many chunks as one block merges quickly, and enough to fill a GPU
ROW_BLOCKS = 4096


# Kernels, forward; `like` is of the type that they are compiled for


def statistics(like: Reals, branches: Several(Summed, BRANCHES)):
    of = own(branches)
    part = own_part(of.rows)
    offset, squares = block_statistics(of.x, of.rows.c, part)
    put_partial(of.partial, of.rows.c, part, offset, squares)


@kernel(threads=THREADS, uses_float64=True)
def merge_statistics(like: Reals, branches: Several(Merged, BRANCHES)):
    shared = cuda.shared.array(WIDE_SHARED, float64, 16)
    of = own(branches)
    part = own_part(of.rows)
    offset, variances = statistics_of_chunks(shared, of.partial, of.chunks, of.rows, part)
    put_statistics(shared, of.x, of.rows, part, offset, variances, of.mean, of.var)
    put_running(of.running, part, of.mean, of.var)


def normalize(y: Reals, branches: Several(Normalized, BRANCHES)):
    of = own(branches)
    part = latest_first(of.rows)
    normalize_rows(of.x, y, of.rows, part, coefficients(of.channels, part.j))


def batch_norm_in_one(y: Reals, branches: Several(NormalizedInOne, BRANCHES)):
    shared = cuda.shared.array(WIDE_SHARED, float64, 16)
    of = own(branches)
    x, rows, channels = of.x, of.rows, of.channels
    part, n = own_part(rows), float64(rows.m)
    offset, squares = block_statistics(x, rows.c, part)
    variances = (
        float64(squares[0]) / n, float64(squares[1]) / n, float64(squares[2]) / n, float64(squares[3]) / n
    )  # fmt: skip
    if put_statistics(shared, x, rows, part, offset, variances, channels.mean, channels.var):
        cuda.syncthreads()
    put_running(of.running, part, channels.mean, channels.var)
    normalize_rows(x, y, rows, part, coefficients(channels, part.j))


def normalize_by_given(x: Reals, y: Reals, rows: Rows, channels: GivenChannels):
    part = own_part(rows)
    normalize_rows(x, y, rows, part, coefficients_given(channels, part.j))


# Kernels, backward


def gradient_sums(dy: Reals, y: Reals, branches: Several(SummedGradient, BRANCHES)):
    of = own(branches)
    part = own_part(of.rows)
    total, moment = gradient_totals(dy, of.x, y, of.rows, part, coefficients(of.channels, part.j))
    put_partial(of.partial, of.rows.c, part, total, moment)


@kernel(threads=THREADS, uses_float64=True)
def merge_gradients(like: Reals, branches: Several(MergedGradient, BRANCHES)):
    shared = cuda.shared.array(WIDE_SHARED, float64, 16)
    of = own(branches)
    part = own_part(of.rows)
    j, owned = part.j, part.owned
    total, moment = total_of_chunks(shared, of.partial, of.chunks, of.rows.c, part)
    if part.place.y == uint32(0):
        write(of.dbeta, uint32(0), j, owned, (real(total[0]), real(total[1]), real(total[2]), real(total[3])))
        write(of.dgamma, uint32(0), j, owned, (real(moment[0]), real(moment[1]), real(moment[2]), real(moment[3])))


def gradient(dy: Reals, y: Reals, branches: Several(Gradient, BRANCHES)):
    given = own(branches)
    part = latest_first(given.rows)
    of = coefficients(given.channels, part.j)
    slope, offset = all_slopes(of.inverse_std, given.dgamma, given.dbeta, part.j, given.rows.m)
    gradient_rows(dy, given.x, y, given.dx, given.rows, part, of, slope, offset)


def gradient_in_one(dy: Reals, y: Reals, branches: Several(Gradient, BRANCHES)):
    given = own(branches)
    x, rows, dgamma, dbeta = given.x, given.rows, given.dgamma, given.dbeta
    part = own_part(rows)
    of = coefficients(given.channels, part.j)
    total, moment = gradient_totals(dy, x, y, rows, part, of)
    if part.place.y == uint32(0):
        write(dgamma, uint32(0), part.j, part.owned, moment)
        write(dbeta, uint32(0), part.j, part.owned, total)
    cuda.syncthreads()
    slope, offset = all_slopes(of.inverse_std, dgamma, dbeta, part.j, rows.m)
    gradient_rows(dy, x, y, given.dx, rows, part, of, slope, offset)


def gradient_by_given(
    dy: Reals, x: Reals, y: Reals, partial: Reals, dx: Reals, rows: Rows, channels: GivenChannels
):  # fmt: skip
    part = own_part(rows)
    of = coefficients_given(channels, part.j)
    total, moment = gradient_totals(dy, x, y, rows, part, of)
    put_partial(partial, rows.c, part, total, moment)
    gradient_rows(dy, x, y, dx, rows, part, of, zeros(), zeros())


@kernel(threads=THREADS, uses_float64=True)
def update(like: Reals, mean: Doubles, var: Doubles, running: Running):
    j = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if j < running.count:
        follow(running, mean, var, j)


# Which kernel for which array


def for_branches(kernels):
    """{key: (kernel for one x, for up to four)} of {key: kernel}."""
    return {key: for_one_or_most(each) for key, each in kernels.items()}


def by_activation(kernels):
    """{(by fours, activation): kernels}; the activation is compiled in with fours, where speed counts most."""
    chosen = {
        (fours, number): base.variant(ACTIVATION=number) if fours else base
        for fours, base in kernels.items()
        for number in (IDENTITY, RELU, SIGMOID)
    }
    return for_branches(chosen)


in_one_kernels = for_branches(by_fours(batch_norm_in_one, uses_float64=True))
gradient_in_one_kernels = for_branches(by_fours(gradient_in_one, uses_float64=True))
statistics_kernels = for_branches(by_fours(statistics))
merge_statistics_kernels = for_one_or_most(merge_statistics)
normalize_kernels = by_activation(by_fours(normalize, uses_float64=True))
given_kernels = by_fours(normalize_by_given)
sums_kernels = by_activation(by_fours(gradient_sums, uses_float64=True))
merge_gradients_kernels = for_one_or_most(merge_gradients)
gradient_kernels = by_activation(by_fours(gradient, uses_float64=True))
gradient_given_kernels = by_fours(gradient_by_given)


def in_one(m, c):
    """The tile of a kernel that does all in one launch: eight channels, 32 bytes, to a block."""
    across = 2 if c > 4 else 1
    return (1, blocks_for(c, 4 * across)), (across, min(THREADS // across, m)), m


def merging(rows):
    """The same rows for a kernel that merges their chunks: four columns to a block."""
    return rows._replace(blocks=Blocks(0, 1, blocks_for(rows.c, 4), 1, min(THREADS, rows.blocks.chunks)))


def new_partial(x, tile):
    """Room for what the chunks of x come to, two numbers for each of its columns."""
    (chunks, _), *_ = tile
    return context.empty((chunks, 2, x.shape[1]), x.dtype)


def batch_norms_forward(
    xs, gammas, betas, eps, activations, y, columns, means, variances, decays, running_means, running_vars
):  # fmt: skip
    channels = channels_of(gammas, betas, means, variances, eps, activations)
    running = [running_of(len(y), *kept) for kept in zip(decays, running_means, running_vars, strict=True)]
    if len(y) > ONE_LAUNCH:
        statistics_of_all(xs, means, variances, running)
        normalize_all(xs, channels, y, columns)
        return
    width, branches = y.shape[1], []
    for x, column, *given in zip(xs, columns, channels, running, strict=True):
        kernels = in_one_kernels[in_fours(x.shape[1], column, width, x, y)]
        branches.append((kernels, NormalizedInOne(x, rows_of(x, width, column, in_one(*x.shape)), *given)))
    launch_branches(branches, y)


def channels_of(*lists):
    """The Channels of each x, from lists of what is in them."""
    return [Channels(*values) for values in zip(*lists, strict=True)]


def running_of(m, decay, mean, var):
    """Running statistics of m rows each, which have no elements where none are kept."""
    return Running(mean, var, mean.size, decay, m / max(1, m - 1))


def statistics_of_all(xs, means, variances, running):
    sums, merged = [], []
    for x, *given in zip(xs, means, variances, running, strict=True):
        c, own_tile = x.shape[1], tile(*x.shape, SUM_BLOCKS, 8)
        partial, rows = new_partial(x, own_tile), rows_of(x, c, 0, own_tile)
        sums.append((statistics_kernels[in_fours(c, 0, 0, x)], Summed(x, partial, rows)))
        merged.append((merge_statistics_kernels, Merged(x, partial, rows.blocks.chunks, merging(rows), *given)))
    launch_branches(sums, xs[0])
    launch_branches(merged, xs[0])


def normalize_all(xs, channels, y, columns):
    width, branches = y.shape[1], []
    for x, column, own_channels in zip(xs, columns, channels, strict=True):
        kernels = normalize_kernels[in_fours(x.shape[1], column, width, x, y), own_channels.activation]
        rows = rows_of(x, width, column, tile(*x.shape, ROW_BLOCKS, 4))
        branches.append((kernels, Normalized(x, rows, own_channels)))
    launch_branches(branches, y)


def batch_norms_backward(dy, xs, y, columns, gammas, betas, means, variances, eps, activations, dxs, dgammas, dbetas):
    channels = channels_of(gammas, betas, means, variances, eps, activations)
    if len(dy) > ONE_LAUNCH:
        sums_of_all(dy, xs, y, columns, channels, dgammas, dbetas)
        gradient_of_all(dy, xs, y, columns, channels, dgammas, dbetas, dxs)
        return
    width, branches = dy.shape[1], []
    for x, column, own_channels, *out in zip(xs, columns, channels, dxs, dgammas, dbetas, strict=True):
        kernels = gradient_in_one_kernels[in_fours(x.shape[1], column, width, dy, x, y, *out)]
        branches.append((kernels, Gradient(x, rows_of(x, width, column, in_one(*x.shape)), own_channels, *out)))
    launch_branches(branches, dy, y)


def sums_of_all(dy, xs, y, columns, channels, dgammas, dbetas):
    width, sums, merged = dy.shape[1], [], []
    for x, column, own_channels, *out in zip(xs, columns, channels, dgammas, dbetas, strict=True):
        c, own_tile = x.shape[1], tile(*x.shape, SUM_BLOCKS, 8)
        partial, rows = new_partial(x, own_tile), rows_of(x, width, column, own_tile)
        kernels = sums_kernels[in_fours(c, column, width, dy, x, y), own_channels.activation]
        sums.append((kernels, SummedGradient(x, partial, rows, own_channels)))
        merged.append((merge_gradients_kernels, MergedGradient(partial, rows.blocks.chunks, merging(rows), *out)))
    launch_branches(sums, dy, y)
    launch_branches(merged, dy)


def gradient_of_all(dy, xs, y, columns, channels, dgammas, dbetas, dxs):
    width, branches = dy.shape[1], []
    for x, column, own_channels, *out in zip(xs, columns, channels, dxs, dgammas, dbetas, strict=True):
        kernels = gradient_kernels[in_fours(x.shape[1], column, width, dy, x, y, out[0]), own_channels.activation]
        rows = rows_of(x, width, column, tile(*x.shape, ROW_BLOCKS, 4))
        branches.append((kernels, Gradient(x, rows, own_channels, *out)))
    launch_branches(branches, dy, y)


# Of one x


def batch_norm_forward(
    x, gamma, beta, eps, activation, y, column, mean, var, decay, running_mean, running_var
):  # fmt: skip
    given = [x], [gamma], [beta], [eps], [activation], y, [column], [mean], [var]
    batch_norms_forward(*given, [decay], [running_mean], [running_var])


def batch_norm_statistics(x, mean, var):
    none = Running(x, x, 0, 0.0, 0.0)
    statistics_of_all([x], [mean], [var], [none])


def batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column):
    normalize_all([x], [Channels(gamma, beta, mean, var, eps, activation)], y, [column])


def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    given = [gamma], [beta], [mean], [var], [eps], [activation]
    batch_norms_backward(dy, [x], y, [column], *given, [dx], [dgamma], [dbeta])


def batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta):
    channels = Channels(gamma, beta, mean, var, eps, activation)
    sums_of_all(dy, [x], y, [column], [channels], [dgamma], [dbeta])


def batch_norm_gradient(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta, dx):
    channels = Channels(gamma, beta, mean, var, eps, activation)
    gradient_of_all(dy, [x], y, [column], [channels], [dgamma], [dbeta], [dx])


def batch_norm_inference(x, gamma, beta, mean, var, eps, activation, y, column):
    if not x.size:
        return
    width, channels = y.shape[1], GivenChannels(gamma, beta, mean, var, eps, activation)
    rows = rows_of(x, width, column, tile(*x.shape, ROW_BLOCKS, 4))
    given_kernels[in_fours(x.shape[1], column, width, x, y)][grid_of(rows)](x, y, rows, channels)


def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    width, own_tile = dy.shape[1], tile(*x.shape, SUM_BLOCKS, 8)
    partial, rows = new_partial(x, own_tile), rows_of(x, width, column, own_tile)
    kernel = gradient_given_kernels[in_fours(x.shape[1], column, width, dy, x, y, dx)]
    kernel[grid_of(rows)](dy, x, y, partial, dx, rows, GivenChannels(gamma, beta, mean, var, eps, activation))
    merged = MergedGradient(partial, rows.blocks.chunks, merging(rows), dgamma, dbeta)
    launch_branches([(merge_gradients_kernels, merged)], dy)


def running_update(mean, var, m, decay, running_mean, running_var):
    running = running_of(m, decay, running_mean, running_var)
    update[blocks_for(mean.size, THREADS), THREADS](running_mean, mean, var, running)
