"""What the kernels of `norm` are given of each x, and the running statistics that follow those of its rows."""

from typing import NamedTuple

from minigrad.kernels.cuda.parts.branches import Rows
from minigrad.kernels.cuda.tools.language import device_function, float64, real, uint32
from minigrad.kernels.cuda.tools.launch import Double, Doubles, Real, Reals, UInt


class Channels(NamedTuple):
    """What is known of the channels; the statistics are those of the batch."""

    gamma: Reals
    beta: Reals
    mean: Doubles
    var: Doubles
    eps: Real
    activation: UInt


class GivenChannels(NamedTuple):
    """The same with statistics in x's type."""

    gamma: Reals
    beta: Reals
    mean: Reals
    var: Reals
    eps: Real
    activation: UInt


class Running(NamedTuple):
    """Running statistics of `count` columns, all or none, by what batches have, the variance by its unbiased estimate."""

    mean: Reals
    var: Reals
    count: UInt
    decay: Double
    unbiased: Double  # by how much that is more


class Summed(NamedTuple):
    """What the rows of x come to goes to `partial`, chunk by chunk."""

    x: Reals
    partial: Reals
    rows: Rows


class Merged(NamedTuple):
    """What `chunks` of rows of x have come to, together."""

    x: Reals
    partial: Reals
    chunks: UInt
    rows: Rows
    mean: Doubles
    var: Doubles
    running: Running


class Normalized(NamedTuple):
    x: Reals
    rows: Rows
    channels: Channels


class NormalizedInOne(NamedTuple):
    x: Reals
    rows: Rows
    channels: Channels
    running: Running


class SummedGradient(NamedTuple):
    x: Reals
    partial: Reals
    rows: Rows
    channels: Channels


class MergedGradient(NamedTuple):
    partial: Reals
    chunks: UInt
    rows: Rows
    dgamma: Reals
    dbeta: Reals


class Gradient(NamedTuple):
    x: Reals
    rows: Rows
    channels: Channels
    dx: Reals
    dgamma: Reals
    dbeta: Reals


@device_function
def put_running(running, part, mean, var):
    """Those of a thread's four columns, by what the uppermost thread has put there."""
    if part.place.y == uint32(0) and running.count > uint32(0):
        if part.owned > uint32(0):
            follow(running, mean, var, part.j[0])
        if part.owned > uint32(1):
            follow(running, mean, var, part.j[1])
        if part.owned > uint32(2):
            follow(running, mean, var, part.j[2])
        if part.owned > uint32(3):
            follow(running, mean, var, part.j[3])


@device_function
def follow(running, mean, var, j):
    rest = float64(1) - running.decay
    running.mean[j] = real(running.decay * float64(running.mean[j]) + rest * mean[j])
    running.var[j] = real(running.decay * float64(running.var[j]) + rest * (var[j] * running.unbiased))
