"""Averages and merged statistics over all processes as launches of a device: by MPI on the host, by NCCL between GPUs.

On the host each is one launch. On a GPU it is several, of kernels that are there anyway, around those of NCCL. There the header
that tells processes apart that do different things would have to be read by the host; so what is launched is noted, and
`check_exchanges`, called once in a step, compares the notes of all processes before they wait for their GPUs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.exchange import beside, sums
from minigrad.exchange.session import Session

if TYPE_CHECKING:
    from minigrad.devices import Device

COUNT = np.dtype(np.float64)  # of statistics, and of rows among them


def home_of(device: "Device") -> "Device":
    """The device itself, of a recording the one that it records."""
    return getattr(device, "device", device)


def on_host(device: "Device") -> bool:
    """Whether MPI reaches the memory of a device."""
    return bool(home_of(device).array_type is np.ndarray)


def check_exchanges(session: Session, device: "Device", label: str, nbytes: int) -> None:
    """RanksDiffer, in every process, unless all have launched the same since the last call, and go on to the same average.

    A replay compares before it launches. On the host each exchange does so by itself.
    """
    if not on_host(device):
        said = f"{label} after {session.launched:08x}"
        session.launched = 0
        device.check(session.check, said, nbytes)


def average(
    session: Session,
    device: "Device",
    label: str,
    arrays: Sequence[Any],
    results: Sequence[Any],
    weight: float,
    factor: float = 1.0,
) -> None:
    """Launch: each result = factor times the average over all processes of its array, weighted; it may be the array itself."""
    dtype = arrays[0].dtype
    room: Any = sums.room_for(sum([array.size for array in arrays]), session.world, dtype, device.empty)
    if on_host(device):
        add = home_of(device).kernels.reduce.sum_forward
        given = session, label, add, arrays, results, weight, *room, factor
        device.launch("exchange", "average", sums.average, given)
        return
    session.note(label, room.whole.nbytes)
    kernels = device.kernels
    flat, other = room.whole.reshape(-1), room.received.reshape(-1)
    size = flat.size
    start = 0
    for array in arrays:
        kernels.movement.copy(array.reshape(-1), other.part(start, start + array.size))
        start += array.size
    kernels.movement.fill(1.0, other.part(start, start + 1))
    if start + 1 < size:
        kernels.movement.fill(0.0, other.part(start + 1, size))
    by = device.shared_constant(weight, (1,), dtype)
    kernels.elementwise.mul_forward(other, by, flat, (size,), (1,), (0,))
    gpus = session.gpus(home_of(device))
    device.launch("exchange", "swap", gpus.swap, (room.whole, room.received))
    kernels.reduce.sum_forward(room.received.reshape(1, *room.received.shape), room.part.reshape(1, -1))
    device.launch("exchange", "collect", gpus.collect, (room.part, room.whole))
    total = flat.part(start, start + 1)
    if factor != 1:
        weights, total = total, device.empty((1,), dtype)
        kernels.elementwise.div_forward(weights, device.shared_constant(factor, (1,), dtype), total, (1,), (1,), (1,))
    kernels.elementwise.div_forward(flat, total, other, (start,), (1,), (0,))
    start = 0
    for result in results:
        kernels.movement.copy(other.part(start, start + result.size), result.reshape(-1))
        start += result.size


def start_average(
    session: Session, device: "Device", label: str, arrays: Sequence[Any], weight: float
) -> tuple[beside.Started, list[Any]]:
    """Launch what begins an average in place, of arrays on the host, and goes on beside; (it, the memory that it works in)."""
    started = beside.Started()
    room = sums.room_for(sum([array.size for array in arrays]), session.world, arrays[0].dtype, device.empty)
    add = home_of(device).kernels.reduce.sum_forward
    device.launch("exchange", "start", session.beside().start, (started, label, add, list(arrays), weight, *room))
    return started, [*arrays, *room]


def finish_averages(device: "Device", averages: Sequence[tuple[beside.Started, list[Any]]]) -> None:
    """Launch what waits for averages that were begun, and raises their errors."""
    memory = [array for _, arrays in averages for array in arrays]
    device.launch("exchange", "finish", beside.finish, ([started for started, _ in averages], memory))


def merge_statistics(
    session: Session, device: "Device", m: int, means: Sequence[Any], variances: Sequence[Any], unbiased: Sequence[Any]
) -> None:
    """Launch what `sums.merge_statistics` says; on a GPU each process has a row at least."""
    if on_host(device):
        given = session, m, means, variances, unbiased
        device.launch("exchange", "merge_statistics", sums.merge_statistics, given)
        return
    kernels, world = device.kernels, session.world
    c = sum([mean.size for mean in means])
    n = 1 + 2 * c
    session.note("batch statistics", n * COUNT.itemsize)
    own, everyone = device.empty((n,), COUNT), device.empty((world, n), COUNT)
    kernels.movement.fill(float(m), own.part(0, 1))
    start = 1
    for array in (*means, *variances):
        kernels.movement.copy(array, own.part(start, start + array.size))
        start += array.size
    device.launch("exchange", "collect", session.gpus(home_of(device)).collect, (own, everyone))

    flat = everyone.reshape(-1)
    first, theirs, squared = flat.part(1, c + 1), flat.part(1, flat.size), flat.part(1 + c, flat.size)
    rows, count = device.empty((world,), COUNT), device.empty((1,), COUNT)
    kernels.movement.strided_read(flat, (world,), (n,), 0, rows)
    kernels.reduce.sum_forward(rows.reshape(1, world, 1), count.reshape(1, 1))
    gaps, weighted = device.empty((world, c), COUNT), device.empty((world, c), COUNT)
    offset, squares = device.empty((c,), COUNT), device.empty((c,), COUNT)
    mean, total = device.empty((c,), COUNT), device.empty((c,), COUNT)
    shape, each, by_row, by_column = (world, c), (c, 1), (1, 0), (0, 1)

    def binary(name: str, a: Any, b: Any, y: Any, shape: tuple[int, ...], *strides: tuple[int, ...]) -> None:
        getattr(kernels.elementwise, f"{name}_forward")(a, b, y.reshape(-1), shape, *strides)

    def summed(x: Any, y: Any) -> None:
        kernels.reduce.sum_forward(x.reshape(1, world, c), y.reshape(1, c))

    binary("sub", theirs, first, gaps, shape, (n, 1), by_column)
    binary("mul", gaps.reshape(-1), rows, weighted, shape, each, by_row)
    summed(weighted, total)
    binary("div", total, count, offset, (c,), (1,), (0,))
    binary("add", first, offset, mean, (c,), (1,), (1,))
    binary("sub", gaps.reshape(-1), offset, weighted, shape, each, by_column)
    binary("mul", weighted.reshape(-1), weighted.reshape(-1), gaps, shape, each, each)
    binary("add", squared, gaps.reshape(-1), weighted, shape, (n, 1), each)
    binary("mul", weighted.reshape(-1), rows, gaps, shape, each, by_row)
    summed(gaps, squares)
    less = device.empty((1,), COUNT)
    binary("sub", count, device.shared_constant(1.0, (1,), COUNT), less, (1,), (1,), (1,))
    start = 0
    for one, var, estimate in zip(means, variances, unbiased, strict=True):
        part = squares.part(start, start + one.size)
        kernels.movement.copy(mean.part(start, start + one.size), one)
        binary("div", part, count, var, one.shape, (1,), (0,))
        binary("div", part, less, estimate, one.shape, (1,), (0,))
        start += one.size
