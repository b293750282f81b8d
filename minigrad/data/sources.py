"""What a Loader reads: arrays of equal length, a data set by positions, or a stream from its beginning."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from minigrad.data.collate import Sample


@runtime_checkable
class Samples(Protocol):
    """What a Loader takes in place of an array: samples that are made when asked for, like pictures read from their files."""

    def __len__(self) -> int:
        """The number of samples."""

    def read_samples(self, rows: np.ndarray) -> np.ndarray:
        """The samples at int64 positions `(m,)` as a fresh, C-contiguous array `(m, ...)`; any thread may call it."""


@runtime_checkable
class Dataset(Protocol):
    """A data set by positions, as PyTorch and Hugging Face have it. One with `__getitems__(rows)` is asked for many at once."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, row: int, /) -> Sample:
        """The sample at a position; any thread may call it."""


@runtime_checkable
class ColumnTable(Protocol):
    """A data set of columns, which a Loader reads as such, in an order that suits it; `mg.data.parquet` makes one."""

    columns: Sequence[str]  # their names

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, row: int, /) -> Sample:
        """One row as a dict."""

    def read_columns(self, rows: np.ndarray, names: Sequence[str] | None) -> dict[str, np.ndarray]:
        """The columns of these names, or all, at int64 positions `(m,)`, as fresh arrays `(m, ...)`."""

    def shuffled(self, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
        """The positions that samples `start` to `stop` of a shuffled epoch have: a pure function of its arguments."""

    def settings(self) -> dict[str, int]:
        """What besides decides these positions: part of a Loader's state."""


@dataclass(frozen=True)
class Task:
    """A batch to be made."""

    step: int  # counted from 0 across epochs
    epoch: int
    samples: list[Sample] | None = None  # of a stream, where they are read already
    first: int = 0  # the number of the first of them in its epoch


# The key's words are seed and epoch; this word of the counter keeps the shuffling apart from other streams under the same key.
SHUFFLE_STREAM = int.from_bytes(b"shuffle", "big")


class Columns:
    """Arrays with an entry for each sample; `names` has theirs, for batches that are dicts."""

    def __init__(self, arrays: Sequence[Any], names: Sequence[str] | None = None) -> None:
        if not arrays:
            raise ValueError("no arrays came, where at least one was expected")
        called = [f"argument {i}" for i in range(len(arrays))] if names is None else [repr(name) for name in names]
        self.arrays = tuple([native(array, name) for array, name in zip(arrays, called, strict=True)])
        self.names = None if names is None else tuple(names)
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"the arrays have the lengths {lengths} on axis 0, where equal ones were expected")
        self.length = lengths[0]
        if self.length == 0:
            raise ValueError("the arrays hold no samples: axis 0 has length 0")

    def batch(self, rows: np.ndarray, keys: tuple[str, ...] | None) -> tuple[np.ndarray, ...] | dict[str, np.ndarray]:
        """The samples at some positions, each array's in one fresh array: a dict if they have names and none are asked for."""
        if self.names is None:
            return tuple([taken(array, rows) for array in self.arrays])
        named = dict(zip(self.names, self.arrays, strict=True))
        if keys is None:
            return {name: taken(array, rows) for name, array in named.items()}
        return tuple([taken(named[key], rows) for key in keys])

    def samples(self, rows: np.ndarray) -> list[Sample]:
        """The samples one by one: tuples of their parts, or dicts."""
        parts = [taken(array, rows) for array in self.arrays]
        samples = list(zip(*parts, strict=True))
        return samples if self.names is None else [dict(zip(self.names, s, strict=True)) for s in samples]


class Items:
    """A data set by positions."""

    arrays = ()

    def __init__(self, data: Any) -> None:
        self.data = data
        self.names = tuple(data.columns) if isinstance(data, ColumnTable) else None
        self.length = len(data)
        if self.length == 0:
            raise ValueError(f"the {type(data).__name__} holds no samples: its length is 0")

    def batch(
        self, rows: np.ndarray, keys: tuple[str, ...] | None
    ) -> tuple[np.ndarray, ...] | dict[str, np.ndarray] | None:
        """The columns of a table at some positions; None of what is no table."""
        if not isinstance(self.data, ColumnTable):
            return None
        columns = self.data.read_columns(rows, keys)
        return columns if keys is None else tuple([columns[key] for key in keys])

    def samples(self, rows: np.ndarray) -> list[Sample]:
        """The samples at some positions; an error of the data set has a note that says which of them it was."""
        if hasattr(self.data, "__getitems__"):
            return list(self.data.__getitems__(rows.tolist()))
        samples = []
        for row in rows.tolist():
            try:
                samples.append(self.data[row])
            except Exception as error:
                error.add_note(f"sample {row} of the {type(self.data).__name__}")
                raise
        return samples


class Stream:
    """Samples that can only be read one after another, from the beginning; each pass over them is an epoch.

    `starts` has the steps that epochs begin with, as far as they are known. A stream with `set_epoch`, as those of Hugging
    Face have it, is told the epoch before each pass.
    """

    arrays = ()
    names = None

    def __init__(self, data: Iterable[Sample]) -> None:
        self.data = data
        self.once = iter(data) is data
        self.begun = False
        self.length = len(data) if isinstance(data, Sized) else None
        self.starts = {0: 0}

    def place(self, step: int) -> tuple[int, int]:
        """(epoch, its first step) of the last epoch that is known to begin at a step or before it."""
        return max((epoch, start) for epoch, start in self.starts.items() if start <= step)

    def passes(self, step: int, size: int, drop_last: bool) -> Iterator[Task | None]:
        """The batches from a step on, epoch after epoch, and None at the end of each: what comes before is read and dropped."""
        epoch, at = self.place(step)
        while True:
            began = at
            for first, samples in self.read(epoch, size, drop_last):
                if at >= step:
                    yield Task(at, epoch, samples, first)
                at += 1
            if at == began:
                raise ValueError(
                    f"the {type(self.data).__name__} gave no batch in epoch {epoch}: it holds too few samples"
                )
            epoch += 1
            self.starts[epoch] = at
            if at > step:
                yield None

    def read(self, epoch: int, size: int, drop_last: bool) -> Iterator[tuple[int, list[Sample]]]:
        """One pass: (number of its first sample, samples) of each batch."""
        name = type(self.data).__name__
        source, number = self.opened(epoch), 0
        while True:
            first, samples = number, []
            try:
                for sample in itertools.islice(source, size):
                    samples.append(sample)
                    number += 1
            except Exception as error:
                error.add_note(f"sample {number} of the {name}, in epoch {epoch}")
                raise
            if len(samples) == size or (samples and not drop_last):
                yield first, samples
            if len(samples) < size:
                break
        if self.length is not None and number != self.length:
            raise ValueError(f"the {name} gave {number} samples in epoch {epoch}, where its length is {self.length}")

    def opened(self, epoch: int) -> Iterator[Sample]:
        """The samples from the beginning."""
        if self.once and self.begun:
            raise ValueError(
                f"the {type(self.data).__name__} can be read once, and a pass over it was begun before; pass an object whose "
                "__iter__ begins anew"
            )
        self.begun = True
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        return iter(self.data)


Source = Columns | Items | Stream


@dataclass
class Reading:
    """How far a stream has been read, for who goes on there."""

    step: int
    passes: Iterator[Task | None]

    def tasks(self, count: int | None, one_epoch: bool) -> Iterator[Task]:
        """The next batches: so many, or to the end of the epoch."""
        given = 0
        while count is None or given < count:
            task = next(self.passes)
            if task is not None:
                self.step = task.step + 1
                given += 1
                yield task
            elif one_epoch and given:  # an epoch that ended before its first batch here is another's, left at its end
                return


FIRST_ROW: ContextVar[int] = ContextVar("the place in its batch of the first row that a transform is given", default=0)


def part(count: int, rank: int, world: int) -> slice:
    """The share of a rank in a batch of so many samples; ValueError if not every rank gets one."""
    if count < world:
        raise ValueError(
            f"a batch has {count} samples, too few for {world} processes to have one each; pass drop_last=True"
        )
    return slice(count * rank // world, count * (rank + 1) // world)


def cut(batch: Any, rank: int, world: int) -> Any:
    """The share of a rank in a batch that is made."""
    if isinstance(batch, Mapping):
        return {name: array[part(len(array), rank, world)] for name, array in batch.items()}
    if isinstance(batch, np.ndarray):
        return batch[part(len(batch), rank, world)]
    return tuple([array[part(len(array), rank, world)] for array in batch])


def taken(array: np.ndarray | Samples, rows: np.ndarray) -> np.ndarray:
    """The samples at some positions, a fresh array."""
    return array.take(rows, axis=0) if isinstance(array, np.ndarray) else array.read_samples(rows)


def chosen(sample: Any, key: str) -> Any:
    """One entry of a sample or batch that is a dict; KeyError with those that there are."""
    if not isinstance(sample, Mapping):
        raise TypeError(f"{key!r} was to be taken from a dict, and this is a {type(sample).__name__}")
    if key not in sample:
        raise KeyError(f"there is no {key!r} there, only {', '.join(map(repr, sample))}")
    return sample[key]


def native(array: Any, name: str) -> np.ndarray | Samples:
    """The array, C-contiguous and in the machine's byte order, without a copy where it is so already."""
    if not isinstance(array, np.ndarray):
        if isinstance(array, Samples):
            return array
        if not hasattr(array, "__array__"):
            raise TypeError(
                f"{name} is a {type(array).__name__}, where a NumPy array was expected; a data set of whole samples stands "
                "alone: Loader(dataset, batch_size=...)"
            )
        array = np.asarray(array)
    if array.dtype.hasobject:
        raise TypeError(f"{name} holds Python objects ({array.dtype}), where numbers were expected")
    if array.ndim == 0:
        raise ValueError(f"{name} is a single value, where an array of samples along axis 0 was expected")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def permutation(length: int, seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """The order of `length` samples in an epoch, or in a part of it: a pure function of its arguments, on every machine.

    The samples are sorted by one 64-bit word each of NumPy's Philox4x64 generator with key (seed, epoch). The word's
    lowest bits are replaced by the sample's number, which settles ties and leaves more than 32 random bits. Sorting raw
    words, instead of `Generator.permutation`, makes the order independent of the version of NumPy.

    Returns:
        int64 `(length,)`.
    """
    counter = np.array([0, 0, part, SHUFFLE_STREAM], np.uint64)
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter).random_raw(length)
    bits = np.uint64(length.bit_length())
    keys = (words >> bits << bits) | np.arange(length, dtype=np.uint64)
    keys.sort()
    return (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def source_of(data: tuple[Any, ...]) -> Source:
    """What the batches are taken from, of what a Loader was given."""
    if len(data) == 1:
        (only,) = data
        if isinstance(only, Mapping):
            return Columns(list(only.values()), [str(name) for name in only])
        is_array = isinstance(only, np.ndarray | Samples | str | bytes) or hasattr(only, "__array__")
        if isinstance(only, Dataset) and not is_array and not is_iterable_dataset(only):
            return Items(only)
        if isinstance(only, Iterable) and not is_array:
            return Stream(only)
    return Columns(data)


def is_iterable_dataset(data: object) -> bool:
    """Whether it is PyTorch's, which has a `__getitem__` that only raises an error."""
    torch = sys.modules.get("torch.utils.data")
    return torch is not None and isinstance(data, torch.IterableDataset)


def checked_keys(keys: Sequence[str] | None, source: Source) -> tuple[str, ...] | None:
    """The names of the entries that make a batch; TypeError or ValueError for what can't be."""
    if keys is None:
        return None
    if isinstance(keys, str) or not keys or not all(isinstance(key, str) for key in keys):
        raise TypeError(f"keys must be names of entries, like ('image', 'label'), not {keys!r}")
    if isinstance(source, Columns) and source.names is None:
        raise ValueError(f"keys={tuple(keys)!r} is for samples that are dicts, and these are tuples of arrays")
    unknown = [key for key in keys if key not in source.names] if source.names is not None else []
    if source.names is not None and unknown:
        raise ValueError(f"there is no {', '.join(map(repr, unknown))} in the data, only {', '.join(source.names)}")
    return tuple(keys)
