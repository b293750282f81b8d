"""Averages over all processes, added up in the order of their ranks: the same bits in all of them, and from run to run.

MPI's own sums may be added in any order, by the number and length of the messages and the network. So MPI only moves the
numbers here. Of long arrays each process adds up one part for all (a reduce-scatter by Alltoall, then an Allgather), which
moves as many bytes as a ring does; of short ones each has all and adds them itself. Both in float64.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minigrad.exchange.channel import Channel

SHORT = 1 << 13  # bytes up to which each process gathers the arrays of all

Sum = Callable[[np.ndarray, np.ndarray], None]  # x (1, world, n) to y (1, n), added in float64: the kernel sum_forward


class Room(NamedTuple):
    """Memory for an average: what is sent and, at last, the sum; what comes; the part that is added up here."""

    whole: np.ndarray  # (world, chunk)
    received: np.ndarray  # (world, chunk)
    part: np.ndarray  # (chunk,)


def room_for(size: int, world: int, dtype: np.dtype, empty: Callable[[tuple[int, ...], np.dtype], np.ndarray]) -> Room:
    """Room to average so many elements, and their weight."""
    chunk = -(-(size + 1) // world)
    return Room(empty((world, chunk), dtype), empty((world, chunk), dtype), empty((chunk,), dtype))


def average(
    channel: Channel,
    label: str,
    add: Sum,
    arrays: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    weight: float,
    whole: np.ndarray,
    received: np.ndarray,
    part: np.ndarray,
    factor: float = 1.0,
) -> None:
    """Each result = factor times the sum over all processes of weight * array, divided by the sum of their weights.

    The arrays are contiguous, and here as long as everywhere; results may be the arrays themselves. Weights are numbers of
    samples: exact in float32. ValueError, in every process, if all are 0.
    """
    flat = whole.reshape(-1)
    start = 0
    for array in arrays:
        np.multiply(array.reshape(-1), flat.dtype.type(weight), out=flat[start : start + array.size])
        start += array.size
    flat[start] = weight
    flat[start + 1 :] = 0
    if flat.nbytes <= SHORT:
        flat[:] = in_order(channel.gather(label, flat))
    else:
        channel.check(label, flat.nbytes)
        channel.swap(whole, received, label)
        add(received.reshape(1, *received.shape), part.reshape(1, -1))
        channel.collect(part, whole, label)
    if not flat[start] > 0:
        raise ValueError(f"an average over all processes needs samples, and their numbers add up to {flat[start]}")
    total = flat[start] / flat.dtype.type(factor)
    start = 0
    for result in results:
        np.divide(flat[start : start + result.size], total, out=result.reshape(-1))
        start += result.size


def in_order(rows: np.ndarray) -> np.ndarray:
    """The sum of the rows, the first first, in float64."""
    total = rows[0].astype(np.float64)
    for row in rows[1:]:
        total += row
    return total


def merge_statistics(
    channel: Channel,
    m: int,
    means: Sequence[np.ndarray],
    variances: Sequence[np.ndarray],
    unbiased: Sequence[np.ndarray],
) -> None:
    """Means and variances, of m rows here, become those of the rows of all processes; `unbiased` the variances' estimates.

    One exchange for all of them. Mean and sum of squared differences are merged as pairs (Chan, Golub and LeVeque 1983), means
    as differences from that of rank 0, so that nothing cancels where they are large. ValueError, in every process, for fewer
    than two rows in all.
    """
    c = sum([mean.size for mean in means])
    everyone = channel.gather("batch statistics", np.concatenate([[m], *means, *variances]))
    rows, theirs, squared = everyone[:, :1], everyone[:, 1 : c + 1], everyone[:, c + 1 :]
    count = float(rows.sum())
    if count < 2:
        raise ValueError(
            "batch norm over all processes needs at least 2 values per feature to have a variance, and 1 came"
        )
    origin = theirs[0].copy()
    offset = in_order(rows * (theirs - origin)) / count
    squares = in_order(rows * (squared + np.square(theirs - origin - offset)))
    start = 0
    for mean, var, estimate in zip(means, variances, unbiased, strict=True):
        own = slice(start, start + mean.size)
        mean[:] = origin[own] + offset[own]
        var[:] = squares[own] / count
        estimate[:] = squares[own] / (count - 1)
        start += mean.size
