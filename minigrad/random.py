"""Random numbers by counter: a stream is named by the seed and a number, so any of them can be drawn again alone."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from minigrad.checks import integer

_seed = 0
_streams = 0
_seeding = threading.RLock()


def manual_seed(n: int) -> None:
    """Start all random numbers anew from seed `n`: initial weights and dropout of what is made from now on."""
    global _seed, _streams
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"the seed must be an integer, not {n!r}")
    _seed = int(n) % (1 << 64)
    _streams = 0


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
    global _streams
    key = np.array([_seed, _streams], np.uint64)
    _streams += 1
    return np.random.Generator(np.random.Philox(key=key))


def counter_state() -> np.ndarray:
    """A (seed, counter) pair for dropout: a seed drawn from the next stream, and a counter at 0."""
    return np.array([stream().integers(1 << 64, dtype=np.uint64), 0], np.uint64)


def state_dict() -> dict[str, int]:
    """The seed, and how many streams were drawn from it."""
    return {"seed": _seed, "streams": _streams}


def load_state_dict(state: Mapping[str, int]) -> None:
    """Go on drawing streams where that state stood; TypeError or ValueError for what is no such state, changing nothing."""
    global _streams
    if set(state) != set(state_dict()):
        raise ValueError(f"the state has the keys {sorted(state)}, where {sorted(state_dict())} were expected")
    seed = integer("seed", state["seed"], 0, (1 << 64) - 1)
    streams = integer("streams", state["streams"], 0, (1 << 63) - 1)
    manual_seed(seed)
    _streams = streams
