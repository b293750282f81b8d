"""Mini-batches of NumPy arrays in a reproducible random order that can be taken up at any step."""

import copy
from collections.abc import Callable, Generator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from minigrad.checks import integer
from minigrad.data.prefetch import LEAVING, PATIENCE, Prefetcher

Batch = tuple[np.ndarray, ...]

# The key's words are seed and epoch; this counter keeps the shuffling apart from other streams under the same key.
SHUFFLE_STREAM = np.array([0, 0, 0, int.from_bytes(b"shuffle", "big")], np.uint64)
LAST_STEP = (1 << 63) - 1  # a loader goes to; further numbers are those of a damaged file


def permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `length` samples in an epoch: a pure function of its arguments, on every machine.

    The samples are sorted by one 64-bit word each of NumPy's Philox4x64 generator with key (seed, epoch). The word's
    lowest bits are replaced by the sample's number, which settles ties and leaves more than 32 random bits. Sorting raw
    words, instead of `Generator.permutation`, makes the order independent of the version of NumPy.

    Returns:
        int64 `(length,)`.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=SHUFFLE_STREAM).random_raw(length)
    bits = np.uint64(length.bit_length())
    keys = (words >> bits << bits) | np.arange(length, dtype=np.uint64)
    keys.sort()
    return (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


@runtime_checkable
class Samples(Protocol):
    """What a Loader takes besides arrays: samples that are made when asked for, like pictures read from their files."""

    def __len__(self) -> int:
        """The number of samples."""

    def read_samples(self, rows: np.ndarray) -> np.ndarray:
        """The samples at int64 positions `(m,)` as a fresh, C-contiguous array `(m, ...)`; any thread may call it."""


class Stager(Protocol):
    """Brings batches to a GPU, ahead of the steps that use them: see minigrad.devices.cuda_staging."""

    def stage(self, batch: Batch) -> Batch:
        """Begin to copy a batch, on any thread."""

    def arrived(self, batch: Batch) -> Batch:
        """The same batch, to be used from now on."""


class Loader:
    """Mini-batches of equally long arrays, shuffled anew in each epoch.

    Steps are counted from 0 across epochs: step s belongs to epoch s // len(loader). `batch(step)` gives any step by
    itself; iteration goes on from the current position, which counts the batches handed out. So a state taken in the
    body of a loop leads on to the next batch:

        for images, labels in loader.steps(50_000):
            ...
            state = loader.state_dict()

    Args:
        arrays: one or more NumPy arrays with the same length of axis 0. They are not copied unless they are
            non-contiguous or of foreign byte order, so later changes to them show. Objects that read their samples
            when asked may stand among them, see `Samples`; `ImageFolder.images` is one.
        batch_size: samples per batch. The last batch of an epoch is smaller where they don't divide, see `drop_last`.
        shuffle: a new order in each epoch by `permutation`; False keeps the arrays' order.
        seed: from 0 to 2**64 - 1; the same seed gives the same batches.
        drop_last: leave out the last, smaller batch of each epoch.
        transform: called as `transform(batch, epoch, step)` on each batch, a tuple of fresh arrays, which it may
            change; returns the tuple to hand out. Random numbers keyed by seed and step keep steps repeatable.
        prefetch: how many batches iteration prepares ahead, on a background thread, while the loop's body runs; 0 prepares
            each when it is asked for. The batches are the same, and the position still counts those handed out. The
            thread ends with the iteration: by its end, `break`, or when the iterator is closed or dropped. One that hangs
            in the transform is left behind after 10 s, and after half a second if the program was interrupted.
        prefetch_threads: the threads used by kernels that the transform launches there. With 1 they run on the background
            thread alone, which disturbs the kernels of the loop's body least.
        rank, world: of so many processes, the number of this one: it gets its part of each batch, of `batch_size` in all, and
            the parts together are the batch, in its order; each epoch has each sample once, whatever the world. A transform
            sees the whole batch, so that what it does by an image's place in it is as in one process. Position and state
            count whole batches: a state leads on in another world. `mg.train.fit` sets both itself.

    Raises:
        TypeError: an array isn't a NumPy array or holds objects; a number isn't an integer.
        ValueError: no arrays, no samples, unequal lengths, or a number out of range.
    """

    def __init__(
        self,
        *arrays: np.ndarray | Samples,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[[Batch, int, int], Batch] | None = None,
        prefetch: int = 0,
        prefetch_threads: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not arrays:
            raise ValueError("no arrays came, where at least one was expected")
        self.arrays = tuple(_native(array, number) for number, array in enumerate(arrays))
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"the arrays have the lengths {lengths} on axis 0, where equal ones were expected")
        self.length = lengths[0]
        if self.length == 0:
            raise ValueError("the arrays hold no samples: axis 0 has length 0")
        self.batch_size = integer("batch_size", batch_size, 1)
        if drop_last and self.batch_size > self.length:
            raise ValueError(
                f"batch_size {self.batch_size} with drop_last leaves no batch of {self.length} samples; "
                f"take at most {self.length}, or drop_last=False"
            )
        self.shuffle = bool(shuffle)
        self.seed = integer("seed", seed, 0, 2**64 - 1)
        self.drop_last = bool(drop_last)
        self.transform = transform
        self.prefetch = integer("prefetch", prefetch, 0)
        self.prefetch_threads = integer("prefetch_threads", prefetch_threads, 1)
        self.rank, self.world = 0, 1
        self.share(rank, world)
        self.position = 0
        self.stager: Stager | None = None
        self._order = (-1, np.empty(0, np.int64))  # the latest epoch and its permutation, set as one for threads' sake

    def share(self, rank: int, world: int) -> None:
        """From now on hand out part `rank` of `world` of each batch; ValueError if a batch has fewer samples than that."""
        world = integer("world", world, 1)
        rank = integer("rank", rank, 0, world - 1)
        rest = 0 if self.drop_last else self.length % self.batch_size
        least = min(self.batch_size, rest or self.batch_size)
        if least < world:
            kind = "the last batch of an epoch has" if rest else "a batch has"
            raise ValueError(
                f"{kind} {least} of {self.length:,} samples, too few for {world} processes to have one each; take another "
                "batch_size, or drop_last=True"
            )
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """The number of steps in an epoch."""
        whole, rest = divmod(self.length, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self.position // len(self)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 across epochs; the position plays no part and stays.

        Returns:
            One fresh, contiguous array per array of the loader, `(rows, ...)`, with rows equal to the batch size, or to the
            part of this rank, but in an epoch's last step.

        Raises:
            ValueError: a negative step.
        """
        step = integer("step", step, 0)
        epoch, within = divmod(step, len(self))
        start = within * self.batch_size
        stop = min(start + self.batch_size, self.length)
        count = stop - start
        own = slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)
        rows = self._rows(epoch)[start:stop] if self.shuffle else np.arange(start, stop)
        if self.transform is None:
            return tuple(_samples(array, rows[own]) for array in self.arrays)
        whole = self.transform(tuple(_samples(array, rows) for array in self.arrays), epoch, step)
        return whole if self.world == 1 else tuple([array[own] for array in whole])

    def __iter__(self) -> Generator[Batch, None, None]:
        """The batches from the current position to the end of its epoch."""
        return self.steps(len(self) - self.position % len(self))

    def steps(self, count: int | None = None, start: int | None = None) -> Generator[Batch, None, None]:
        """The next `count` batches, across epochs.

        Args:
            count: how many; None goes on without end.
            start: the step to begin with; None begins at the current position.

        Raises:
            ValueError: a negative count or start.
        """
        if count is not None:
            count = integer("count", count, 0)
        if start is not None:
            self.seek(start)
        return self._hand_out(count)

    def one_epoch(self) -> Generator[Batch, None, None]:
        """All batches of the first epoch, wherever the loader is; its position stays."""
        twin = copy.copy(self)  # has a position, and a thread that prepares ahead, of its own
        return twin.steps(len(twin), start=0)

    def seek(self, step: int) -> None:
        """Go to a step, counted from 0 across epochs; `seek(epoch * len(loader))` goes to the start of an epoch."""
        self.position = integer("step", integer("step", step, 0), 0, LAST_STEP)

    def state_dict(self) -> dict[str, int | bool]:
        """The position, and the settings that decide which batch follows; plain numbers."""
        return {"position": self.position, **self._settings()}

    def load_state_dict(self, state: Mapping[str, int | bool]) -> None:
        """Go to the position of a state; the next batch is the one that would have followed there.

        Raises:
            ValueError: the state's keys or settings differ from this loader's, all differences listed; the loader is
                unchanged.
        """
        expected = self._settings()
        if set(state) != {"position", *expected}:
            raise ValueError(
                f"the state has the keys {sorted(state)}, where {sorted(['position', *expected])} were expected"
            )
        differences = [
            f"{key} {state[key]!r} against {value!r}" for key, value in expected.items() if state[key] != value
        ]
        if differences:
            raise ValueError(
                f"the state belongs to another loader (its value against this one's): {', '.join(differences)}"
            )
        self.seek(state["position"])

    def _settings(self) -> dict[str, int | bool]:
        return {
            "length": self.length,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
        }

    def _hand_out(self, count: int | None) -> Generator[Batch, None, None]:
        """Hand out batches, the position moving before each is given so that a state taken then leads on."""
        given = 0
        ahead = None
        patience = PATIENCE
        try:
            while count is None or given < count:
                if self.prefetch == 0:
                    batch = self._staged(self.position)
                else:
                    # Another position follows a `seek` in the loop; a thread that is gone, a fork.
                    if ahead is None or ahead.step != self.position or not ahead.alive:
                        if ahead is not None:
                            ahead.close()
                        ahead = self._ahead(None if count is None else count - given)
                    batch = ahead.take()
                self.position += 1
                given += 1
                yield batch if self.stager is None else self.stager.arrived(batch)
        except BaseException as error:
            if not isinstance(error, Exception | GeneratorExit):  # Ctrl-C, say, perhaps since a transform hangs
                patience = LEAVING
            raise
        finally:
            if ahead is not None:
                ahead.close(patience)

    def _ahead(self, count: int | None) -> Prefetcher:
        """A background thread that prepares the next `count` batches."""
        stop = None if count is None else self.position + count
        return Prefetcher(self._staged, self.position, stop, depth=self.prefetch, most_threads=self.prefetch_threads)

    def _staged(self, step: int) -> Batch:
        """The batch of a step, on its way to the GPU if there is a way."""
        batch, stager = self.batch(step), self.stager  # which another thread may set to None meanwhile
        return batch if stager is None else stager.stage(batch)

    def _rows(self, epoch: int) -> np.ndarray:
        latest, rows = self._order
        if latest != epoch:
            rows = permutation(self.length, self.seed, epoch)
            self._order = (epoch, rows)
        return rows


def _samples(array: np.ndarray | Samples, rows: np.ndarray) -> np.ndarray:
    """The samples at some positions, a fresh array."""
    return array.take(rows, axis=0) if isinstance(array, np.ndarray) else array.read_samples(rows)


def _native(array: np.ndarray | Samples, number: int) -> np.ndarray | Samples:
    """The array, C-contiguous and in the machine's byte order, without a copy where it is so already."""
    if not isinstance(array, np.ndarray):
        if isinstance(array, Samples):
            return array
        raise TypeError(f"argument {number} is a {type(array).__name__}, where a NumPy array was expected")
    if array.dtype.hasobject:
        raise TypeError(f"argument {number} holds Python objects ({array.dtype}), where numbers were expected")
    if array.ndim == 0:
        raise ValueError(f"argument {number} is a single value, where an array of samples along axis 0 was expected")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
