"""Random numbers by counter: a stream is named by the seed and a number, so any of them can be drawn again alone.

`normal`, `uniform` and `bernoulli` draw tensors by the kernels of dropout: Philox 4x32-10 under a key that follows from the
seed, and a counter of the draws, which lies where the numbers are made. So a captured step draws new numbers in every
replay, those that the eager step would have drawn.
"""

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad.arrays import as_float, is_number
from minigrad.checks import integer, share
from minigrad.devices import Device
from minigrad.modes import at_work, begin, drawn_key, read, refuse
from minigrad.ops.comparison import less
from minigrad.ops.creation import dtype_of, finished, home_of
from minigrad.ops.dropout import advanced
from minigrad.ops.shape_functions import as_shape
from minigrad.tensor import FLOATS, Tensor
from minigrad.types import DeviceLike, Dtype, Lengths

__all__ = ["bernoulli", "load_state_dict", "manual_seed", "normal", "permutation", "state_dict", "uniform"]


_seed = 0
_streams = 0
_seeding = threading.RLock()
_here = threading.local()  # with the number of streams that this thread has drawn
_draws: dict[str, Tensor] = {}  # by device: the key of its draws, and how many there were


def manual_seed(n: int) -> None:
    """Start all random numbers anew from seed `n`: what is drawn, and weights and dropout of what is made, from now on."""
    global _seed, _streams
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"the seed must be an integer, not {n!r}")
    _seed = int(n) % (1 << 64)
    _streams = 0
    _here.count = streams_drawn() + 1
    count_draws({name: 0 for name in _draws})


@contextmanager
def seeded(n: int) -> Iterator[None]:
    """Inside, random numbers are those of seed `n`; after it they go on where they stood. Threads take turns."""
    with _seeding:
        before = state_dict()
        manual_seed(n)
        try:
            yield
        finally:
            load_state_dict(before)


def stream() -> np.random.Generator:
    """The next stream: NumPy's Philox keyed by (seed, number of the stream)."""
    return np.random.Generator(np.random.Philox(key=drawn_key(next_stream)))


def next_stream() -> np.ndarray:
    """(seed, number of the next stream), which is counted."""
    global _streams
    key = np.array([_seed, _streams], np.uint64)
    _streams += 1
    _here.count = streams_drawn() + 1
    return key


def counter_state() -> np.ndarray:
    """A (seed, counter) pair for dropout: a seed drawn from the next stream, and a counter at 0."""
    return np.array([stream().integers(1 << 64, dtype=np.uint64), 0], np.uint64)


def draws_of(home: Device) -> Tensor:
    """The key and the counter of a device's draws, which its kernels count up."""
    if home.name not in _draws:
        _draws[home.name] = Tensor._wrap(home.from_host(first_draw(0)), home)  # which may be inside a captured step
    return _draws[home.name]


def first_draw(count: int) -> np.ndarray:
    """The key that follows from the seed, apart from those of streams, and a number of draws."""
    key = np.random.Philox(key=np.array([_seed, (1 << 64) - 1], np.uint64)).random_raw()
    return np.array([key, count], np.uint64)


def count_draws(counts: Mapping[str, int]) -> None:
    """Go on drawing from these numbers of draws on, in the memory that recordings know."""
    for name, count in counts.items():
        state = _draws[name]
        state._device.write(state._data, first_draw(count))


def drawn(
    kernel: str,
    shape: Lengths,
    first: float,
    second: float,
    dtype: Dtype,
    device: DeviceLike,
    requires_grad: bool,
) -> Tensor:
    """A tensor of random numbers by a kernel, which takes two numbers and a key of its own."""
    wanted = dtype_of(dtype, FLOATS[0])
    if wanted not in FLOATS:
        raise TypeError(f"random numbers are float32 or float64, not {wanted}; draw them and convert")
    widest = float(np.finfo(wanted).max)
    if not max(abs(first), abs(second)) <= widest or (kernel == "uniform" and not second - first <= widest):
        raise ValueError(f"{kernel}: {first} and {second} are more than {wanted} holds, which goes to {widest:.3g}")
    home = home_of(device)
    state = draws_of(home)
    read(state)
    begin(kernel.capitalize())
    worker = at_work(home)
    y = worker.empty(as_shape(shape), wanted)
    key = drawn_key(functools.partial(advanced, worker, state._data))
    if y.size:
        draw = worker.kernels.dropout.normal if kernel == "normal" else worker.kernels.dropout.uniform
        draw(float(first), float(second), key, y.reshape(-1))
    return finished(y, home, requires_grad)


def numbers(what: str, **given: float) -> list[float]:
    """The arguments as floats; TypeError for one that is no number."""
    for name, value in given.items():
        if isinstance(value, bool | np.bool_) or not is_number(value):
            raise TypeError(f"{what}: {name} must be a number, not {value!r}")
    return [as_float(value) for value in given.values()]


def normal(
    shape: Lengths,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: Dtype = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers of a normal distribution, float32 if nothing else is said; none is further than 5.77 std from the mean.

    Each call draws others, the same after the same `manual_seed`; each device counts its own calls. Raises ValueError for a
    negative std or length, or numbers that the dtype does not hold.
    """
    mean, std = numbers("normal", mean=mean, std=std)
    if not std >= 0:
        raise ValueError(f"normal: std must be 0 or more, not {std:g}")
    return drawn("normal", shape, mean, std, dtype, device, requires_grad)


def uniform(
    shape: Lengths,
    low: float = 0.0,
    high: float = 1.0,
    dtype: Dtype = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `low` to below `high`, all equally likely (2^24 different ones), float32 if nothing else is said.

    Each call draws others, as `normal`. Where low equals high in the dtype, it is all that is drawn. Raises ValueError unless
    low is at most high, and for numbers, or a distance between them, that the dtype does not hold.
    """
    low, high = numbers("uniform", low=low, high=high)
    if not low <= high:
        raise ValueError(f"uniform: low must be at most high, not {low:g} and {high:g}")
    return drawn("uniform", shape, low, high, dtype, device, requires_grad)


def bernoulli(shape: Lengths, p: float = 0.5, device: DeviceLike = None) -> Tensor:
    """A bool tensor, each element True with probability p. Raises ValueError unless 0 <= p <= 1."""
    share("bernoulli: p", p)
    return less(uniform(shape, device=device), p)


def permutation(n: int, device: DeviceLike = None) -> Tensor:
    """The numbers from 0 to n - 1 in random order, int64, drawn from the next stream; not inside a captured step."""
    refuse(
        "mg.random.permutation inside a captured step would be the same in every replay; draw it outside, and pass it as an "
        "argument"
    )
    return Tensor(stream().permutation(as_shape(n)[0]), device=device)


def state_dict() -> dict[str, Any]:
    """The seed, how many streams were drawn from it, and how many tensors on each device that has drawn any."""
    counts = {name: int(state._device.to_host(state._data)[1]) for name, state in _draws.items()}
    return {"seed": _seed, "streams": _streams, **({"draws": counts} if counts else {})}


def streams_drawn() -> int:
    """How often this thread has drawn a stream, or begun anew. Captured steps must not; what other threads do is their own."""
    return getattr(_here, "count", 0)


def load_state_dict(state: Mapping[str, Any]) -> None:
    """Go on drawing streams where that state stood; TypeError or ValueError for what is no such state, changing nothing."""
    global _streams
    if {*state} - {"draws"} != {"seed", "streams"}:
        raise ValueError(
            f"the state has the keys {sorted(state)}, where ['seed', 'streams'] were expected, and maybe 'draws'"
        )
    seed = integer("seed", state["seed"], 0, (1 << 64) - 1)
    streams = integer("streams", state["streams"], 0, (1 << 63) - 1)
    counts = state.get("draws", {})
    if not isinstance(counts, Mapping):
        raise TypeError(f"draws must be a number for each device, not {counts!r}")
    counts = {name: integer(f"draws of {name}", n, 0, (1 << 63) - 1) for name, n in counts.items()}
    homes = {name: home_of(name) for name in counts}
    manual_seed(seed)
    _streams = streams
    for home in homes.values():
        draws_of(home)
    count_draws(counts)
