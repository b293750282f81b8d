"""What the batch of a step is made of: its samples, in a reproducible order, put together and transformed."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from minigrad.checks import integer
from minigrad.data.collate import Batch, Sample, stack
from minigrad.data.sources import (
    FIRST_ROW,
    ColumnTable,
    Items,
    Samples,
    Source,
    Stream,
    Task,
    checked_keys,
    chosen,
    cut,
    part,
    permutation,
)
from minigrad.data.workers import seed_global_generators

SHOWN = 16  # samples that an error lists


class BatchMaker:
    """Makes the batch of any step by itself, or the part that one of several processes has of it.

    The arguments are those of `Loader`, which goes through the steps in turn.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        sample_transform: Callable[[Sample, int, int], Sample] | None,
        keys: Sequence[str] | None,
        collate: Callable[[list[Sample]], Batch] | None,
        transform: Callable[[Batch, int, int], Batch] | None,
        rank: int,
        world: int,
    ) -> None:
        self.source = source
        self.length = source.length
        self.batch_size = integer("batch_size", batch_size, 1)
        if drop_last and self.length is not None and self.batch_size > self.length:
            raise ValueError(
                f"batch_size {self.batch_size} with drop_last leaves no batch of {self.length} samples; "
                f"take at most {self.length}, or drop_last=False"
            )
        self.shuffle = bool(shuffle)
        if self.shuffle and isinstance(source, Stream):
            raise ValueError(
                f"the {type(source.data).__name__} is a stream, which can't be shuffled from here: it has no __getitem__. "
                "Pass shuffle=False, and shuffle it where it is made"
            )
        self.seed = integer("seed", seed, 0, 2**64 - 1)
        self.drop_last = bool(drop_last)
        self.sample_transform = sample_transform
        self.keys = checked_keys(keys, source)
        self.collate = collate
        self.transform = transform
        self.rank, self.world = 0, 1
        self.share(rank, world)
        self._order = (-1, np.empty(0, np.int64))  # the latest epoch and its permutation, set as one for threads' sake

    def share(self, rank: int, world: int) -> None:
        """From now on hand out part `rank` of `world` of each batch; ValueError if a batch has fewer samples than that."""
        world = integer("world", world, 1)
        rank = integer("rank", rank, 0, world - 1)
        rest = 0 if self.drop_last or self.length is None else self.length % self.batch_size
        least = min(self.batch_size, rest or self.batch_size)
        if least < world:
            kind = "the last batch of an epoch has" if rest else "a batch has"
            of = "" if self.length is None else f" of {self.length:,}"
            raise ValueError(
                f"{kind} {least}{of} samples, too few for {world} processes to have one each; take another batch_size, or "
                "drop_last=True"
            )
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        """The number of steps in an epoch; TypeError for a stream without a length."""
        if self.length is None:
            raise TypeError(
                "the Loader has no length, as its stream has none: how many steps an epoch has is seen when it ends; count "
                "by steps"
            )
        whole, rest = divmod(self.length, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    @property
    def arrays(self) -> tuple[np.ndarray | Samples, ...]:
        """The arrays that the batches are taken from; none of a data set."""
        return self.source.arrays

    def _make(self, task: Task) -> Batch:
        """The batch of a task: read, collated, transformed. Errors have a note that says which step it was for."""
        try:
            if self.transform is None:
                return self._collated(task, self.rank, self.world)
            if self.world > 1 and getattr(self.transform, "by_rows", False):
                return self._transformed_part(task, self.transform)
            batch = self.transform(self._collated(task), task.epoch, task.step)
            return batch if self.world == 1 else cut(batch, self.rank, self.world)
        except Exception as error:
            error.add_note(f"while the Loader made the batch of step {task.step}, in epoch {task.epoch}")
            raise

    def _transformed_part(self, task: Task, transform: Callable[[Batch, int, int], Batch]) -> Batch:
        """This rank's part of a batch, transformed by itself into what it would be in the whole."""
        if task.samples is not None:
            count = len(task.samples)
        else:
            assert self.length is not None
            count = min(self.batch_size, self.length - task.step % len(self) * self.batch_size)
        before = FIRST_ROW.set(part(count, self.rank, self.world).start)
        try:
            return transform(self._collated(task, self.rank, self.world), task.epoch, task.step)
        finally:
            FIRST_ROW.reset(before)

    def _collated(self, task: Task, rank: int = 0, world: int = 1) -> Batch:
        """The samples of a task in one batch, or the part of one rank."""
        if task.samples is not None:
            own = part(len(task.samples), rank, world)
            numbers = range(task.first, task.first + len(task.samples))[own]
            return self._stacked(task.samples[own], list(numbers), task.epoch)
        assert self.length is not None
        assert not isinstance(self.source, Stream)
        start = task.step % len(self) * self.batch_size
        stop = min(start + self.batch_size, self.length)
        rows = self._rows(task.epoch, start, stop) if self.shuffle else np.arange(start, stop)
        rows = rows[part(len(rows), rank, world)]
        if self.sample_transform is None and self.collate is None:
            batch = self.source.batch(rows, self.keys)
            if batch is not None:
                return batch
        return self._stacked(self.source.samples(rows), rows.tolist(), task.epoch)

    def _stacked(self, samples: list[Sample], numbers: list[int], epoch: int) -> Batch:
        """These samples in one batch."""
        if self.sample_transform is not None or self.keys is not None:
            samples = [self._prepared(*each, epoch) for each in zip(samples, numbers, strict=True)]
        try:
            return (self.collate or stack)(samples)
        except Exception as error:
            listed = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
            error.add_note(f"the batch is of the samples {listed}")
            raise

    def _prepared(self, sample: Sample, number: int, epoch: int) -> Sample:
        """One sample on its way to `collate`."""
        try:
            if self.sample_transform is not None:
                sample = self.sample_transform(sample, epoch, number)
            return sample if self.keys is None else tuple([chosen(sample, key) for key in self.keys])
        except Exception as error:
            error.add_note(f"sample {number}")
            raise

    def _make_alone(self, task: Task) -> Batch:
        """The same batch in a process of its own, whose global generators of random numbers are ours to seed."""
        # other numbers in each rank where it makes its own part alone; a batch that is cut afterwards is the same in all
        apart = self.transform is None or getattr(self.transform, "by_rows", False)
        seed_global_generators(self.seed, task.step, self.rank if apart else 0)
        return self._make(task)

    def _table(self) -> ColumnTable | None:
        """The table the samples are of, which has an order of its own when they are shuffled."""
        return (
            self.source.data if isinstance(self.source, Items) and isinstance(self.source.data, ColumnTable) else None
        )

    def _rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The positions of the samples `start` to `stop` of a shuffled epoch."""
        if (table := self._table()) is not None:
            return table.shuffled(self.seed, epoch, start, stop)
        latest, rows = self._order
        if latest != epoch:
            rows = permutation(cast(int, self.length), self.seed, epoch)
            self._order = (epoch, rows)
        return rows[start:stop]
